//! The table read, and a row of it played against a forwarder.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::ends::{Arrival, asked, is_upkeep};
use crate::lab::{Lab, PATIENCE, WIRES, macs};
use crate::packet::{Words, address, octets, sum};

const CASES: &str = include_str!("cases.txt");
/// Of a forwarder that changes packets.
const CHANGES: &str = include_str!("changes.txt");

/// One row, for one IP version.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) line: usize,
    pub(crate) v4: bool,
    pub(crate) end: &'static str,
    pub(crate) packet: String,
    /// What comes out in its place, but for its age.
    pub(crate) changed: Option<String>,
    pub(crate) out: Out,
    pub(crate) counted: Vec<&'static str>,
    pub(crate) says: String,
}

/// What must come out.
#[derive(Debug, Clone)]
pub(crate) enum Out {
    Nothing,
    /// One hop older, and else the same.
    Forwarded(&'static str),
    /// The same in pieces.
    Fragments(&'static str),
    /// An ICMP error from this address; too big with the MTU that it must tell.
    Error {
        end: &'static str,
        mtu: Option<u16>,
        from: IpAddr,
    },
    /// The answer to ARP or ND.
    Answer(&'static str),
    /// The kernel's own business, as long as nothing comes out at a private link.
    Anything,
}

/// Every row, once for each IP version that it is for.
pub(crate) fn cases() -> Vec<Case> {
    rows(CASES)
}

/// The same of what is changed.
pub(crate) fn changes() -> Vec<Case> {
    rows(CHANGES)
}

fn rows(table: &'static str) -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, line) in table.lines().enumerate().filter(|(_, line)| line.contains('|') && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [versions, end, packet, out, counted, says] = columns[..] else { panic!("line {}: {line}", number + 1) };
        for version in versions.chars() {
            let v4 = version == '4';
            let counted = counted.split_whitespace().filter(|name| *name != "-").collect();
            let end = known(end);
            let (packet, says) = (packet.to_owned(), says.to_owned());
            let (out, words) = out.split_once(" as ").map_or((out, None), |(out, words)| (out, Some(words)));
            let changed = words.map(|words| changed(&packet, words));
            cases.push(Case { line: number + 1, v4, end, packet, changed, out: out_of(out, v4), counted, says });
        }
    }
    cases
}

/// The words of a packet with these in the place of those of the same name.
fn changed(packet: &str, words: &str) -> String {
    let key = |word: &str| word.split_once('=').map(|(key, _)| key.to_owned());
    let replaced = |word: &&str| words.split_whitespace().any(|new| key(new).is_some() && key(new) == key(word));
    let kept = packet.split_whitespace().filter(|word| !replaced(word));
    kept.chain(words.split_whitespace()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn known(end: &str) -> &'static str {
    WIRES.iter().map(|wire| wire.0).find(|known| *known == end).unwrap_or_else(|| panic!("no end {end}"))
}

fn out_of(text: &str, v4: bool) -> Out {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["nothing"] => Out::Nothing,
        [end] => Out::Forwarded(known(end)),
        [end, "fragments"] => Out::Fragments(known(end)),
        [end, "answer"] => Out::Answer(known(end)),
        [end, "time-exceeded", from] => Out::Error { end: known(end), mtu: None, from: address(from, v4) },
        [end, error, from] => {
            let mtu = error.strip_prefix("too-big=").unwrap_or_else(|| panic!("{text}"));
            Out::Error { end: known(end), mtu: Some(mtu.parse().unwrap()), from: address(from, v4) }
        }
        _ => panic!("{text}"),
    }
}

/// Packets and octets by counter.
pub(crate) type Counters = BTreeMap<String, (u64, u64)>;

pub(crate) fn counters(lab: &Lab) -> Counters {
    let rows = lab.show("counters").unwrap();
    let row = |row: &serde_json::Value| {
        let number = |name: &str| row[name].as_u64().unwrap();
        (row["counter"].as_str().unwrap().to_owned(), (number("packets"), number("bytes")))
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

/// Plays rows against one lab, one behind the other.
pub(crate) struct Player<'a> {
    lab: &'a Lab,
    before: Counters,
    number: u16,
    /// Of what nobody knows when it comes out: it may do so while others are looked at.
    passed_over: Vec<[u8; 8]>,
    /// What was forwarded as it should be and is in order, for others to look at.
    pub(crate) good: Vec<Vec<u8>>,
}

impl<'a> Player<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        Self { lab, before: counters(lab), number: 0, passed_over: Vec::new(), good: Vec::new() }
    }

    /// Sends the packet of `case`; what is not as the row says it is in the answer.
    pub(crate) fn play(&mut self, case: &Case) -> Result<(), String> {
        self.number += 1;
        let words = Words::new(&case.packet, case.v4);
        let tag = tag(self.number);
        let end = self.lab.end(case.end);
        end.send(&words.frame(end.mac, end.other, &tag));
        let (mut arrived, fence) = self.fence(case.end, case.wanted());
        if matches!(case.out, Out::Anything) {
            // Nobody knows what to wait for, and the ends are read by threads of their own.
            let late = self.lab.arrivals.take(Duration::from_millis(30), |_| false);
            arrived.extend(late.into_iter().filter(of_interest));
            self.passed_over.push(tag);
        } else {
            arrived.retain(|arrival| !self.is_passed_over(arrival));
        }
        let after = counters(self.lab);
        let before = std::mem::replace(&mut self.before, after);
        let sent = words.packet(&tag);
        let wanted =
            case.changed.as_deref().map_or_else(|| sent.clone(), |text| Words::new(text, case.v4).packet(&tag));
        let problem = case.out.problem(&wanted, &words, &arrived);
        let octets = if sent.len() < 20 { 0 } else { sent.len() };
        let problem = problem.or_else(|| case.counted_wrong(&before, &self.before, fence, octets));
        // Of what was made up to be strange, nobody can say whether it is in order.
        let strange = words.has("l4-bad") || ["proto=", "broken="].iter().any(|word| case.packet.contains(word));
        if problem.is_none() && matches!(case.out, Out::Forwarded(_)) && !strange {
            self.good.extend(arrived.iter().map(|arrival| arrival.frame.clone()));
        }
        let version = if case.v4 { 4 } else { 6 };
        problem.map_or(Ok(()), |problem| {
            let Case { line, end, packet, says, .. } = case;
            Err(format!("cases.txt:{line}, IPv{version}: {says} ({packet} from {end}): {problem}"))
        })
    }

    /// Sends a packet that passes behind what was sent at `end`: once it has come out and `wanted` frames besides,
    /// everything before it has been dealt with. Gives those, and the counter and length of that packet.
    fn fence(&mut self, end: &'static str, wanted: usize) -> (Vec<Arrival>, (&'static str, u64)) {
        let (words, counter) = match end {
            "sub" => ("S>P udp", "to-private"),
            "far" => ("P>S udp", "from-private"),
            "far2" => ("Q>S udp", "from-private"),
            _ => ("X>S udp", "-"),
        };
        let words = Words::new(words, true);
        let tag = tag(self.number | 0x8000);
        let end = self.lab.end(end);
        end.send(&words.frame(end.mac, end.other, &tag));
        let is_fence = |arrival: &Arrival| arrival.frame.windows(8).any(|window| window == tag);
        let of_case = |arrivals: &[Arrival]| arrivals.iter().filter(|arrival| of_interest(arrival)).count();
        let enough = |arrivals: &[Arrival]| arrivals.iter().any(is_fence) && of_case(arrivals) > wanted;
        // What never comes costs time, and comes seldom.
        let mut arrived = self.lab.arrivals.take(Duration::from_secs(2), enough);
        if !arrived.iter().any(is_fence) {
            // This one always comes; a busy machine takes its time. What comes before it has come with it.
            arrived.extend(self.lab.arrivals.take(PATIENCE, |arrivals| arrivals.iter().any(is_fence)));
        }
        assert!(arrived.iter().any(is_fence), "the packet behind it never came out at all");
        let arrived = arrived.into_iter().filter(|arrival| of_interest(arrival) && !is_fence(arrival)).collect();
        (arrived, (counter, u64::try_from(words.packet(&tag).len()).unwrap()))
    }

