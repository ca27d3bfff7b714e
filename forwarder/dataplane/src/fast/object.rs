//! The compiled program: loaded with what it has to know, and put at interfaces.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, DevMapHash, HashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use forwarder_core::Service;
use forwarder_core::fast::{Hook, MAX_SERVICES, Port, Private, Role, Table, Tunnel, Whole};
use forwarder_core::meter::Limit;
use ipnet::IpNet;

use super::accounts::{ACCOUNTS, LIMIT, Sizes, encoded_limit, slots, v6_bits};
use super::{FastPathError, Place, refused};

/// What clang made of `bpf/fast_path.c`; nothing when there was none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fast_path.o"));

pub(super) fn is_built_in() -> bool {
    !OBJECT.is_empty()
}

/// `NEAR_PORTS` in `maps.h`.
const NEAR_PORTS: u32 = 256;

/// `struct port`, `struct tunnel`, `struct end_of_tunnel`.
const PORT: usize = 24;
const TUNNEL: usize = 64;
const END: usize = 48;
/// As the program has them.
const MARKED: u32 = 0x100;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// How often more it is tried to load a program.
const LOADS: u32 = 10;

/// A program in the kernel, not yet at any interface.
#[derive(Debug)]
pub(super) struct Object {
    ebpf: Ebpf,
    /// The one for tcx: the fast path, or the meter behind XDP's.
    tcx: &'static str,
}

impl Object {
    /// Loads the program of `generation` with `table` in its maps; shared ones come from, or go to, `directory`.
    pub(super) fn load(table: &Table, hook: Hook, generation: u64, directory: &Path) -> Result<Self, FastPathError> {
        Self::load_with(table, hook, generation, directory, 0)
    }

