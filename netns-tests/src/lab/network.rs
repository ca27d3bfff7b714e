//! Making the hosts and cables of a laboratory.

use anyhow::{Context, Result};

use super::{BOUND, Lab};
use crate::command;
use crate::netns::Netns;
use crate::topology::{End, Link};

impl Lab {
    pub(super) fn make_network(&self, told: &mut dyn FnMut(&str)) -> Result<()> {
        for host in &self.topology.namespaces {
            told(&format!("namespace {}{}: {}", self.prefix, host.name, host.role));
            let netns = self.netns(&host.name);
            netns.create()?;
            // Duplicate address detection would hold every IPv6 address back for a second.
            let mut settings = vec!["net.ipv6.conf.all.accept_dad=0".to_owned()];
            settings.push("net.ipv6.conf.default.accept_dad=0".to_owned());
            settings.extend(host.sysctls.iter().map(|(key, value)| format!("{key}={value}")));
            command::must(netns.command("sysctl").arg("-q").args(["-w"]).args(settings), BOUND)?;
            if let Some(firewall) = &host.firewall {
                let file = self.topology.folder.join(firewall);
                command::must(netns.command("nft").arg("-f").arg(&file), BOUND)
                    .with_context(|| format!("firewall {}", file.display()))?;
            }
            let mut lines = vec!["link set lo up".to_owned()];
            lines.extend(host.loopback.iter().map(|address| format!("address add {address} dev lo")));
            netns.ip(&lines)?;
        }
        for link in &self.topology.links {
            self.make_link(link).with_context(|| format!("link {}", link.name))?;
        }
        for host in &self.topology.namespaces {
            let lines: Vec<String> = host.routes.iter().map(|route| format!("route add {route}")).collect();
            self.netns(&host.name).ip(&lines).with_context(|| format!("routes of {}", host.name))?;
        }
        Ok(())
    }

    fn make_link(&self, link: &Link) -> Result<()> {
        let (a, b) = (self.netns(&link.a.namespace), self.netns(&link.b.namespace));
        a.ip(&[format!("link add {} type veth peer name {} netns {}", link.a.interface, link.b.interface, b.name())])?;
        for (netns, end) in [(&a, &link.a), (&b, &link.b)] {
            self.set_up_end(netns, end, link.offloads)?;
        }
        Ok(())
    }

    fn set_up_end(&self, netns: &Netns, end: &End, offloads: bool) -> Result<()> {
        let interface = &end.interface;
        if !end.kernel_address {
            let no_ipv6 = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
            command::must(netns.command("sysctl").args(["-q", "-w", &no_ipv6]), BOUND)?;
            netns.ip(&[format!("link set {interface} arp off")])?;
        }
        if !offloads {
            let features = ["tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"];
            command::must(netns.command("ethtool").args(["-K", interface]).args(features), BOUND)?;
        }
        let mut lines: Vec<String> = Vec::new();
        for address in &end.addresses {
            let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
            lines.push(format!("address add {address} dev {interface}{nodad}"));
        }
        lines.push(format!("link set {interface} up"));
        netns.ip(&lines)
    }
}