    /// What has come out since, though nothing was sent.
    pub(crate) fn late(&self) -> Vec<Arrival> {
        let arrived = self.lab.arrivals.take(Duration::from_millis(300), |_| false);
        arrived.into_iter().filter(|arrival| of_interest(arrival) && !self.is_passed_over(arrival)).collect()
    }

    fn is_passed_over(&self, arrival: &Arrival) -> bool {
        arrival.frame.windows(8).any(|window| self.passed_over.iter().any(|tag| window == tag))
    }
}

/// Whether a frame is more than what a host says of itself.
fn of_interest(arrival: &Arrival) -> bool {
    let is_answer = match arrival.frame.get(12..14) {
        Some([8, 6]) => arrival.frame.get(20..22) == Some(&[0, 2]),
        Some([0x86, 0xdd]) => arrival.frame.get(20) == Some(&58) && arrival.frame.get(54) == Some(&136),
        _ => false,
    };
    is_answer || !is_upkeep(&arrival.frame)
}

fn tag(number: u16) -> [u8; 8] {
    format!("<#{number:04x}#>").into_bytes().try_into().unwrap()
}

impl Case {
    /// How many frames must come out at least.
    fn wanted(&self) -> usize {
        match self.out {
            Out::Nothing | Out::Anything => 0,
            Out::Fragments(_) => 2,
            _ => 1,
        }
    }

