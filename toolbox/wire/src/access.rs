//! What an Access-Accept grants (RFC 2865), and what tells to which session it belongs.
//!
//! Some NASes never say in accounting which prefix they delegate: only the Access-Accept does (RFC 4818). Access and
//! accounting have no name in common; what both say about the line has to agree.

use ipnet::IpNet;

use crate::accounting::{self, Naming, RecordError, kind};
use crate::radius::Packet;
use crate::record::{Nas, User};

const NAS_PORT: u8 = 5;
const CLASS: u8 = 25;
const CALLING_STATION_ID: u8 = 31;
const NAS_PORT_ID: u8 = 87;

/// What a packet says about the line that somebody came in by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    session: Option<Vec<u8>>,
    port: Option<Vec<u8>>,
    port_name: Option<Vec<u8>>,
    caller: Option<Vec<u8>>,
    /// What the server wants to see again in accounting (RFC 2865 §5.25).
    class: Vec<Vec<u8>>,
}

impl Line {
    /// What `packet` says.
    #[must_use]
    pub fn of(packet: Packet<'_>) -> Self {
        let first =
            |kind| packet.attributes().find(|attribute| attribute.kind == kind).map(|found| found.value.to_vec());
        Self {
            session: first(kind::ACCT_SESSION_ID),
            port: first(NAS_PORT),
            port_name: first(NAS_PORT_ID),
            caller: first(CALLING_STATION_ID),
            class: packet.attributes().filter(|attribute| attribute.kind == CLASS).map(|a| a.value.to_vec()).collect(),
        }
    }

    /// Whether the two may be one: nothing that both say differs.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        fn fits<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        let (class, other_class) = (Some(&self.class), Some(&other.class));
        fits(self.session.as_ref(), other.session.as_ref())
            && fits(self.port.as_ref(), other.port.as_ref())
            && fits(self.port_name.as_ref(), other.port_name.as_ref())
            && fits(self.caller.as_ref(), other.caller.as_ref())
            && fits(class.filter(|class| !class.is_empty()), other_class.filter(|class| !class.is_empty()))
    }

    /// Whether the two say the same of the line, other than by what the server has put in.
    #[must_use]
    pub fn is_the_same(&self, other: &Self) -> bool {
        let without = |line: &Self| Self { class: Vec::new(), ..line.clone() };
        without(self) == without(other)
    }
}

/// What was granted to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who: by the name that accounting will have (RFC 2865 §5.1 lets the server change it).
    pub user: User,
    /// Where they came in.
    pub nas: Nas,
    /// By which line.
    pub line: Line,
    /// What is delegated to them (Delegated-IPv6-Prefix).
    pub delegated: Vec<IpNet>,
}

/// What `accept` grants to who sent `request`, named as accounting will name them. Both are genuine.
///
/// # Errors
/// [`RecordError`] when an attribute is not what it should be.
pub fn grant(request: Packet<'_>, accept: Packet<'_>, naming: Naming) -> Result<Grant, RecordError> {
    let mut grant = Grant { user: User::Unstated, nas: Nas::default(), line: Line::of(request), delegated: Vec::new() };
    grant.line.class = Line::of(accept).class;
    for attribute in request.attributes() {
        match attribute.kind {
            kind::USER_NAME if naming == Naming::UserName => grant.user = accounting::user(&attribute),
            _ => accounting::name_nas(&mut grant.nas, &attribute)?,
        }
    }
    for attribute in accept.attributes() {
        match attribute.kind {
            kind::USER_NAME if naming == Naming::UserName => grant.user = accounting::user(&attribute),
            kind::CHARGEABLE_USER_IDENTITY if naming == Naming::ChargeableUserIdentity => {
                grant.user = accounting::chargeable(&attribute);
            }
            kind::DELEGATED_IPV6_PREFIX => {
                let prefix = accounting::prefix(&attribute)?;
                if !prefix.addr().is_unspecified() {
                    grant.delegated.push(prefix.into());
                }
            }
            _ => {}
        }
    }
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radius::{Request, build_request};

    fn packet(attributes: &[(u8, &[u8])]) -> Packet<'static> {
        let built = build_request(Request::Access, 1, attributes, b"s", [0; 16], false).unwrap();
        Packet::parse(built.leak()).unwrap()
    }

    #[test]
    fn the_accept_says_what_is_delegated_and_under_which_name_accounting_will_come() {
        let request = packet(&[(1, b"alice"), (32, b"edge"), (NAS_PORT, &[0, 0, 0, 7])]);
        let prefix: &[u8] = &[0, 56, 0x20, 1, 0x0d, 0xb8, 0x51, 0, 0x64];
        let of = |attributes: &[(u8, &[u8])]| grant(request, packet(attributes), Naming::UserName);
        let granted = of(&[(123, prefix), (123, &[0, 0]), (CLASS, b"c")]).unwrap();
        assert_eq!(granted.user, User::Named("alice".parse().unwrap()));
        assert_eq!(granted.nas.identifier.as_deref(), Some("edge"));
        assert_eq!(granted.delegated, ["2001:db8:5100:6400::/56".parse::<IpNet>().unwrap()]);
        assert_eq!(of(&[(1, b"alice@isp")]).unwrap().user, User::Named("alice@isp".parse().unwrap()));
        let paying = grant(request, packet(&[(1, b"x"), (89, b"payer")]), Naming::ChargeableUserIdentity).unwrap();
        assert_eq!(paying.user, User::Named("payer".parse().unwrap()));
        assert_eq!(of(&[(123, &[0, 129])]), Err(RecordError::PrefixLength { kind: 123, at: 20, length: 129 }));
    }

    #[test]
    fn lines_differ_when_something_that_both_say_differs() {
        let line = |attributes: &[(u8, &[u8])]| Line::of(packet(attributes));
        let full = line(&[(44, b"s"), (5, &[0, 0, 0, 1]), (87, b"ge-0"), (31, b"mac"), (25, b"c")]);
        assert!(full.may_be(&full) && full.may_be(&line(&[])) && full.may_be(&line(&[(31, b"mac")])));
        for other in [(44, &b"t"[..]), (5, &[0, 0, 0, 2]), (87, b"ge-1"), (31, b"cam"), (25, b"d")] {
            assert!(!full.may_be(&line(&[other])), "{other:?}");
        }
        assert!(full.is_the_same(&line(&[(44, b"s"), (5, &[0, 0, 0, 1]), (87, b"ge-0"), (31, b"mac"), (25, b"d")])));
        assert!(!full.is_the_same(&line(&[])));
    }
}
