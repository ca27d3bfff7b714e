//! Whether everything that was said over BGP in a capture is clean in other readers: tshark, tcpdump and bgpkit-parser.
//!
//! A capture begins before its sessions: each connection is read from its first octet on, and its first message is an
//! OPEN.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bgp_wire::{AddPath, Capability, Context, Families, Framer, Message, MpReach, MpUnreach, Update};
use bgpkit_parser::models::{AsnLength, AttributeValue, BgpMessage};
use bgpkit_parser::parser::bgp::parse_bgp_message;

use crate::capture::{self, Packet};
use crate::command;

const PORT: u16 = 179;
const BOUND: Duration = Duration::from_secs(60);

/// What was found, and found clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audit {
    /// TCP connections on which something was said.
    pub connections: usize,
    /// OPEN messages.
    pub opens: usize,
    /// All messages.
    pub messages: usize,
    /// Prefixes that came or went.
    pub prefixes: usize,
}

/// Holds the capture at `path` against tshark, tcpdump and bgpkit-parser.
///
/// # Errors
/// When one of them finds something wrong, or reads other prefixes than we do; or when they cannot be run.
pub fn audit(path: &Path) -> Result<Audit> {
    let packets = capture::read(path)?;
    let connections = connections(&packets)?;
    let audit = read_by_bgpkit(&connections)?;
    tshark_finds_nothing(path)?;
    tcpdump_finds_nothing(path, &packets, &connections)?;
    Ok(audit)
}

/// What was said on one TCP connection.
#[derive(Debug)]
pub struct Conversation {
    opener: IpAddr,
    listener: IpAddr,
    said: Vec<(IpAddr, Message)>,
}

impl Conversation {
    /// Who opened the connection.
    #[must_use]
    pub fn opener(&self) -> IpAddr {
        self.opener
    }

    /// Whether these two addresses are its ends.
    #[must_use]
    pub fn is_between(&self, one: &str, other: &str) -> bool {
        let is = |address: IpAddr, text: &str| text.parse() == Ok(address);
        let way = |from: &str, to: &str| is(self.opener, from) && is(self.listener, to);
        way(one, other) || way(other, one)
    }

    /// What this end said, in its order.
    pub fn said_by<'a>(&'a self, who: &str) -> impl Iterator<Item = &'a Message> + use<'a> {
        let who: Option<IpAddr> = who.parse().ok();
        self.said.iter().filter(move |(sender, _)| Some(*sender) == who).map(|(_, message)| message)
    }
}

/// Everything that was said in the capture at `path`, connection by connection. The capture may still be growing.
///
/// # Errors
/// When it cannot be read, or a message in it cannot.
pub fn conversations(path: &Path) -> Result<Vec<Conversation>> {
    let connections = connections(&capture::read(path)?)?;
    connections.iter().filter_map(|streams| conversation(streams).transpose()).collect()
}

fn conversation(streams: &Streams) -> Result<Option<Conversation>> {
    let Some(((opener, _), (listener, _))) = streams.iter().find(|(_, stream)| stream.opens).map(|(key, _)| *key)
    else {
        return Ok(None);
    };
    let mut said = Vec::new();
    for ((from, to), stream) in streams {
        let context = context(stream, streams.get(&(*to, *from)))?;
        for message in &stream.messages {
            let message =
                Message::decode(message, context).with_context(|| format!("from {}: {}", from.0, hex(message)));
            said.push((from.0, message?));
        }
    }
    Ok(Some(Conversation { opener, listener, said }))
}

/// One end of a connection.
type End = (IpAddr, u16);

/// What one end sent.
#[derive(Debug, Default)]
struct Stream {
    /// Whether it began the connection.
    opens: bool,
    /// The sequence number of its first octet.
    start: Option<u32>,
    /// Segments by their distance from the start.
    segments: BTreeMap<u32, Vec<u8>>,
    messages: Vec<Vec<u8>>,
    /// Where messages end, as distances from the start.
    ends: BTreeSet<u32>,
}

