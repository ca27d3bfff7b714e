//! UPDATE: routes that come and go (RFC 4271 §4.3, RFC 4760, RFC 7606).

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::attribute::{self, Attributes, FourOctetWords, RawView};
use crate::error::{AttributeError, AttributeFault, DecodeError, Disposition, EncodeError};
use crate::flow::{self, FlowRule};
use crate::message::Context;
use crate::multiprotocol::{MpReach, MpUnreach};
use crate::nlri;
use crate::reader::Reader;
use crate::rules::{code, flag};
use crate::types::Family;

/// Path identifiers, each in the place of its prefix in the list of the same name; empty where the session has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathIds {
    /// Of [`Update::withdrawn`].
    pub withdrawn: Vec<u32>,
    /// Of [`Update::mp_unreach`].
    pub mp_unreach: Vec<u32>,
    /// Of [`Update::mp_reach`].
    pub mp_reach: Vec<u32>,
    /// Of [`Update::announced`].
    pub announced: Vec<u32>,
}

/// The prefixes of an UPDATE with their path identifiers, 0 where the session has none; [`Update::treat_as_withdraw`]
/// is obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    /// What goes.
    pub gone: Vec<(IpNet, u32)>,
    /// What comes.
    pub come: Vec<(IpNet, u32)>,
}

/// An UPDATE message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// IPv4 prefixes that go.
    pub withdrawn: Vec<Ipv4Net>,
    /// Prefixes of any family that go.
    pub mp_unreach: Option<MpUnreach>,
    /// Prefixes of any family that come.
    pub mp_reach: Option<MpReach>,
    /// What is said of the prefixes that come.
    pub attributes: Attributes,
    /// IPv4 prefixes that come.
    pub announced: Vec<Ipv4Net>,
    /// The path identifiers of all of these, where the session has them (RFC 7911).
    pub path_ids: PathIds,
    /// What was wrong and could be borne (RFC 7606). Never encoded.
    pub flaws: Vec<AttributeError>,
    /// Prefixes of multicast groups, which came among those of hosts and are left out (RFC 4271 §6.3). Never encoded.
    pub left_out: Vec<IpNet>,
}

