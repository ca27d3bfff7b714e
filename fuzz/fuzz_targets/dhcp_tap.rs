//! Gives libFuzzer `cloakway_fuzz::dhcp_tap`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::dhcp_tap(bytes));