    /// With a clock that is told the time, when `time_is_told` is not 0: for tests.
    pub(super) fn load_with(
        table: &Table,
        hook: Hook,
        generation: u64,
        directory: &Path,
        time_is_told: u32,
    ) -> Result<Self, FastPathError> {
        let (private4, private6): (Vec<_>, Vec<_>) =
            table.private.iter().copied().partition(|(prefix, _)| prefix.addr().is_ipv4());
        let (subscribers4, subscribers6): (Vec<_>, Vec<_>) =
            table.subscribers.iter().copied().partition(|(prefix, _)| prefix.addr().is_ipv4());
        let size = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX).max(1);
        let sizes = table.metered.as_ref().map(Sizes::of).unwrap_or_default();
        let ways = table.metered.as_ref().map_or(0_u32, |metered| if metered.answers { 3 } else { 1 });
        let [v6_high, v6_low] = v6_bits(table.metered.as_ref().map_or(64, |metered| metered.v6_source));
        let tunnels: Vec<_> = table.tunnels().filter(|_| hook == Hook::Xdp).collect();
        let of_source = encoded_limit(&table.metered.as_ref().map_or_else(Limit::default, |metered| metered.source), 0);
        let limits_prefixes = u32::from(table.metered.as_ref().is_some_and(|metered| !metered.prefixes.is_empty()));
        let [clamps_mss, leased] = [table.clamps_mss, table.leased].map(u32::from);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("generation", &generation, true)
            .override_global("clamps_mss", &clamps_mss, true)
            .override_global("leased", &leased, true)
            .override_global("metered", &ways, true)
            .override_global("of_source", &of_source, true)
            .override_global("limits_prefixes", &limits_prefixes, true)
            .override_global("v6_high", &v6_high, true)
            .override_global("v6_low", &v6_low, true)
            .override_global("time_is_told", &time_is_told, true)
            .default_map_pin_directory(directory)
            .map_max_entries("private4", size(private4.len()))
            .map_max_entries("private6", size(private6.len()))
            .map_max_entries("subscribers4", size(subscribers4.len()))
            .map_max_entries("subscribers6", size(subscribers6.len()))
            // Entry 0 is no list.
            .map_max_entries("services", size(table.services.len() + 1))
            .map_max_entries("limits", sizes.limits)
            .map_max_entries("sources", sizes.sources)
            .map_max_entries("tunnels", size(tunnels.len() + 1))
            .map_max_entries("outers", size(tunnels.len() + 1))
            .map_max_entries("prefixes", sizes.prefixes)
            .map_max_entries("slots", sizes.prefixes);
        if table.metered.is_some() {
            for name in ACCOUNTS {
                loader.map_pin_path(name, directory.join(sizes.pin(name)));
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(refused("load the program"))?;
        if let Some(metered) = &table.metered {
            let slots = slots(&mut ebpf, metered)?;
            let mut limits: Array<_, [u8; LIMIT]> = map(&mut ebpf, "limits")?;
            for (index, ((_, limit), slot)) in (1..).zip(metered.prefixes.iter().zip(slots)) {
                limits.set(index, encoded_limit(limit, slot), 0).map_err(refused("fill limits"))?;
            }
        }
        {
            let mut ports: HashMap<_, u32, [u8; PORT]> = map(&mut ebpf, "ports")?;
            for (index, port) in &table.ports {
                ports.insert(index, encoded_port(*index, port, &tunnels), 0).map_err(refused("fill ports"))?;
            }
        }
        {
            let mut near: Array<_, [u8; PORT]> = map(&mut ebpf, "near_ports")?;
            for (index, port) in table.ports.iter().rev() {
                let value = encoded_port(*index, port, &tunnels);
                near.set(index % NEAR_PORTS, value, 0).map_err(refused("fill near_ports"))?;
            }
        }
        fill_tunnels(&mut ebpf, &tunnels)?;
        {
            let mut devices: DevMapHash<_> = map(&mut ebpf, "devices")?;
            for (index, _) in table.devices() {
                devices.insert(index, index, None, 0).map_err(refused("fill devices"))?;
            }
        }
        {
            let mut services: Array<_, [u8; 4 + 8 * MAX_SERVICES]> = map(&mut ebpf, "services")?;
            for (index, list) in (1..).zip(&table.services) {
                services.set(index, encoded_services(list), 0).map_err(refused("fill services"))?;
            }
        }
        fill4(&mut ebpf, "private4", private4.iter().map(|(prefix, entry)| (*prefix, encoded_private(entry))))?;
        fill6(&mut ebpf, "private6", private6.iter().map(|(prefix, entry)| (*prefix, encoded_private(entry))))?;
        fill4(&mut ebpf, "subscribers4", subscribers4.iter().map(|(prefix, is)| (*prefix, u32::from(*is))))?;
        fill6(&mut ebpf, "subscribers6", subscribers6.iter().map(|(prefix, is)| (*prefix, u32::from(*is))))?;
        let mut object = Self { ebpf, tcx: if hook == Hook::Tcx { "fast_path_tcx" } else { "meter_tcx" } };
        if hook == Hook::Xdp {
            let program = object.xdp()?;
            patiently(|| program.load()).map_err(refused("load the program for xdp"))?;
        }
        if !tunnels.is_empty() {
            let program = object.carrier()?;
            patiently(|| program.load()).map_err(refused("load the program for what carries tunnels"))?;
        }
        if hook == Hook::Tcx || table.metered.is_some() {
            let program = object.tcx()?;
            patiently(|| program.load()).map_err(refused("load the program for tcx"))?;
        }
        if table.metered.is_some() {
            let program = object.sweep()?;
            patiently(|| program.load()).map_err(refused("load the program that sweeps"))?;
        }
        Ok(object)
    }

    /// Puts the program for a place there: instead of the one whose link is pinned at `pin`, or anew.
    pub(super) fn attach(&mut self, place: Place, pin: &Path) -> Result<(), FastPathError> {
        let Place { hook, index, carries } = place;
        let what = || format!("attach to interface {index}");
        let found = pin.exists().then(|| PinnedLink::from_pin(pin)).transpose().map_err(refused(what()))?;
        let link: FdLink = match hook {
            Hook::Xdp => {
                let program = if carries { self.carrier()? } else { self.xdp()? };
                if let Some(found) = found {
                    let link = FdLink::from(found).try_into().map_err(refused(what()))?;
                    program.attach_to_link(link).map_err(refused(what()))?;
                    return Ok(());
                }
                let id = program.attach_to_if_index(index, XdpMode::Driver).map_err(refused(what()))?;
                program.take_link(id).map_err(refused(what()))?.try_into().map_err(refused(what()))?
            }
            Hook::Tcx => {
                let program = self.tcx()?;
                if let Some(found) = found {
                    let link = SchedClassifierLink::try_from(FdLink::from(found)).map_err(refused(what()))?;
                    program.attach_to_link(link).map_err(refused(what()))?;
                    return Ok(());
                }
                let name = nix::net::if_::if_indextoname(index).map_err(refused(what()))?;
                let name = name.to_string_lossy();
                let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                let id = program.attach_with_options(&name, TcAttachType::Ingress, order).map_err(refused(what()))?;
                program.take_link(id).map_err(refused(what()))?.try_into().map_err(refused(what()))?
            }
        };
        link.pin(pin).map_err(refused(what()))?;
        Ok(())
    }

    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, FastPathError> {
        self.program("fast_path_xdp")?.try_into().map_err(refused("fast_path_xdp"))
    }

    pub(super) fn carrier(&mut self) -> Result<&mut Xdp, FastPathError> {
        self.program("carrier_xdp")?.try_into().map_err(refused("carrier_xdp"))
    }

    pub(super) fn tcx(&mut self) -> Result<&mut SchedClassifier, FastPathError> {
        let name = self.tcx;
        self.program(name)?.try_into().map_err(refused(name))
    }

    pub(super) fn sweep(&mut self) -> Result<&mut SchedClassifier, FastPathError> {
        self.program("sweep")?.try_into().map_err(refused("sweep"))
    }

    /// The clock of the program, as it was when something was swept last.
    pub(super) fn clock(&mut self) -> Result<Array<&mut MapData, u64>, FastPathError> {
        map(&mut self.ebpf, "told_time")
    }

    fn program(&mut self, name: &str) -> Result<&mut Program, FastPathError> {
        self.ebpf.program_mut(name).ok_or_else(|| absent(name))
    }
}

/// The verifier gives up with EAGAIN when a signal comes for the thread meanwhile.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let mut left = LOADS;
    loop {
        match load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock && left > 0 => {
                left -= 1;
            }
            done => return done,
        }
    }
}

