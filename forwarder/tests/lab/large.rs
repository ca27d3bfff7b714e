//! A large policy, and every limit that there is.

/// Private prefixes, from 10.128.0.0.
pub(crate) const PRIVATE: u32 = 2000;
pub(crate) const FIRST_PRIVATE: u32 = 0x0a80_0000;

/// Subscriber prefixes, from 100.64.0.0.
pub(crate) const SUBSCRIBERS: u32 = 32_000;
pub(crate) const FIRST_SUBSCRIBER: u32 = 0x6440_0000;

/// None of them is met.
pub(crate) const LIMITS: &str = "[limits]
sources = 262144
[limits.per-source]
packets-per-second = 100000000
bytes-per-second = 4000000000
quota-bytes = 1000000000000000
quota-period-s = 86400
[limits.per-prefix]
packets-per-second = 100000000
bytes-per-second = 4000000000
quota-bytes = 1000000000000000
quota-period-s = 86400
";
