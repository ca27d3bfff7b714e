//! Gives libFuzzer `cloakway_fuzz::forwarder_netlink`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::forwarder_netlink(bytes));