/// Two streams, by who sends to whom.
type Streams = BTreeMap<(End, End), Stream>;
/// A connection that follows on the same ports is another one.
type Connections = Vec<Streams>;

fn connections(packets: &[Packet]) -> Result<Connections> {
    let mut current: BTreeMap<(End, End), usize> = BTreeMap::new();
    let mut all: Connections = Vec::new();
    for segment in packets.iter().filter_map(segment) {
        let key = (segment.from, segment.to);
        let pair = if key.0 < key.1 { key } else { (key.1, key.0) };
        if segment.syn && !segment.ack {
            current.insert(pair, all.len());
            all.push(BTreeMap::new());
        }
        let Some(streams) = current.get(&pair).and_then(|index| all.get_mut(*index)) else {
            ensure!(segment.payload.is_empty(), "{key:?} was talking before the capture began");
            continue;
        };
        let stream = streams.entry(key).or_default();
        if segment.syn {
            stream.opens = !segment.ack;
            stream.start = Some(segment.sequence.wrapping_add(1));
        } else if let Some(start) = stream.start.filter(|_| !segment.payload.is_empty()) {
            let kept = stream.segments.entry(segment.sequence.wrapping_sub(start)).or_default();
            if kept.len() < segment.payload.len() {
                *kept = segment.payload.to_vec();
            }
        }
    }
    for (key, stream) in all.iter_mut().flatten() {
        stream.cut().with_context(|| format!("from {} to {}", key.0.0, key.1.0))?;
    }
    Ok(all)
}

impl Stream {
    /// Cuts what was sent into messages. What the last one lacks was never sent.
    fn cut(&mut self) -> Result<()> {
        let mut framer = Framer::default();
        framer.allow_extended_messages();
        let mut at = 0_u32;
        let mut end = 0_u32;
        for (offset, segment) in &self.segments {
            ensure!(*offset <= at, "octets {at} to {offset} were not captured");
            let known = usize::try_from(at - offset)?;
            let Some(new) = segment.get(known..) else { continue };
            framer.push(new);
            at += u32::try_from(new.len())?;
            while let Some(message) = framer.next_frame().context("cut into messages")? {
                self.messages.push(message.to_vec());
                end += u32::try_from(message.len())?;
                self.ends.insert(end);
            }
        }
        Ok(())
    }
}

/// A TCP segment of a BGP connection.
struct Segment<'a> {
    from: End,
    to: End,
    sequence: u32,
    syn: bool,
    ack: bool,
    payload: &'a [u8],
}

fn segment(packet: &Packet) -> Option<Segment<'_>> {
    let flow = packet.flow().filter(|flow| flow.protocol == 6)?;
    let (source, destination) = flow.ports.filter(|(from, to)| *from == PORT || *to == PORT)?;
    let datagram = packet.frame.get(14..)?;
    let half = |at: usize| Some(usize::from(u16::from_be_bytes(*datagram.get(at..at + 2)?.first_chunk()?)));
    let tcp = match datagram.first()? >> 4 {
        4 => datagram.get(usize::from(datagram.first()? & 0x0f) * 4..half(2)?)?,
        _ => datagram.get(40..40 + half(4)?)?,
    };
    Some(Segment {
        from: (flow.source, source),
        to: (flow.destination, destination),
        sequence: u32::from_be_bytes(*tcp.get(4..8)?.first_chunk()?),
        syn: flow.tcp_flags & 0x02 != 0,
        ack: flow.tcp_flags & 0x10 != 0,
        payload: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?,
    })
}

