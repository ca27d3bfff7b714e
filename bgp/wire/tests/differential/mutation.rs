//! Damage to messages: at random places, and at those where a decoder has to think.

use cloakway_sim::Rng;

const HEADER: usize = 19;
const UPDATE: u8 = 2;

/// Octets that sit at an edge of some field.
const EDGES: [u8; 18] = [0, 1, 2, 3, 4, 5, 8, 14, 15, 16, 17, 32, 33, 64, 128, 129, 224, 255];
/// Attribute types to turn others into: those with rules, a deprecated one, and two that nobody knows.
const TYPES: [u8; 22] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 25, 32, 35, 21, 99, 200];

/// An UPDATE taken apart, as far as that goes.
#[derive(Clone)]
struct Parts {
    withdrawn: Vec<u8>,
    attributes: Vec<Attribute>,
    /// What is behind the last whole attribute.
    rest: Vec<u8>,
    announced: Vec<u8>,
}

/// An attribute as it stands on the wire; its length need not be the one that it claims.
#[derive(Clone)]
struct Attribute {
    flags: u8,
    code: u8,
    value: Vec<u8>,
    lie: i32,
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (field, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *bytes = rest;
    Some(field)
}

impl Parts {
    fn of(message: &[u8]) -> Option<Self> {
        if message.get(18) != Some(&UPDATE) {
            return None;
        }
        let mut body = &message[HEADER..];
        let withdrawn = field(&mut body)?.to_vec();
        let mut list = field(&mut body)?;
        let mut attributes = Vec::new();
        while let [flags, code, ..] = *list {
            let head = if flags & 0x10 == 0 { 3 } else { 4 };
            let length = match (head, list) {
                (3, [_, _, length, ..]) => usize::from(*length),
                (4, [_, _, high, low, ..]) => usize::from(u16::from_be_bytes([*high, *low])),
                _ => break,
            };
            let Some(value) = list.get(head..head + length) else { break };
            attributes.push(Attribute { flags, code, value: value.to_vec(), lie: 0 });
            list = &list[head + length..];
        }
        Some(Self { withdrawn, attributes, rest: list.to_vec(), announced: body.to_vec() })
    }

    fn message(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for attribute in &self.attributes {
            let length = i32::try_from(attribute.value.len()).unwrap().saturating_add(attribute.lie);
            let length = u16::try_from(length.clamp(0, 65535)).unwrap();
            if attribute.flags & 0x10 != 0 || length > 255 {
                list.extend([attribute.flags | 0x10, attribute.code]);
                list.extend(length.to_be_bytes());
            } else {
                list.extend([attribute.flags, attribute.code, length.to_be_bytes()[1]]);
            }
            list.extend(&attribute.value);
        }
        list.extend(&self.rest);
        let length = |octets: &[u8]| u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes();
        let body = [&length(&self.withdrawn)[..], &self.withdrawn, &length(&list), &list, &self.announced].concat();
        with_header(UPDATE, &body)
    }
}

fn with_header(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.between(0, u64::try_from(bound.max(1) - 1).unwrap())).unwrap()
}

fn octet(rng: &mut Rng) -> u8 {
    u8::try_from(rng.between(0, 255)).unwrap()
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[below(rng, from.len())]
}

fn octets(rng: &mut Rng, most: usize) -> Vec<u8> {
    (0..below(rng, most + 1)).map(|_| octet(rng)).collect()
}

/// Changes one to three octets, to anything or to an edge.
fn scratch(rng: &mut Rng, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..=below(rng, 3) {
        let at = below(rng, bytes.len());
        bytes[at] = match below(rng, 3) {
            0 => octet(rng),
            1 => bytes[at] ^ 1 << below(rng, 8),
            _ => pick(rng, &EDGES),
        };
    }
}

/// Cuts `bytes` somewhere, or lengthens them.
fn resize(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if below(rng, 2) == 0 {
        bytes.truncate(below(rng, bytes.len() + 1));
    } else {
        bytes.extend(octets(rng, 6));
    }
}

/// One of `seeds`, damaged.
pub(crate) fn mutate(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let seed = &seeds[below(rng, seeds.len())];
    let Some(mut parts) = Parts::of(seed) else { return blunt(rng, seed) };
    match below(rng, 8) {
        0 => return seed.clone(),
        1 => return blunt(rng, seed),
        _ => {}
    }
    for _ in 0..=below(rng, 2) {
        structured(rng, &mut parts, seeds);
    }
    parts.message()
}

/// The octets behind the header are changed, cut or added to, and the header fits again, mostly.
fn blunt(rng: &mut Rng, seed: &[u8]) -> Vec<u8> {
    let mut body = seed[HEADER..].to_vec();
    match below(rng, 3) {
        0 => resize(rng, &mut body),
        _ => scratch(rng, &mut body),
    }
    let mut message = with_header(seed[18], &body);
    if below(rng, 16) == 0 {
        scratch(rng, &mut message);
    }
    message
}

fn structured(rng: &mut Rng, parts: &mut Parts, seeds: &[Vec<u8>]) {
    let count = parts.attributes.len();
    let at = below(rng, count);
    match below(rng, 12) {
        0 => resize(rng, &mut parts.announced),
        1 => scratch(rng, &mut parts.announced),
        2 => scratch(rng, &mut parts.withdrawn),
        3 => {
            if let Some(other) = Parts::of(&seeds[below(rng, seeds.len())]) {
                parts.attributes.extend(other.attributes);
            }
        }
        4 => {
            let value = octets(rng, 24);
            let flags = pick(rng, &[0x40, 0x80, 0xc0, 0xe0, 0x50, 0xd0]);
            parts.attributes.push(Attribute { flags, code: pick(rng, &TYPES), value, lie: 0 });
        }
        _ if count == 0 => parts.announced.extend([24, 198, 51, 100]),
        5 => {
            parts.attributes.remove(at);
        }
        6 => {
            let twin = parts.attributes[at].clone();
            parts.attributes.push(twin);
        }
        7 => parts.attributes.swap(at, 0),
        8 => parts.attributes[at].flags = octet(rng),
        9 => parts.attributes[at].lie = pick(rng, &[-4, -2, -1, 1, 2, 4, 300]),
        10 => resize(rng, &mut parts.attributes[at].value),
        _ => scratch(rng, &mut parts.attributes[at].value),
    }
}
