//! A program for the kernel (classic BPF) that lets through UDP of some ports, and fragments of UDP.

use super::{IPV4, IPV6, MOST_TAGS, TAGS, UDP};

const LOAD_HALF: u16 = 0x28;
/// Behind where the index register points.
const LOAD_HALF_AT: u16 = 0x48;
const LOAD_OCTET_AT: u16 = 0x50;
const INDEX: u16 = 0x01;
const TO_INDEX: u16 = 0x07;
const FROM_INDEX: u16 = 0x87;
const ADD: u16 = 0x04;
const ADD_INDEX: u16 = 0x0c;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// More ports than this are not told apart: a jump reaches 255 instructions.
const MOST_PORTS: usize = 60;

/// Where each tag is passed over.
const PASSES: [&str; MOST_TAGS] = ["first tag", "second tag", "third tag"];

/// An instruction as the kernel has it (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What is done.
    pub code: u16,
    /// How many instructions are passed over when a condition holds.
    pub if_true: u8,
    /// And when it does not.
    pub if_false: u8,
    /// A constant.
    pub constant: u32,
}

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Take,
    Leave,
    Place(&'static str),
}

#[derive(Default)]
struct Program {
    lines: Vec<(u16, u32, To, To)>,
    places: Vec<(&'static str, usize)>,
}

impl Program {
    fn line(&mut self, code: u16, constant: u32) {
        self.lines.push((code, constant, To::Next, To::Next));
    }

    fn when(&mut self, code: u16, constant: u32, holds: To, otherwise: To) {
        self.lines.push((code, constant, holds, otherwise));
    }

    fn place(&mut self, name: &'static str) {
        self.places.push((name, self.lines.len()));
    }

    /// With the two ends behind all else.
    fn finish(self) -> Vec<Instruction> {
        let (take, leave) = (self.lines.len(), self.lines.len() + 1);
        let target = |at: usize, to: To| match to {
            To::Next => at + 1,
            To::Take => take,
            To::Leave => leave,
            To::Place(name) => self.places.iter().find(|(of, _)| *of == name).map_or(leave, |(_, at)| *at),
        };
        let mut instructions: Vec<Instruction> = self
            .lines
            .iter()
            .enumerate()
            .map(|(at, (code, constant, holds, otherwise))| {
                let over = |to: To| target(at, to).saturating_sub(at + 1);
                if *code == JUMP {
                    let constant = u32::try_from(over(*holds)).unwrap_or(u32::MAX);
                    return Instruction { code: *code, if_true: 0, if_false: 0, constant };
                }
                let over = |to: To| u8::try_from(over(to)).unwrap_or(u8::MAX);
                Instruction { code: *code, if_true: over(*holds), if_false: over(*otherwise), constant: *constant }
            })
            .collect();
        for length in [u32::MAX, 0] {
            instructions.push(Instruction { code: RETURN, if_true: 0, if_false: 0, constant: length });
        }
        instructions
    }
}

/// A program that takes frames with UDP from or to one of `ports`, under tags and options, and fragments of UDP, whosever they
/// are; of IPv6 also packets with other headers before. All else it leaves.
#[must_use]
pub fn filter(ports: &[u16]) -> Vec<Instruction> {
    let mut program = Program::default();
    // The index register has the length of the tags, then of the headers.
    program.line(INDEX, 0);
    program.line(LOAD_HALF, 12);
    for pass in PASSES {
        for tag in TAGS {
            program.when(EQUAL, tag.into(), To::Place(pass), To::Next);
        }
        program.when(JUMP, 0, To::Place("kind"), To::Next);
        // The tag is passed over, and what stands behind it loaded.
        program.place(pass);
        program.line(FROM_INDEX, 0);
        program.line(ADD, 4);
        program.line(TO_INDEX, 0);
        program.line(LOAD_HALF_AT, 12);
    }
    program.place("kind");
    program.when(EQUAL, IPV4.into(), To::Place("v4"), To::Next);
    program.when(EQUAL, IPV6.into(), To::Place("v6"), To::Leave);
    program.place("v4");
    program.line(LOAD_OCTET_AT, 23);
    program.when(EQUAL, UDP.into(), To::Next, To::Leave);
    program.line(LOAD_HALF_AT, 20);
    // An offset: the ports are in another fragment.
    program.when(ANY_BIT, 0x1fff, To::Take, To::Next);
    program.line(LOAD_OCTET_AT, 14);
    program.line(AND, 0x0f);
    program.line(SHIFT_LEFT, 2);
    program.line(ADD_INDEX, 0);
    program.line(TO_INDEX, 0);
    program.when(JUMP, 0, To::Place("ports"), To::Next);
    program.place("v6");
    program.line(LOAD_OCTET_AT, 20);
    program.when(EQUAL, UDP.into(), To::Place("plain"), To::Next);
    for header in [0, 43, 60] {
        program.when(EQUAL, header, To::Take, To::Next);
    }
    program.when(EQUAL, 44, To::Next, To::Leave);
    program.line(LOAD_OCTET_AT, 54);
    program.when(EQUAL, UDP.into(), To::Take, To::Leave);
    program.place("plain");
    program.line(FROM_INDEX, 0);
    program.line(ADD, 40);
    program.line(TO_INDEX, 0);
    program.place("ports");
    if ports.len() > MOST_PORTS {
        program.when(JUMP, 0, To::Take, To::Next);
    }
    for at in [14, 16] {
        program.line(LOAD_HALF_AT, at);
        for port in ports.iter().take(MOST_PORTS) {
            program.when(EQUAL, (*port).into(), To::Take, To::Next);
        }
    }
    program.when(JUMP, 0, To::Leave, To::Next);
    program.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{datagram_of, framed, v4_of, v6_of};
    use crate::frame::{Seen, read};
    use proptest::prelude::*;

    /// What the kernel does with such a program, for the instructions that are in it.
    fn takes(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0);
        loop {
            let Instruction { code, if_true, if_false, constant: k } = program[at];
            at += 1;
            let load = |from: u32, length: usize| {
                let from = usize::try_from(from).unwrap();
                frame
                    .get(from..from + length)
                    .map(|octets| octets.iter().fold(0, |all, octet| all << 8 | u32::from(*octet)))
            };
            let jump = |holds: bool| usize::from(if holds { if_true } else { if_false });
            let loaded = match code {
                LOAD_HALF => load(k, 2),
                LOAD_HALF_AT => load(x + k, 2),
                LOAD_OCTET_AT => load(x + k, 1),
                _ => Some(a),
            };
            // The kernel leaves what ends before.
            let Some(loaded) = loaded else { return false };
            a = loaded;
            match code {
                LOAD_HALF | LOAD_HALF_AT | LOAD_OCTET_AT => {}
                INDEX => x = k,
                TO_INDEX => x = a,
                FROM_INDEX => a = x,
                ADD => a += k,
                ADD_INDEX => a += x,
                AND => a &= k,
                SHIFT_LEFT => a <<= k,
                JUMP => at += usize::try_from(k).unwrap(),
                EQUAL => at += jump(a == k),
                ANY_BIT => at += jump(a & k != 0),
                RETURN => return k > 0,
                other => panic!("{other:#x}"),
            }
        }
    }

