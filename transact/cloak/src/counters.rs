//! What happened to frames and connections, counted by reason.

cloakway_types::counts! {
    /// A reason to count.
    pub enum Count {
        /// A TCP segment was let in.
        SegmentIn = "segment-in",
        /// A TCP segment was sent.
        SegmentOut = "segment-out",
        /// An ARP request for one of our addresses was answered.
        ArpAnswered = "arp-answered",
        /// A neighbour solicitation for one of our addresses was answered.
        SolicitationAnswered = "solicitation-answered",
        /// We asked for the gateway's Ethernet address.
        GatewayAsked = "gateway-asked",
        /// The gateway's Ethernet address was learnt or confirmed.
        GatewayLearnt = "gateway-learnt",
        /// A piece of a datagram was kept until the others come.
        FragmentKept = "fragment-kept",
        /// A datagram was put together.
        FragmentsJoined = "fragments-joined",
        /// A handshake began.
        SynAdmitted = "syn-admitted",
        /// A SYN that found no room was answered, and forgotten.
        CookieSent = "syn-cookie-sent",
        /// Such an answer came back, and its connection was made.
        CookieRedeemed = "syn-cookie-redeemed",
        /// A handshake finished.
        ConnectionOpened = "connection-opened",

        /// Dropped: too short, bad lengths, versions, options or flags.
        Malformed = "drop-malformed",
        /// Dropped: a wrong IPv4, ICMPv6 or TCP checksum.
        BadChecksum = "drop-checksum",
        /// Dropped: not to our Ethernet address, or from a group or our own address.
        OtherHost = "drop-other-host",
        /// Dropped: neither ARP, IPv4 nor IPv6.
        OtherEtherType = "drop-ether-type",
        /// Dropped: ARP that we neither asked for nor have to answer.
        OtherArp = "drop-arp",
        /// Dropped: an IP destination that is not ours.
        OtherAddress = "drop-other-address",
        /// Dropped: a fragment that overlaps another or does not fit, and what there was of its datagram.
        Fragment = "drop-fragment",
        /// Dropped: a fragment while the bound of datagrams, in all or of its source, was reached.
        FragmentsFull = "drop-fragments-full",
        /// Dropped: IPv4 options.
        IpOptions = "drop-ip-options",
        /// Dropped: an IPv6 extension header.
        ExtensionHeader = "drop-extension-header",
        /// Dropped: ICMP or ICMPv6 other than neighbour discovery for us; ping is here.
        Icmp = "drop-icmp",
        /// Dropped: neighbour discovery that breaks RFC 4861 §7.1, or that we neither asked for nor have to answer.
        OtherDiscovery = "drop-discovery",
        /// Dropped: an IP protocol other than TCP.
        OtherProtocol = "drop-protocol",
        /// Dropped: a source outside the member prefixes.
        NotMember = "drop-not-member",
        /// Dropped: another TCP port.
        OtherPort = "drop-port",
        /// Dropped: a segment of no connection.
        NoConnection = "drop-no-connection",
        /// Dropped: a SYN with data.
        SynData = "drop-syn-data",
        /// Dropped: a SYN while the half-open bound was reached.
        HalfOpenFull = "drop-half-open-full",
        /// Dropped: a SYN while the connection bound was reached.
        ConnectionsFull = "drop-connections-full",
        /// Dropped: a SYN while the half-open bound of its ISP was reached.
        IspHalfOpenFull = "drop-isp-half-open-full",
        /// Dropped: a SYN while the connection bound of its ISP was reached.
        IspFull = "drop-isp-full",
        /// Dropped: a SYN while the bound of its source was reached.
        SourceFull = "drop-source-full",

        /// Forgotten: a datagram of which pieces did not come in time.
        FragmentsExpired = "fragments-expired",
        /// Forgotten: a half-open connection older than a second, to make room for a new one.
        HalfOpenEvicted = "half-open-evicted",
        /// Forgotten: a half-open connection at its time limit.
        HandshakeExpired = "handshake-expired",
        /// Forgotten: a connection whose peer was silent too long.
        IdleExpired = "idle-expired",
        /// Forgotten: a closing connection at its time limit.
        LingerExpired = "linger-expired",
        /// Ended by the peer's RST.
        PeerReset = "peer-reset",

        /// Kept in: an RST that the TCP stack wanted to send.
        RstSuppressed = "egress-rst-suppressed",
        /// Kept in: anything else that the TCP stack wanted to send and that is not a segment of its connection.
        EgressRefused = "egress-refused",
        /// Kept in: the queue of frames was full; TCP sends again.
        TransmitFull = "egress-queue-full",
    }
}

/// How often each [`Count`] happened since the start.
pub type Counters = cloakway_types::Counters<Count>;
