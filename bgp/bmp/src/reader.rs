//! A cursor over bytes from a stranger: every read may fail, none can panic.

#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// One BGP message, by the length in its own header.
    pub(crate) fn bgp_message(&mut self) -> Option<&'a [u8]> {
        let length = self.0.get(16..)?.first_chunk::<2>().map(|octets| u16::from_be_bytes(*octets))?;
        if usize::from(length) < bgp_wire::HEADER_LENGTH {
            return None;
        }
        self.take(usize::from(length))
    }

    /// A type and a value (RFC 7854 §4.4).
    pub(crate) fn information(&mut self) -> Option<(u16, &'a [u8])> {
        let kind = self.u16()?;
        let length = self.u16()?;
        Some((kind, self.take(usize::from(length))?))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