/// Every message parses, here and there, to the same prefixes.
fn read_by_bgpkit(connections: &Connections) -> Result<Audit> {
    let mut audit = Audit::default();
    for streams in connections {
        audit.connections += usize::from(streams.values().any(|stream| !stream.messages.is_empty()));
        for ((from, to), stream) in streams {
            let other = streams.get(&(*to, *from));
            let context = context(stream, other)?;
            for (index, message) in stream.messages.iter().enumerate() {
                let about = || format!("message {index} from {} to {}: {}", from.0, to.0, hex(message));
                let ours = Message::decode(message, context).with_context(about)?;
                ensure!(
                    index > 0 || matches!(ours, Message::Open(_) | Message::Notification(_)),
                    "no OPEN: {}",
                    about()
                );
                let theirs = by_bgpkit(message, context).with_context(about)?;
                audit.messages += 1;
                match (ours, theirs) {
                    (Message::Update(update), BgpMessage::Update(theirs)) => {
                        ensure!(update.flaws.is_empty(), "{}: {:?}", about(), update.flaws);
                        // It reads flow specifications as prefixes, and stumbles.
                        if of_flow(&update) {
                            continue;
                        }
                        let warnings = theirs.attributes.validation_warnings();
                        ensure!(warnings.is_empty(), "{}: bgpkit-parser: {warnings:?}", about());
                        let (ours, theirs) = (prefixes(&update), prefixes_by_bgpkit(&theirs));
                        ensure!(ours == theirs, "{}: we read {ours:?}, bgpkit-parser {theirs:?}", about());
                        audit.prefixes += ours.len();
                    }
                    (Message::Open(_), BgpMessage::Open(_)) => audit.opens += 1,
                    (Message::KeepAlive, BgpMessage::KeepAlive)
                    | (Message::Notification(_), BgpMessage::Notification(_))
                    | (Message::RouteRefresh(_), BgpMessage::RouteRefresh(_)) => {}
                    _ => anyhow::bail!("{}: another kind of message to bgpkit-parser", about()),
                }
            }
        }
    }
    Ok(audit)
}

fn of_flow(update: &Update) -> bool {
    matches!(update.mp_reach, Some(MpReach::Flow { .. })) || matches!(update.mp_unreach, Some(MpUnreach::Flow { .. }))
}

fn by_bgpkit(message: &[u8], context: Context) -> Result<BgpMessage> {
    let length = if context.four_octet_as { AsnLength::Bits32 } else { AsnLength::Bits16 };
    let ids = context.path_ids.ipv4 || context.path_ids.ipv6;
    parse_bgp_message(&mut message.to_vec().into(), ids, &length)
        .map_err(|error| anyhow::anyhow!("bgpkit-parser: {error}"))
}

/// How the messages of `sender` read, by its OPEN and the other's.
fn context(sender: &Stream, other: Option<&Stream>) -> Result<Context> {
    let open = |stream: &Stream| match stream.messages.first() {
        Some(first) => match Message::decode(first, Context::default()).context(hex(first))? {
            Message::Open(open) => Ok(Some(open)),
            _ => Ok(None),
        },
        None => anyhow::Ok(None),
    };
    let receiver = other.map(open).transpose()?.flatten();
    let (Some(sender), Some(receiver)) = (open(sender)?, receiver) else { return Ok(Context::default()) };
    let both = |wanted: &Capability| sender.capabilities.contains(wanted) && receiver.capabilities.contains(wanted);
    let offers = |capabilities: &[Capability], way: fn(&AddPath) -> bool| {
        let lists = capabilities.iter().filter_map(|capability| match capability {
            Capability::AddPath(families) => Some(families.clone()),
            _ => None,
        });
        lists.flatten().filter(way).map(|offer| offer.family).collect::<BTreeSet<_>>()
    };
    let sent = offers(&sender.capabilities, |offer| offer.send);
    let received = offers(&receiver.capabilities, |offer| offer.receive);
    Ok(Context {
        four_octet_as: sender.four_octet_as().is_some() && receiver.four_octet_as().is_some(),
        external: sender.asn() != receiver.asn(),
        extended_messages: true,
        enhanced_refresh: both(&Capability::EnhancedRouteRefresh),
        ipv4_by_ipv6: both(&Capability::ExtendedNextHop),
        path_ids: sent.intersection(&received).copied().collect::<Families>(),
        flow: sender.flow_families().filter(|family| receiver.flow_families().any(|other| other == *family)).collect(),
    })
}