impl Update {
    /// The End-of-RIB marker of `family` (RFC 4724 §2).
    #[must_use]
    pub fn end_of_rib(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::default(),
            Family::Ipv6 => Self { mp_unreach: Some(MpUnreach::Ipv6(Vec::new())), ..Self::default() },
        }
    }

    /// The End-of-RIB marker of flow specifications for packets of `family`.
    #[must_use]
    pub fn end_of_flow(family: Family) -> Self {
        Self { mp_unreach: Some(MpUnreach::Flow { family, rules: Vec::new() }), ..Self::default() }
    }

    fn has_no_more_than_mp_unreach(&self) -> bool {
        self.withdrawn.is_empty()
            && self.announced.is_empty()
            && self.mp_reach.is_none()
            && self.attributes.is_empty()
            && self.flaws.is_empty()
    }

    /// The family whose flow specifications it marks the end of, if it is such an End-of-RIB.
    #[must_use]
    pub fn ends_flow_of(&self) -> Option<Family> {
        match &self.mp_unreach {
            Some(MpUnreach::Flow { family, rules }) if rules.is_empty() && self.has_no_more_than_mp_unreach() => {
                Some(*family)
            }
            _ => None,
        }
    }

    /// The family that it marks the end of, if it is an End-of-RIB.
    #[must_use]
    pub fn ends_rib_of(&self) -> Option<Family> {
        match &self.mp_unreach {
            _ if !self.has_no_more_than_mp_unreach() => None,
            None => Some(Family::Ipv4),
            Some(MpUnreach::Ipv4(gone)) if gone.is_empty() => Some(Family::Ipv4),
            Some(MpUnreach::Ipv6(gone)) if gone.is_empty() => Some(Family::Ipv6),
            Some(_) => None,
        }
    }

    /// Whether a flaw makes the prefixes that come count as withdrawn (RFC 7606 §2).
    #[must_use]
    pub fn treat_as_withdraw(&self) -> bool {
        self.flaws.iter().any(|flaw| flaw.disposition() == Disposition::Withdraw)
    }

    /// The families that are no longer to be listened to, until the session starts anew (RFC 7606 §2).
    pub fn disables(&self) -> impl Iterator<Item = Family> {
        let disable = |flaw: &&AttributeError| flaw.disposition() == Disposition::DisableFamily;
        self.flaws.iter().filter(disable).filter_map(AttributeError::family)
    }

    /// The families of packets whose flow specifications are no longer to be listened to.
    pub fn disables_flow(&self) -> impl Iterator<Item = Family> {
        let disable = |flaw: &&AttributeError| flaw.disposition() == Disposition::DisableFamily;
        self.flaws.iter().filter(disable).filter_map(AttributeError::flow_family)
    }

    /// The flow specifications that come; none under [`Update::treat_as_withdraw`].
    #[must_use]
    pub fn flow_reachable(&self) -> &[FlowRule] {
        if self.treat_as_withdraw() { &[] } else { self.named_flow() }
    }

    /// The flow specifications that go, with those that count as withdrawn.
    pub fn flow_unreachable(&self) -> impl Iterator<Item = &FlowRule> {
        let gone: &[FlowRule] = match &self.mp_unreach {
            Some(MpUnreach::Flow { rules, .. }) => rules,
            _ => &[],
        };
        gone.iter().chain(if self.treat_as_withdraw() { self.named_flow() } else { &[] })
    }

    fn named_flow(&self) -> &[FlowRule] {
        match &self.mp_reach {
            Some(MpReach::Flow { rules, .. }) => rules,
            _ => &[],
        }
    }

    /// Whether the peer named something that comes, even if it can't be read.
    fn names_something(&self) -> bool {
        let unread = |flaw: &AttributeError| (flaw.code, flaw.fault) == (code::MP_REACH, AttributeFault::FlowRule);
        self.named_reachable().next().is_some() || !self.named_flow().is_empty() || self.flaws.iter().any(unread)
    }

    /// The prefixes that come, all families; none under [`Update::treat_as_withdraw`].
    pub fn reachable(&self) -> impl Iterator<Item = IpNet> {
        let counts = !self.treat_as_withdraw();
        self.named_reachable().filter(move |_| counts)
    }

    /// The prefixes that go, all families, with those that count as withdrawn.
    pub fn unreachable(&self) -> impl Iterator<Item = IpNet> {
        let (v4, v6): (&[Ipv4Net], &[Ipv6Net]) = match &self.mp_unreach {
            Some(MpUnreach::Ipv4(prefixes)) => (prefixes, &[]),
            Some(MpUnreach::Ipv6(prefixes)) => (&[], prefixes),
            Some(MpUnreach::Flow { .. } | MpUnreach::Other { .. }) | None => (&[], &[]),
        };
        let counts = self.treat_as_withdraw();
        chain(&self.withdrawn, v4, v6).chain(self.named_reachable().filter(move |_| counts))
    }

    /// All prefixes with their path identifiers.
    #[must_use]
    pub fn paths(&self) -> Paths {
        fn add<P: Copy + Into<IpNet>>(prefixes: &[P], ids: &[u32], to: &mut Vec<(IpNet, u32)>) {
            let ids = ids.iter().copied().chain(std::iter::repeat(0));
            to.extend(prefixes.iter().map(|prefix| (*prefix).into()).zip(ids));
        }
        let mut paths = Paths::default();
        add(&self.withdrawn, &self.path_ids.withdrawn, &mut paths.gone);
        match &self.mp_unreach {
            Some(MpUnreach::Ipv4(prefixes)) => add(prefixes, &self.path_ids.mp_unreach, &mut paths.gone),
            Some(MpUnreach::Ipv6(prefixes)) => add(prefixes, &self.path_ids.mp_unreach, &mut paths.gone),
            Some(MpUnreach::Flow { .. } | MpUnreach::Other { .. }) | None => {}
        }
        let to = if self.treat_as_withdraw() { &mut paths.gone } else { &mut paths.come };
        add(&self.announced, &self.path_ids.announced, to);
        match &self.mp_reach {
            Some(MpReach::Ipv4 { prefixes, .. } | MpReach::Ipv4ByIpv6 { prefixes, .. }) => {
                add(prefixes, &self.path_ids.mp_reach, to);
            }
            Some(MpReach::Ipv6 { prefixes, .. }) => add(prefixes, &self.path_ids.mp_reach, to),
            Some(MpReach::Flow { .. } | MpReach::Other { .. }) | None => {}
        }
        paths
    }

    /// Takes out all prefixes of `family`.
    pub fn drop_family(&mut self, family: Family) {
        let reach = match &self.mp_reach {
            Some(MpReach::Ipv4 { .. } | MpReach::Ipv4ByIpv6 { .. }) => Some(Family::Ipv4),
            Some(MpReach::Ipv6 { .. }) => Some(Family::Ipv6),
            Some(MpReach::Flow { .. } | MpReach::Other { .. }) | None => None,
        };
        let unreach = match &self.mp_unreach {
            Some(MpUnreach::Ipv4(_)) => Some(Family::Ipv4),
            Some(MpUnreach::Ipv6(_)) => Some(Family::Ipv6),
            Some(MpUnreach::Flow { .. } | MpUnreach::Other { .. }) | None => None,
        };
        if reach == Some(family) {
            self.mp_reach = None;
            self.path_ids.mp_reach.clear();
        }
        if unreach == Some(family) {
            self.mp_unreach = None;
            self.path_ids.mp_unreach.clear();
        }
        if family == Family::Ipv4 {
            self.withdrawn.clear();
            self.announced.clear();
            self.path_ids.withdrawn.clear();
            self.path_ids.announced.clear();
        }
    }

    fn named_reachable(&self) -> impl Iterator<Item = IpNet> {
        let (v4, v6): (&[Ipv4Net], &[Ipv6Net]) = match &self.mp_reach {
            Some(MpReach::Ipv4 { prefixes, .. } | MpReach::Ipv4ByIpv6 { prefixes, .. }) => (prefixes, &[]),
            Some(MpReach::Ipv6 { prefixes, .. }) => (&[], prefixes),
            Some(MpReach::Flow { .. } | MpReach::Other { .. }) | None => (&[], &[]),
        };
        chain(&self.announced, v4, v6)
    }

    pub(crate) fn decode_body(body: &[u8], context: Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut field = |what| {
            let length = reader.u16().map(usize::from);
            length.and_then(|length| reader.take(length)).ok_or(DecodeError::UpdateTruncated(what))
        };
        let withdrawn = field("the list of withdrawn routes")?;
        let attributes = field("the list of path attributes")?;
        let networks =
            |octets, what| nlri::read_all::<Ipv4Net>(octets, context.path_ids.ipv4).ok_or(DecodeError::Network(what));
        let (withdrawn, withdrawn_ids) = networks(withdrawn, "the list of withdrawn routes")?;
        let (announced, announced_ids) = networks(reader.rest(), "the list of announced routes")?;
        let path_ids = PathIds { withdrawn: withdrawn_ids, announced: announced_ids, ..PathIds::default() };
        let mut update = Self { withdrawn, announced, path_ids, ..Self::default() };
        update.read_attributes(attributes, context)?;
        // RFC 7606 §5.2: with a flaw, and no prefix found that would go with it, nothing milder is left.
        if !update.names_something()
            && update.disables().next().is_none()
            && update.disables_flow().next().is_none()
            && let Some(flaw) = update.flaws.iter().find(|flaw| flaw.disposition() == Disposition::Withdraw)
        {
            return Err(flaw.clone().into());
        }
        update.leave_out_multicast();
        Ok(update)
    }

    /// RFC 4271 §6.3: a prefix that has no meaning is ignored, and the rest stands.
    fn leave_out_multicast(&mut self) {
        let Self { announced, mp_reach, path_ids, left_out, .. } = self;
        nlri::leave_out_multicast(announced, &mut path_ids.announced, left_out);
        match mp_reach {
            Some(MpReach::Ipv4 { prefixes, .. } | MpReach::Ipv4ByIpv6 { prefixes, .. }) => {
                nlri::leave_out_multicast(prefixes, &mut path_ids.mp_reach, left_out);
            }
            Some(MpReach::Ipv6 { prefixes, .. }) => {
                nlri::leave_out_multicast(prefixes, &mut path_ids.mp_reach, left_out);
            }
            Some(MpReach::Flow { .. } | MpReach::Other { .. }) | None => {}
        }
    }

    fn read_attributes(&mut self, list: &[u8], context: Context) -> Result<(), DecodeError> {
        let (mut attributes, cut_off) = attribute::split(list);
        // The order on the wire is free; a second of a type is behind the first.
        attributes.sort_by_key(|attribute| attribute.code);
        let mut words = FourOctetWords::default();
        let mut previous = None;
        for attribute in &attributes {
            let repeated = previous.replace(attribute.code) == Some(attribute.code);
            let read = if repeated {
                Err(AttributeFault::Repeated)
            } else {
                attribute::check_flags(*attribute).and_then(|()| self.read_attribute(*attribute, context, &mut words))
            };
            if let Err(fault) = read {
                self.note(attribute::flaw(*attribute, fault))?;
            }
            // RFC 7606 §3 (h): wrong flags on the prefixes' own attribute still say which ones to withdraw.
            if read == Err(AttributeFault::Flags)
                && matches!(attribute.code, code::MP_REACH | code::MP_UNREACH)
                && let Err(fault) = self.read_attribute(*attribute, context, &mut words)
            {
                self.note(attribute::flaw(*attribute, fault))?;
            }
        }
        self.attributes.amend(words);
        if let Some(flaw) = cut_off {
            self.note(flaw)?;
        }
        // RFC 8955 §10: an action that can't be read.
        if !self.named_flow().is_empty()
            && flow::malformed(&self.attributes.extended_communities)
            && let Some(attribute) = attributes.iter().find(|raw| raw.code == code::EXTENDED_COMMUNITIES)
        {
            self.note(attribute::flaw(*attribute, AttributeFault::Value))?;
        }
        if self.names_something() {
            let missing = [
                (code::ORIGIN, self.attributes.origin.is_none()),
                (code::AS_PATH, self.attributes.as_path.is_none()),
                (code::NEXT_HOP, self.attributes.next_hop.is_none() && !self.announced.is_empty()),
            ];
            for (code, missing) in missing {
                if missing && !self.flaws.iter().any(|flaw| flaw.code == code) {
                    self.note(AttributeError { code, fault: AttributeFault::Missing, received: Vec::new() })?;
                }
            }
        }
        Ok(())
    }

    /// Keeps a flaw that can be borne.
    fn note(&mut self, flaw: AttributeError) -> Result<(), AttributeError> {
        if flaw.disposition() == Disposition::Reset {
            return Err(flaw);
        }
        self.flaws.push(flaw);
        Ok(())
    }

    fn read_attribute(
        &mut self,
        attribute: RawView<'_>,
        context: Context,
        words: &mut FourOctetWords,
    ) -> Result<(), AttributeFault> {
        match attribute.code {
            code::MP_REACH => {
                let (reach, ids, fault) = MpReach::decode(attribute.value, context).ok_or(AttributeFault::Length)?;
                self.mp_reach = Some(reach);
                self.path_ids.mp_reach = ids;
                fault.map_or(Ok(()), Err)
            }
            code::MP_UNREACH => {
                let (unreach, ids, fault) =
                    MpUnreach::decode(attribute.value, context).ok_or(AttributeFault::Length)?;
                self.mp_unreach = Some(unreach);
                self.path_ids.mp_unreach = ids;
                fault.map_or(Ok(()), Err)
            }
            _ => self.attributes.set(attribute, context, words),
        }
    }

    pub(crate) fn encode_body(&self, context: Context, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut withdrawn = Vec::new();
        let with_ids = context.path_ids.ipv4;
        nlri::write_all(&self.withdrawn, &self.path_ids.withdrawn, with_ids, &mut withdrawn);
        let mut attributes = Vec::new();
        // RFC 7606 §5.1: first, so that the receiver finds the prefixes even if the rest is damaged.
        if let Some(unreach) = &self.mp_unreach {
            let value = unreach.encode(&self.path_ids.mp_unreach, context);
            attribute::write_attribute(flag::OPTIONAL, code::MP_UNREACH, &value, &mut attributes)?;
        }
        if let Some(reach) = &self.mp_reach {
            let value = reach.encode(&self.path_ids.mp_reach, context);
            attribute::write_attribute(flag::OPTIONAL, code::MP_REACH, &value, &mut attributes)?;
        }
        self.attributes.encode(self.attributes.next_hop, context, &mut attributes)?;
        for (what, field) in [("list of withdrawn routes", &withdrawn), ("list of path attributes", &attributes)] {
            let length = field.len();
            let limit = usize::from(u16::MAX);
            let length = u16::try_from(length).map_err(|_| EncodeError { what, length, limit })?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(field);
        }
        nlri::write_all(&self.announced, &self.path_ids.announced, with_ids, out);
        Ok(())
    }
}

fn chain<'a>(first: &'a [Ipv4Net], v4: &'a [Ipv4Net], v6: &'a [Ipv6Net]) -> impl Iterator<Item = IpNet> + 'a {
    first.iter().chain(v4).copied().map(IpNet::V4).chain(v6.iter().copied().map(IpNet::V6))
}