pub(super) fn absent(name: &str) -> FastPathError {
    FastPathError::Refused { what: name.to_owned(), why: "not in the object".to_owned() }
}

pub(super) fn map<'a, M>(ebpf: &'a mut Ebpf, name: &str) -> Result<M, FastPathError>
where
    M: TryFrom<&'a mut Map>,
    M::Error: std::error::Error,
{
    ebpf.map_mut(name).ok_or_else(|| absent(name))?.try_into().map_err(refused(name))
}

fn fill4<V: Pod>(ebpf: &mut Ebpf, name: &str, entries: impl Iterator<Item = (IpNet, V)>) -> Result<(), FastPathError> {
    let mut trie: LpmTrie<_, [u8; 4], V> = map(ebpf, name)?;
    for (prefix, value) in entries {
        let IpAddr::V4(address) = prefix.network() else { continue };
        let key = Key::new(u32::from(prefix.prefix_len()), address.octets());
        trie.insert(&key, value, 0).map_err(refused(format!("fill {name}")))?;
    }
    Ok(())
}

fn fill6<V: Pod>(ebpf: &mut Ebpf, name: &str, entries: impl Iterator<Item = (IpNet, V)>) -> Result<(), FastPathError> {
    let mut trie: LpmTrie<_, [u8; 16], V> = map(ebpf, name)?;
    for (prefix, value) in entries {
        let IpAddr::V6(address) = prefix.network() else { continue };
        let key = Key::new(u32::from(prefix.prefix_len()), address.octets());
        trie.insert(&key, value, 0).map_err(refused(format!("fill {name}")))?;
    }
    Ok(())
}

/// `struct port`, with the number of its tunnel.
fn encoded_port(index: u32, port: &Port, tunnels: &[(u32, &Tunnel)]) -> [u8; PORT] {
    let role: u32 = match port.role {
        Role::Subscribers => 1,
        Role::Link => 2,
    };
    let tunnel = (1_u16..).zip(tunnels).find(|(_, (device, _))| *device == index).map_or(0, |(number, _)| number);
    let parts = port.bit.to_ne_bytes().into_iter().chain(role.to_ne_bytes());
    encoded(parts.chain(index.to_ne_bytes()).chain(port.mac).chain(tunnel.to_ne_bytes()))
}