    /// Three tags at most, and any of their kinds.
    fn tags() -> impl Strategy<Value = Vec<u8>> {
        let tag = (0..TAGS.len(), any::<[u8; 2]>())
            .prop_map(|(kind, [one, two])| [&TAGS[kind].to_be_bytes()[..], &[one, two]].concat());
        proptest::collection::vec(tag, 0..=MOST_TAGS).prop_map(|tags| tags.concat())
    }

    #[test]
    fn what_is_not_asked_for_is_left_in_the_kernel() {
        let program = filter(&[67, 68]);
        let body = datagram_of(b"of other ports");
        assert!(!takes(&program, &framed(&[], IPV4, &v4_of(&body, 0, &[]))));
        assert!(!takes(&program, &framed(&[], IPV6, &v6_of(17, &body))));
        assert!(!takes(&program, &framed(&[], IPV4, &v4_of(&body, 0x2000, &[]))), "the first fragment has the ports");
        assert!(takes(&program, &framed(&[], IPV4, &v4_of(&body, 0x0005, &[]))), "others have none");
        let mut tcp = v4_of(&datagram_of(b""), 5, &[]);
        tcp[9] = 6;
        assert!(!takes(&program, &framed(&[], IPV4, &tcp)));
        assert!(!takes(&program, &framed(&[], 0x0806, &body)));
        assert!(!takes(&program, &framed(&[0x81, 0, 0, 1].repeat(4), IPV4, &v4_of(&body, 5, &[]))));
        // The kernel takes no longer programs, and none of too many ports makes one too long.
        let most: Vec<u16> = (0..=u16::MAX).collect();
        assert!(filter(&most).len() < 256 && takes(&filter(&most), &framed(&[], IPV4, &v4_of(&body, 0, &[]))));
    }

    proptest! {
        #[test]
        fn it_takes_what_the_reader_wants_and_little_else(
            tags in tags(),
            ports in proptest::collection::vec(prop_oneof![Just(1812_u16), Just(1813), any::<u16>()], 0..MOST_PORTS),
            (source, destination) in prop_oneof![any::<(u16, u16)>(), Just((1812, 40_000)), Just((40_000, 1813))],
            fragment in prop_oneof![Just(0_u16), 0..0x4000_u16],
            options in 0..10_usize,
            six: bool,
        ) {
            let mut body = datagram_of(b"payload");
            body[..2].copy_from_slice(&source.to_be_bytes());
            body[2..4].copy_from_slice(&destination.to_be_bytes());
            let frame = match (six, fragment) {
                (false, _) => framed(&tags, IPV4, &v4_of(&body, fragment, &vec![1; options * 4])),
                (true, 0) => framed(&tags, IPV6, &v6_of(17, &body)),
                (true, _) => {
                    let head = [&[17, 0][..], &(fragment << 3 | 1).to_be_bytes(), &[0, 0, 0, 5]].concat();
                    framed(&tags, IPV6, &v6_of(44, &[head, body].concat()))
                }
            };
            let program = filter(&ports);
            let wanted = match read(&frame).unwrap() {
                Seen::Whole(udp) => ports.contains(&udp.source.port()) || ports.contains(&udp.destination.port()),
                // The first one of IPv4 shows its ports; others, and those of IPv6, are all taken.
                Seen::Part(part) if part.offset > 0 || six => true,
                Seen::Part(_) => ports.contains(&source) || ports.contains(&destination),
            };
            prop_assert_eq!(takes(&program, &frame), wanted);
        }

        #[test]
        fn no_frame_leads_out_of_the_program(frame in proptest::collection::vec(any::<u8>(), 0..100), ports: Vec<u16>) {
            takes(&filter(&ports), &frame);
        }
    }
}