/// What comes, with a plus, and what goes, with a minus.
fn prefixes(update: &Update) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = update.reachable().map(|prefix| format!("+{prefix}")).collect();
    all.extend(update.unreachable().map(|prefix| format!("-{prefix}")));
    all
}

fn prefixes_by_bgpkit(update: &bgpkit_parser::models::BgpUpdateMessage) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = update.announced_prefixes.iter().map(|one| format!("+{}", one.prefix)).collect();
    all.extend(update.withdrawn_prefixes.iter().map(|one| format!("-{}", one.prefix)));
    for value in &update.attributes {
        match value {
            AttributeValue::MpReachNlri(nlri) => all.extend(nlri.prefixes.iter().map(|one| format!("+{}", one.prefix))),
            AttributeValue::MpUnreachNlri(nlri) => {
                all.extend(nlri.prefixes.iter().map(|one| format!("-{}", one.prefix)))
            }
            _ => {}
        }
    }
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(200).map(|byte| format!("{byte:02x}")).collect()
}

/// Nothing malformed, and no remark of its BGP dissector from a warning upwards.
fn tshark_finds_nothing(path: &Path) -> Result<()> {
    let mut malformed = Command::new("tshark");
    malformed.arg("-r").arg(path).args(["-Y", "bgp && _ws.malformed"]);
    let said = command::must(&mut malformed, BOUND).context("tshark")?;
    ensure!(said.trim().is_empty(), "malformed to tshark:\n{said}");
    let mut experts = Command::new("tshark");
    experts.arg("-r").arg(path).args(["-q", "-z", "expert,warn,bgp"]);
    let said = command::must(&mut experts, BOUND).context("tshark")?;
    // Frequency, group, protocol, summary; TCP has its own opinion of resets.
    let remarks: Vec<&str> = said.lines().filter(|line| line.split_whitespace().nth(2) == Some("BGP")).collect();
    ensure!(remarks.is_empty(), "remarks of tshark:\n{}", remarks.join("\n"));
    Ok(())
}

/// tcpdump reads packet by packet: it is shown those whose payload begins and ends with a message.
fn tcpdump_finds_nothing(path: &Path, packets: &[Packet], connections: &Connections) -> Result<()> {
    let whole = |packet: &&Packet| segment(packet).is_some_and(|segment| is_whole(&segment, connections));
    let shown = path.with_extension("whole.pcap");
    fs::write(&shown, capture::write(packets.iter().filter(whole)))?;
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-n", "-vv", "-r"]).arg(&shown);
    let said = command::must(&mut tcpdump, BOUND).context("tcpdump");
    fs::remove_file(&shown)?;
    let said = said?;
    let wrong: Vec<&str> = said.lines().filter(|line| is_wrong_to_tcpdump(line)).collect();
    ensure!(wrong.is_empty(), "wrong to tcpdump:\n{}", wrong.join("\n"));
    Ok(())
}

fn is_wrong_to_tcpdump(line: &str) -> bool {
    ["[|bgp", "[|BGP", "invalid", "(illegal", "[bad", "[!"].iter().any(|sign| line.contains(sign))
        && !line.contains("cksum")
}

