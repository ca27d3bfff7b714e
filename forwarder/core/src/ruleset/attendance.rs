//! The table of a forwarder that runs. It belongs to its owner (`flags owner`): when that ends, however it does, the kernel takes
//! it away. Without its mark the guard lets nothing through, where the policy says that nothing is to pass unattended.

use super::FAMILY;
use crate::meter::MARK;

/// The bit of a packet's mark that says that a forwarder is running.
pub const ATTENDED: u32 = 0x2000_0000;

const _: () = assert!(ATTENDED & MARK == 0);

/// The command that makes the table, in one line; it is called `name`. The mark is there while the guard looks, and neither for
/// routing before that nor for anybody behind it.
#[must_use]
pub fn command(name: &str) -> String {
    let others = !ATTENDED;
    format!(
        "table {FAMILY} {name} {{ flags owner; \
         chain forward {{ type filter hook forward priority filter - 12; policy accept; \
         meta mark set meta mark | {ATTENDED:#010x}; }}; \
         chain postrouting {{ type filter hook postrouting priority filter - 12; policy accept; \
         meta mark & {ATTENDED:#010x} != 0 meta mark set meta mark & {others:#010x}; }}; }}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_set_before_the_guard_looks_and_taken_off_behind_it() {
        let command = command("cloakway_attended_7");
        assert!(command.starts_with("table inet cloakway_attended_7 { flags owner; chain forward {"), "{command}");
        assert!(!command.contains('\n') && !command.contains("drop"), "{command}");
        assert_eq!(command.matches('{').count(), command.matches('}').count(), "{command}");
        assert!(
            command.contains("set meta mark | 0x20000000;") && command.contains("set meta mark & 0xdfffffff;"),
            "{command}"
        );
    }
}
