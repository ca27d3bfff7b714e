//! scratch
use std::time::Duration;
use cloakway_types::Instant;
use smoltcp::phy::{RawSocket, Medium, Device, RxToken, TxToken};
use transact_cloak::*;
fn main() {
    let mut dev = RawSocket::new("priv0", Medium::Ethernet).unwrap();
    let cfg = CloakConfig { hardware_address: [2,0,0,0,0,0xc1], addresses: vec!["203.0.113.200".parse().unwrap(), "2001:db8:c10a::200".parse().unwrap()], port: 443,
        gateway_v4: Some("192.0.2.249".parse().unwrap()), gateway_v6: Some("2001:db8:0:ff::1".parse().unwrap()),
        members: vec![("198.51.100.0/24".parse().unwrap(), "isp".parse().unwrap()), ("2001:db8:5100::/48".parse().unwrap(), "isp".parse().unwrap())], mtu: 1500, limits: Limits::default() };
    let mut c = Cloak::new(cfg, Box::new(cloakway_crypto::System)).unwrap();
    let cs = if std::env::args().nth(1).as_deref() == Some("offload") { Checksum::Offloaded } else { Checksum::OnWire };
    let t0 = std::time::Instant::now();
    let mut pend: std::collections::BTreeMap<ConnectionId, Vec<u8>> = Default::default();
    while t0.elapsed() < Duration::from_secs(12) {
        let now = Instant::after_origin(t0.elapsed());
        for _ in 0..64 {
            let Some((rx, _)) = dev.receive(smoltcp::time::Instant::now()) else { break };
            rx.consume(|f| c.handle_frame(f, cs, now));
        }
        while let Some((id, p)) = c.accept() { eprintln!("accepted {id} {p:?}"); pend.insert(id, vec![]); }
        for (id, q) in &mut pend {
            let mut b = [0; 4096];
            if q.len() < 8192 { match c.read(*id, &mut b) { Ok(Read::Data(n)) => q.extend(&b[..n]), Ok(Read::Eof) if q.is_empty() => { c.close(*id, now); } _ => {} } }
            if let Ok(n) = c.write(*id, q) { q.drain(..n); }
        }
        c.poll(now);
        while let Some(f) = c.poll_transmit() { let tx = dev.transmit(smoltcp::time::Instant::now()).unwrap(); tx.consume(f.len(), |b| b.copy_from_slice(&f)); }
        std::thread::sleep(Duration::from_micros(200));
    }
    for (n, v) in c.counters().iter().filter(|(_, v)| *v > 0) { println!("{n} {v}"); }
    println!("connections {}", c.connections());
}
