//! The control packet (RFC 5880 §4.1).

use std::fmt;
use std::time::Duration;

/// Octets of a packet without authentication.
pub const LENGTH: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The operator wants no session.
    AdminDown,
    /// No packet comes, or the far end says Down.
    Down,
    /// The far end is heard, and does not hear us yet.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Why a session went down last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing happened yet.
    pub const NONE: Self = Self(0);
    /// No packet for too long.
    pub const EXPIRED: Self = Self(1);
    /// The far end says that it is down.
    pub const NEIGHBOUR_DOWN: Self = Self(3);
    /// The operator ended it.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("no reason given"),
            Self::EXPIRED => f.write_str("no packet in the detection time"),
            Self::NEIGHBOUR_DOWN => f.write_str("the neighbour says that it is down"),
            Self::ADMINISTRATIVELY_DOWN => f.write_str("ended by the operator"),
            Self(number) => write!(f, "diagnostic {number}"),
        }
    }
}

/// A control packet. Times are whole microseconds on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session went down last.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// The sender wants an answer at once.
    pub poll: bool,
    /// This is that answer.
    pub is_final: bool,
    /// The sender is in demand mode.
    pub demand: bool,
    /// So many packets missed mean that the path is down.
    pub multiplier: u8,
    /// The sender's number for the session, never 0.
    pub mine: u32,
    /// The receiver's number as the sender knows it, or 0.
    pub yours: u32,
    /// The sender would like to send no oftener.
    pub desired_transmit: Duration,
    /// The sender takes packets no oftener; zero: none at all.
    pub required_receive: Duration,
}

/// Why a packet is dropped (RFC 5880 §6.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Fewer octets than the length field says, or than a packet has.
    #[error("{0} octets are no packet")]
    Length(usize),
    /// Another version than 1.
    #[error("version {0}, 1 is spoken here")]
    Version(u8),
    /// A multiplier of 0.
    #[error("the multiplier is 0")]
    Multiplier,
    /// The bit is reserved.
    #[error("the multipoint bit is set")]
    Multipoint,
    /// Authentication is not used here.
    #[error("the packet is authenticated, the session is not")]
    Authenticated,
    /// A number of 0.
    #[error("my discriminator is 0")]
    Mine,
    /// Only a session that is down may not know us.
    #[error("your discriminator is 0 in state {0:?}")]
    Yours(State),
}

impl Packet {
    /// Reads a packet; what follows it is ignored.
    ///
    /// # Errors
    /// [`PacketError`]: drop it.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let cut = PacketError::Length(bytes.len());
        let [first, second, multiplier, length, rest @ ..] = bytes else { return Err(cut) };
        let (words, _) = rest.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_be_bytes(*word)).collect();
        let [mine, yours, desired, required, _echo, ..] = words.as_slice() else { return Err(cut) };
        if usize::from(*length) < LENGTH || usize::from(*length) > bytes.len() {
            return Err(cut);
        }
        if first >> 5 != VERSION {
            return Err(PacketError::Version(first >> 5));
        }
        let state = State::from_bits(second >> 6);
        let micros = |number: u32| Duration::from_micros(u64::from(number));
        match () {
            () if *multiplier == 0 => Err(PacketError::Multiplier),
            () if second & MULTIPOINT != 0 => Err(PacketError::Multipoint),
            () if second & AUTHENTICATED != 0 => Err(PacketError::Authenticated),
            () if *mine == 0 => Err(PacketError::Mine),
            () if *yours == 0 && matches!(state, State::Init | State::Up) => Err(PacketError::Yours(state)),
            () => Ok(Self {
                diagnostic: Diagnostic(first & 0x1f),
                state,
                poll: second & POLL != 0,
                is_final: second & FINAL != 0,
                demand: second & DEMAND != 0,
                multiplier: *multiplier,
                mine: *mine,
                yours: *yours,
                desired_transmit: micros(*desired),
                required_receive: micros(*required),
            }),
        }
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.poll, POLL) | flag(self.is_final, FINAL) | flag(self.demand, DEMAND);
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let [m0, m1, m2, m3] = self.mine.to_be_bytes();
        let [y0, y1, y2, y3] = self.yours.to_be_bytes();
        let [d0, d1, d2, d3] = micros(self.desired_transmit).to_be_bytes();
        let [r0, r1, r2, r3] = micros(self.required_receive).to_be_bytes();
        let first = VERSION << 5 | self.diagnostic.0 & 0x1f;
        let second = (self.state as u8) << 6 | flags;
        // The last word: no echo packets are taken.
        [first, second, self.multiplier, 24, m0, m1, m2, m3, y0, y1, y2, y3, d0, d1, d2, d3, r0, r1, r2, r3, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::EXPIRED,
            state: State::Init,
            poll: true,
            is_final: false,
            demand: false,
            multiplier: 3,
            mine: 0x0102_0304,
            yours: 0x0506_0708,
            desired_transmit: Duration::from_millis(50),
            required_receive: Duration::from_millis(60),
        }
    }

    #[test]
    fn a_packet_to_the_octet() {
        let expected = [0x21, 0xa0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0xc3, 0x50, 0, 0, 0xea, 0x60, 0, 0, 0, 0];
        assert_eq!(packet().encode(), expected);
        assert_eq!(Packet::decode(&expected), Ok(packet()));
    }

    #[test]
    fn what_rfc_5880_6_8_6_drops_is_dropped() {
        let good = packet().encode();
        let changed = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            Packet::decode(&bytes)
        };
        assert_eq!(changed(0, 0x01), Err(PacketError::Version(0)));
        assert_eq!(changed(0, 0x41), Err(PacketError::Version(2)));
        assert_eq!(changed(2, 0), Err(PacketError::Multiplier));
        assert_eq!(changed(3, 23), Err(PacketError::Length(24)));
        assert_eq!(changed(3, 25), Err(PacketError::Length(24)));
        assert_eq!(changed(1, 0xa1), Err(PacketError::Multipoint));
        assert_eq!(changed(1, 0xa4), Err(PacketError::Authenticated));
        assert_eq!(Packet::decode(&Packet { mine: 0, ..packet() }.encode()), Err(PacketError::Mine));
        for (state, error) in [(State::Init, true), (State::Up, true), (State::Down, false), (State::AdminDown, false)]
        {
            let bytes = Packet { yours: 0, state, ..packet() }.encode();
            assert_eq!(Packet::decode(&bytes).is_err(), error, "{state:?}");
        }
        for length in 0..LENGTH {
            assert_eq!(Packet::decode(&good[..length]), Err(PacketError::Length(length)));
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }
    }
}