    fn counted_wrong(&self, before: &Counters, after: &Counters, fence: (&str, u64), octets: usize) -> Option<String> {
        let mut problems = Vec::new();
        for (name, (packets, bytes)) in after {
            let (packets_before, bytes_before) = before.get(name).copied().unwrap_or_default();
            let (mut packets, mut bytes) = (packets - packets_before, bytes - bytes_before);
            if name == fence.0 {
                (packets, bytes) = (packets.saturating_sub(1), bytes.saturating_sub(fence.1));
            }
            let wanted = u64::from(self.counted.contains(&name.as_str()));
            if name == "link-upkeep" {
                if packets < wanted {
                    problems.push(format!("{name} gained nothing"));
                }
                continue;
            }
            if packets != wanted {
                problems.push(format!("{name} gained {packets}, {wanted} is right"));
            } else if wanted == 1 && name.ends_with("-private") && bytes != u64::try_from(octets).unwrap() {
                problems.push(format!("{name} gained {bytes} octets, the packet has {octets}"));
            }
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

impl Out {
    /// What is wrong with what arrived, where `sent` was sent or should look as if.
    fn problem(&self, sent: &[u8], words: &Words<'_>, arrived: &[Arrival]) -> Option<String> {
        let all = || arrived.iter().map(|a| format!("{} {}", a.end, hex(&a.frame))).collect::<Vec<_>>().join(", ");
        let one = |end: &str| match arrived {
            [one] if one.end == end => Ok(one),
            [] => Err(format!("nothing came out, at {end} something must")),
            _ => Err(format!("came out: {}; one frame at {end} is right", all())),
        };
        let checked = match self {
            Self::Nothing if arrived.is_empty() => Ok(()),
            Self::Nothing => Err(format!("came out: {}; nothing is right", all())),
            Self::Forwarded(end) => one(end).and_then(|arrival| forwarded(arrival, sent)),
            Self::Fragments(end) => fragments(arrived, end, sent).map_err(|why| format!("{why}: {}", all())),
            Self::Error { end, mtu, from } => one(end).and_then(|arrival| error(arrival, sent, *mtu, *from)),
            Self::Answer(end) => one(end).and_then(|arrival| answer(arrival, words)),
            Self::Anything if arrived.iter().all(|arrival| !arrival.end.starts_with("far")) => Ok(()),
            Self::Anything => Err(format!("came out: {}; nothing at a private link is right", all())),
        };
        checked.err()
    }
}

/// The packet in a frame to the end where it arrived, without padding.
fn packet_in(arrival: &Arrival) -> Result<&[u8], String> {
    let (own, other) = macs(arrival.end);
    let wrong = |what: &str| format!("{what}: {} {}", arrival.end, hex(&arrival.frame));
    let packet = arrival.frame.get(14..).ok_or_else(|| wrong("short"))?;
    if arrival.frame[..6] != own || arrival.frame[6..12] != other {
        return Err(wrong("the hardware addresses are not those of the wire"));
    }
    let length = match arrival.frame[12..14] {
        [8, 0] => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        [0x86, 0xdd] => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
        _ => return Err(wrong("not IP")),
    };
    let packet = packet.get(..length).ok_or_else(|| wrong("shorter than it says"))?;
    if packet[0] >> 4 == 4 && sum(&packet[..usize::from(packet[0] & 15) * 4]) != 0xffff {
        return Err(wrong("its header checksum is wrong"));
    }
    Ok(packet)
}

/// A packet one hop later; the checksum is looked at by itself.
fn aged(packet: &[u8]) -> Vec<u8> {
    let mut aged = packet.to_vec();
    if packet[0] >> 4 == 4 {
        aged[8] -= 1;
        aged[10..12].fill(0);
    } else {
        aged[7] -= 1;
    }
    aged
}

fn forwarded(arrival: &Arrival, sent: &[u8]) -> Result<(), String> {
    let mut found = packet_in(arrival)?.to_vec();
    if found[0] >> 4 == 4 {
        found[10..12].fill(0);
    }
    let wanted = aged(sent);
    if found == wanted { Ok(()) } else { Err(format!("came out as {}, {} is right", hex(&found), hex(&wanted))) }
}

fn fragments(arrived: &[Arrival], end: &str, sent: &[u8]) -> Result<(), String> {
    let mut payload: Vec<u8> = Vec::new();
    // What is cut may be a fragment itself.
    let whole = u16::from_be_bytes([sent[6], sent[7]]);
    let mut more = 0;
    for arrival in arrived {
        let packet = packet_in(arrival)?;
        let field = u16::from_be_bytes([packet[6], packet[7]]);
        let in_order = usize::from((field & 0x1fff) - (whole & 0x1fff)) * 8 == payload.len();
        // Traffic class, identification, age, protocol and addresses are the packet's.
        let same = packet[..2] == sent[..2]
            && packet[4..6] == sent[4..6]
            && packet[8] == sent[8] - 1
            && packet[9..10] == sent[9..10];
        let (_, _, mtu, ..) = WIRES.into_iter().find(|wire| wire.0 == end).unwrap();
        if arrival.end != end || !in_order || !same || packet[12..20] != sent[12..20] || packet.len() > mtu as usize {
            return Err("not the fragments that are right".into());
        }
        more = field & 0x2000;
        payload.extend(&packet[20..]);
    }
    if arrived.len() > 1 && more == whole & 0x2000 && payload == sent[20..] {
        Ok(())
    } else {
        Err("not the whole in pieces".into())
    }
}

fn error(arrival: &Arrival, sent: &[u8], mtu: Option<u16>, from: IpAddr) -> Result<(), String> {
    let packet = packet_in(arrival)?;
    let v4 = from.is_ipv4();
    let (header, protocol, source, destination, most) =
        if v4 { (20, packet[9], 12..16, 16..20, 576) } else { (40, packet[6], 8..24, 24..40, 1280) };
    let asker = if v4 { &sent[12..16] } else { &sent[8..24] };
    let wrong = |what: &str| Err(format!("{what}: {}", hex(packet)));
    if protocol != if v4 { 1 } else { 58 } {
        return wrong("no ICMP error");
    }
    if packet[source] != octets(from) {
        return wrong("not from the right address");
    }
    if packet[destination] != *asker {
        return wrong("not to the one who sent it");
    }
    let message = &packet[header..];
    let kind = match (v4, mtu) {
        (true, None) => [11, 0],
        (true, Some(_)) => [3, 4],
        (false, None) => [3, 0],
        (false, Some(_)) => [2, 0],
    };
    let told = u16::from_be_bytes([message[6], message[7]]);
    if message[..2] != kind || mtu.is_some_and(|mtu| told != mtu) {
        return wrong("not the right error");
    }
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let pseudo = if v4 { Vec::new() } else { [&packet[8..40], &length[..], &[0, 0, 0, 58]].concat() };
    if sum(&[&pseudo, message].concat()) != 0xffff {
        return wrong("its checksum is wrong");
    }
    let quoted = sent.len().min(most - header - 8);
    if message[8..] == sent[..quoted] { Ok(()) } else { wrong("it does not quote what was sent") }
}

/// The answer of ARP or ND tells the hardware address of the wire's other side.
fn answer(arrival: &Arrival, words: &Words<'_>) -> Result<(), String> {
    let (_, other) = macs(arrival.end);
    let wanted = octets(words.destination());
    let (told, who) = match arrival.frame[12..14] {
        [8, 6] => (arrival.frame.get(22..28), arrival.frame.get(28..32)),
        _ => (arrival.frame.get(80..86), arrival.frame.get(62..78)),
    };
    if asked(&arrival.frame).is_none() && told == Some(&other) && who == Some(&wanted) {
        return Ok(());
    }
    Err(format!("no answer: {}", hex(&arrival.frame)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(120).map(|octet| format!("{octet:02x}")).collect()
}

/// Waits for a frame that `wanted` knows; everything that came before it is passed over.
pub(crate) fn wait_for(lab: &Lab, what: &str, wanted: impl Fn(&Arrival) -> bool) -> Arrival {
    let arrived = lab.arrivals.take(PATIENCE, |arrivals| arrivals.iter().any(&wanted));
    arrived.into_iter().find(wanted).unwrap_or_else(|| panic!("never came: {what}"))
}