fn is_whole(segment: &Segment<'_>, connections: &Connections) -> bool {
    let streams = connections.iter().filter_map(|streams| streams.get(&(segment.from, segment.to)));
    streams.into_iter().any(|stream| {
        let Some(start) = stream.start else { return false };
        let begin = segment.sequence.wrapping_sub(start);
        let Ok(length) = u32::try_from(segment.payload.len()) else { return false };
        (begin == 0 || stream.ends.contains(&begin)) && length > 0 && stream.ends.contains(&begin.wrapping_add(length))
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bgp_wire::{AsPath, Asn, Attributes, Family, HoldTime, Open, Origin, RouterId, announce_v4};

    use super::*;

    const ENDS: [([u8; 4], u16); 2] = [([192, 0, 2, 1], 40_000), ([192, 0, 2, 2], PORT)];

    /// A frame from one of the [`ENDS`] to the other.
    fn frame(from: usize, sequence: u32, flags: u8, payload: &[u8]) -> Packet {
        let ((source, from_port), (destination, to_port)) = (ENDS[from], ENDS[1 - from]);
        let length = u16::try_from(40 + payload.len()).unwrap();
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(from_port.to_be_bytes());
        frame.extend(to_port.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend(payload);
        Packet { at_ns: u64::from(sequence), frame }
    }

    fn open(id: u8) -> Vec<u8> {
        let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, id)).unwrap();
        let open = Open::new(Asn(64500), HoldTime::from_secs(9).unwrap(), router_id, Family::ALL);
        Message::Open(open).encode(Context::default()).unwrap()
    }

    fn update() -> Vec<u8> {
        let attributes =
            Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() };
        let prefix = "203.0.113.1/32".parse().unwrap();
        let update = announce_v4(&attributes, [192, 0, 2, 1].into(), [prefix], Context::default()).unwrap();
        Message::Update(update[0].clone()).encode(Context::default()).unwrap()
    }

    /// A session, its UPDATE in two segments of which the second comes first, and again.
    fn session(update: &[u8]) -> Vec<Packet> {
        let keepalive = Message::KeepAlive.encode(Context::default()).unwrap();
        let ours = [open(1), keepalive.clone()].concat();
        let at = 1001 + u32::try_from(ours.len()).unwrap();
        let (first, second) = update.split_at(30);
        vec![
            frame(0, 1000, 0x02, &[]),
            frame(1, 5000, 0x12, &[]),
            frame(0, 1001, 0x18, &ours),
            frame(1, 5001, 0x18, &[open(2), keepalive].concat()),
            frame(0, at + 30, 0x18, second),
            frame(0, at, 0x18, first),
            frame(0, at + 30, 0x18, second),
            frame(0, at + u32::try_from(update.len()).unwrap(), 0x18, update),
        ]
    }

    fn audited(packets: &[Packet]) -> Result<Audit> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("session.pcap");
        fs::write(&path, capture::write(packets.iter()))?;
        audit(&path)
    }

    #[test]
    fn a_clean_session_is_found_clean_and_counted() {
        let found = audited(&session(&update())).unwrap();
        assert_eq!(found, Audit { connections: 1, opens: 2, messages: 6, prefixes: 2 });
    }

    #[test]
    fn each_reader_finds_what_was_spoiled() {
        // The list of attributes ends inside the last of them; ORIGIN is none; a prefix is too long. tshark and tcpdump
        // do not know them all, which is why there are three readers.
        let cases = [
            (32, 9, "CutOff", true, false),
            (26, 9, "Value", false, false),
            (update().len() - 5, 77, "prefix", true, true),
        ];
        for (at, to, sign, by_tshark, by_tcpdump) in cases {
            let mut spoiled = update();
            spoiled[at] = to;
            let packets = session(&spoiled);
            let error = format!("{:?}", read_by_bgpkit(&connections(&packets).unwrap()).unwrap_err());
            assert!(error.contains(sign), "{sign}: {error}");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("spoiled.pcap");
            fs::write(&path, capture::write(packets.iter())).unwrap();
            assert_eq!(tshark_finds_nothing(&path).is_err(), by_tshark, "{sign}: tshark");
            let found = tcpdump_finds_nothing(&path, &packets, &connections(&packets).unwrap());
            assert_eq!(found.is_err(), by_tcpdump, "{sign}: tcpdump: {found:?}");
        }
    }

    #[test]
    fn what_was_not_captured_is_missed() {
        let mut packets = session(&update());
        packets.remove(2);
        assert!(format!("{:?}", connections(&packets).unwrap_err()).contains("not captured"));
        let late = session(&update()).split_off(2);
        assert!(format!("{:?}", connections(&late).unwrap_err()).contains("before the capture began"));
        let mut garbage = session(&update());
        garbage.push(frame(1, 5001 + 19 + u32::try_from(open(2).len()).unwrap(), 0x18, b"garbage"));
        assert!(connections(&garbage).is_err());
    }
}