fn encoded<const LENGTH: usize>(parts: impl Iterator<Item = u8>) -> [u8; LENGTH] {
    let mut value = [0; LENGTH];
    value.iter_mut().zip(parts).for_each(|(octet, part)| *octet = part);
    value
}

/// Both ends of each tunnel, by which what comes in is told, and how frames leave by it.
fn fill_tunnels(ebpf: &mut Ebpf, tunnels: &[(u32, &Tunnel)]) -> Result<(), FastPathError> {
    for (number, (device, tunnel)) in (1_u32..).zip(tunnels) {
        let mut map_of: Array<_, [u8; TUNNEL]> = map(ebpf, "tunnels")?;
        map_of.set(number, encoded_tunnel(*device, tunnel), 0).map_err(refused("fill tunnels"))?;
        if tunnel.is_up {
            let mut ends: HashMap<_, [u8; END], u32> = map(ebpf, "ends")?;
            ends.insert(encoded_end(tunnel), number, 0).map_err(refused("fill ends"))?;
        }
    }
    Ok(())
}

/// An address as it stands in its header, and zeros.
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => encoded(v4.octets().into_iter()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `struct tunnel`.
fn encoded_tunnel(device: u32, tunnel: &Tunnel) -> [u8; TUNNEL] {
    let family: u16 = if tunnel.remote.is_ipv4() { AF_INET } else { AF_INET6 };
    let whole = match tunnel.whole {
        Whole::No => 0,
        Whole::Yes => 1,
        Whole::Inherited => 2,
    };
    let [checksum, takes_unsummed] = [tunnel.checksum, tunnel.takes_unsummed].map(u8::from);
    let parts = sixteen(tunnel.local).into_iter().chain(sixteen(tunnel.remote));
    let parts = parts.chain(device.to_ne_bytes()).chain(tunnel.underlay.index.to_ne_bytes());
    let parts = parts.chain((tunnel.vni << 8).to_be_bytes()).chain(tunnel.port.to_be_bytes());
    let parts = parts.chain([tunnel.sources.start, tunnel.sources.end, family].into_iter().flat_map(u16::to_ne_bytes));
    let parts = parts.chain([tunnel.hops, tunnel.tos, whole, checksum, takes_unsummed, 0]);
    encoded(parts.chain(tunnel.underlay.mac))
}

/// `struct end_of_tunnel`.
fn encoded_end(tunnel: &Tunnel) -> [u8; END] {
    let parts = sixteen(tunnel.local).into_iter().chain(sixteen(tunnel.remote));
    let parts = parts.chain(tunnel.underlay.index.to_ne_bytes()).chain((tunnel.vni << 8).to_be_bytes());
    // The port is a number there, of which it has the first octets in either order.
    encoded(parts.chain(u32::from(tunnel.port.to_be()).to_ne_bytes()))
}

/// `struct private_prefix`.
fn encoded_private(entry: &Private) -> [u8; 24] {
    let mut value = [0; 24];
    let parts = entry.links.to_ne_bytes().into_iter().chain(entry.services.to_ne_bytes());
    let parts = parts.chain(u32::from(entry.spread).to_ne_bytes()).chain(entry.limit.to_ne_bytes());
    let parts = parts.chain(entry.dscp.map_or(0, |dscp| MARKED | u32::from(dscp) << 2).to_ne_bytes());
    value.iter_mut().zip(parts).for_each(|(octet, part)| *octet = part);
    value
}

/// `struct services`.
fn encoded_services(list: &[Service]) -> [u8; 4 + 8 * MAX_SERVICES] {
    let mut value = [0; 4 + 8 * MAX_SERVICES];
    let count = u32::try_from(list.len()).unwrap_or_default().to_ne_bytes();
    let services = list.iter().flat_map(|service| {
        let (low, high) = service.ports.as_ref().map_or((0, 0), |ports| (*ports.start(), *ports.end()));
        let ([a, b], [c, d]) = (low.to_ne_bytes(), high.to_ne_bytes());
        [service.protocol, u8::from(service.ports.is_none()), a, b, c, d, 0, 0]
    });
    value.iter_mut().zip(count.into_iter().chain(services)).for_each(|(octet, part)| *octet = part);
    value
}
