//! The kernel settings that the policy wants, as files below `/proc/sys/net`.

use std::time::Duration;

use crate::policy::Policy;

/// How often the kernel asks a neighbour within one probe before it calls it failed.
pub const TRIES_PER_PROBE: u32 = 3;

/// One wanted kernel setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file, below `/proc/sys/net`.
    pub file: String,
    /// What it must hold.
    pub value: String,
}

impl Policy {
    /// The settings of this host and of each private link. One probe, all its tries included, must be
    /// over when the next one begins `probe_interval` later.
    #[must_use]
    pub fn settings(&self, probe_interval: Duration) -> Vec<Setting> {
        let retry_ms = (probe_interval * 9 / (10 * TRIES_PER_PROBE)).as_millis();
        let mut settings = Vec::new();
        let mut set = |file: String, value: String| settings.push(Setting { file, value });
        for (family, v4, forwarding) in [("ipv4", true, "ip_forward"), ("ipv6", false, "conf/all/forwarding")] {
            if !self.prefixes().iter().any(|entry| entry.prefix.addr().is_ipv4() == v4) {
                continue;
            }
            set(format!("{family}/{forwarding}"), "1".into());
            for link in self.links() {
                let alone = self
                    .link_of(&link.interface)
                    .is_none_or(|id| !self.prefixes().iter().any(|entry| entry.ways.len() > 1 && entry.is_behind(id)));
                let conf = format!("{family}/conf/{}", link.interface);
                set(format!("{conf}/accept_redirects"), "0".into());
                set(format!("{conf}/accept_source_route"), "0".into());
                if !alone {
                    // The next link takes over with the carrier, whether or not this process lives. Below the last one
                    // is the blackhole.
                    set(format!("{conf}/ignore_routes_with_linkdown"), "1".into());
                }
                if v4 {
                    // Behind a private link is nothing but its prefixes, so the strict test of RFC 3704 fits: a
                    // forged source is stopped even while the guard is being put back. Not where a prefix has another
                    // link, by which its answers may come.
                    set(format!("{conf}/rp_filter"), if alone { "1" } else { "2" }.into());
                    set(format!("{conf}/send_redirects"), "0".into());
                    // Not for the host's other addresses, which the private side has no business with.
                    set(format!("{conf}/arp_ignore"), "1".into());
                } else {
                    set(format!("{conf}/accept_ra"), "0".into());
                    // Without it the link's addresses are gone after it was set down and up.
                    set(format!("{conf}/keep_addr_on_down"), "1".into());
                }
                let neighbour = format!("{family}/neigh/{}", link.interface);
                set(format!("{neighbour}/retrans_time_ms"), retry_ms.to_string());
                set(format!("{neighbour}/ucast_solicit"), TRIES_PER_PROBE.to_string());
                set(format!("{neighbour}/mcast_solicit"), TRIES_PER_PROBE.to_string());
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;

    #[test]
    fn both_families_are_set_and_a_probe_ends_before_the_next_one() {
        let settings = Policy::new(example()).unwrap().settings(Duration::from_millis(500));
        let value = |file: &str| settings.iter().find(|setting| setting.file == file).map(|s| s.value.as_str());
        assert_eq!(value("ipv4/ip_forward"), Some("1"));
        assert_eq!(value("ipv6/conf/all/forwarding"), Some("1"));
        assert_eq!(value("ipv4/conf/priv0/rp_filter"), Some("1"));
        assert_eq!(value("ipv6/neigh/priv0/retrans_time_ms"), Some("150"));
    }

    #[test]
    fn a_link_of_a_prefix_that_has_another_is_tested_loosely_and_left_with_its_carrier() {
        let mut spec = example();
        for (name, interface) in [("spare", "priv1"), ("lone", "priv2")] {
            spec.links.push(crate::SpecLink { name: name.into(), interface: interface.into() });
        }
        spec.prefixes[0].links.push("spare".into());
        let settings = Policy::new(spec).unwrap().settings(Duration::from_millis(500));
        let value = |file: &str| settings.iter().find(|setting| setting.file == file).map(|s| s.value.as_str());
        for (interface, filter, linkdown) in
            [("priv0", "2", Some("1")), ("priv1", "2", Some("1")), ("priv2", "1", None)]
        {
            assert_eq!(value(&format!("ipv4/conf/{interface}/rp_filter")), Some(filter));
            assert_eq!(value(&format!("ipv6/conf/{interface}/ignore_routes_with_linkdown")), linkdown);
        }
    }

    #[test]
    fn a_family_without_private_prefixes_is_left_alone() {
        let mut spec = example();
        spec.prefixes.truncate(1);
        let settings = Policy::new(spec).unwrap().settings(Duration::from_millis(500));
        assert!(settings.iter().all(|setting| setting.file.starts_with("ipv4/")));
    }
}
