// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// The fast path: forwards the plain packet, and hands every other one, unchanged, to the guarded kernel.
//
// It never drops and never decides "accept" for what it cannot read: a packet that is odd in any way, or that the
// policy refuses, takes the slow path, where the guard (forwarder-core's ruleset) drops and counts it. So nothing
// here has to be complete; it only has to be right about what it forwards. forwarder_core::fast is the model of
// this file, and a test holds the two against each other.
//
// The kernel's own routing table says where a packet goes, so a blackhole, a link that is down and a neighbour that
// is not known are the kernel's word too. An answer is kept for HOP_LIFE jiffies per processor.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// tcx and tc: the next program, or the kernel. (TCX_NEXT of newer headers, TC_ACT_UNSPEC of older ones.)
#define NEXT (-1)

#define ROLE_SUBSCRIBERS 1
#define ROLE_LINK 2

#define MAX_SERVICES 32
#define HOPS 8192
// One jiffy, 1 to 10 ms, is as long as an answer of the routing table may be old.
#define HOP_LIFE 1

#define TCP 6
#define UDP 17
#define ICMP 1
#define ICMP6 58

#define AF_INET 2
#define AF_INET6 10

// What came of a packet: the index of its counter, in the order of forwarder_core::fast::Outcome::ALL.
enum outcome {
    TO_PRIVATE,
    FROM_PRIVATE,
    BYSTANDER,
    STANDS_ASIDE,
    NOT_IP,
    LINK_LAYER,
    IP_HEADER,
    FRAGMENT,
    HOPS_LEFT,
    SOURCE,
    DESTINATION,
    SERVICE,
    PARTIAL_CHECKSUM,
    NO_HOP,
    TOO_BIG,
    OUTCOMES,
};

// An interface of the policy, by its index.
struct port {
    __u32 role;
    __u8 mac[ETH_ALEN];
    __u16 unused;
};

// A private prefix: the interface of its link, and where its services are (0: everything is allowed).
struct private_prefix {
    __u32 link;
    __u32 services;
};

struct service {
    __u8 protocol;
    __u8 all_ports;
    __u16 low;
    __u16 high;
    __u16 unused;
};

struct services {
    __u32 count;
    struct service list[MAX_SERVICES];
};

struct key4 {
    __u32 length;
    __u8 address[4];
};

struct key6 {
    __u32 length;
    __u8 address[16];
};

// A kept answer of the routing table.
struct hop {
    __u8 address[16];
    __u64 until;
    __u32 in;
    __u32 out;
    __u32 mtu;
    __u8 macs[2 * ETH_ALEN];
};

struct count {
    __u64 packets;
    __u64 bytes;
};

struct state {
    // The one generation of the program that may forward; 0 for none.
    __u64 generation;
    // The newest generation that was ever loaded.
    __u64 newest;
};

// This program's generation, set when it is loaded.
volatile const __u64 generation = 0;

// Pinned: what outlives a program.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct state);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} state SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, OUTCOMES);
    __type(key, __u32);
    __type(value, struct count);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} counts SEC(".maps");

// Each program's own: filled before it is attached and not changed afterwards.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, struct port);
} ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key4);
    __type(value, struct private_prefix);
} private4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key6);
    __type(value, struct private_prefix);
} private6 SEC(".maps");

// 1 for a subscriber's address, 0 for one among them that is not.
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key4);
    __type(value, __u32);
} subscribers4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key6);
    __type(value, __u32);
} subscribers6 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct services);
} services SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, HOPS);
    __type(key, __u32);
    __type(value, struct hop);
} hops SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u32);
} devices SEC(".maps");

// What the look at a packet found, as far as both families need it.
struct packet {
    void *context;
    __u32 context_size;
    __u32 in;
    __u8 source[16];
    __u8 destination[16];
    __u32 length; // of the IP packet
    __u8 protocol;
    __u8 tos;
    __u16 family;
    // Of TCP, UDP and the like; in network order.
    __u16 source_port;
    __u16 destination_port;
    // Whether an ICMP error: part of every service, and the guard's business.
    __u8 is_error;
};

static __always_inline void count(enum outcome outcome, __u64 packets, __u64 bytes)
{
    __u32 key = outcome;
    struct count *counted = bpf_map_lookup_elem(&counts, &key);
    if (counted) {
        counted->packets += packets;
        counted->bytes += bytes;
    }
}

static __always_inline int same16(const __u8 *a, const __u8 *b)
{
    const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;
    return x[0] == y[0] && x[1] == y[1];
}

// memcmp would become a call to a library that is not there.
static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
    return *(const __u32 *)a == *(const __u32 *)b && *(const __u16 *)(a + 4) == *(const __u16 *)(b + 4);
}

static __always_inline __u32 fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static __always_inline int has_ports(__u8 protocol)
{
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    return protocol == TCP || protocol == UDP || protocol == 33 || protocol == 132 || protocol == 136;
}

// Whether the transport checksum is the bare sum of the pseudo header: it was left to a device that will never see
// the packet (CHECKSUM_PARTIAL behind a veth), and only the kernel can still complete it.
static __always_inline int is_partial(const struct packet *packet, void *transport, void *end)
{
    __u16 *found;
    if (packet->protocol == TCP)
        found = transport + 16;
    else if (packet->protocol == UDP)
        found = transport + 6;
    else
        return 0;
    if ((void *)(found + 1) > end)
        return 1;
    __u64 sum = bpf_htons(packet->protocol);
    const __u32 *source = (const __u32 *)packet->source, *destination = (const __u32 *)packet->destination;
    __u32 length = packet->length - (packet->family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
    sum += bpf_htons(length);
    if (packet->family == AF_INET)
        sum += (__u64)source[0] + destination[0];
    else
        for (int i = 0; i < 4; i++)
            sum += (__u64)source[i] + destination[i];
    return *found == fold(sum);
}

// Reads the frame; what it leaves out takes the slow path as the outcome that it gives. OUTCOMES: it is plain.
static __always_inline enum outcome read_packet(struct packet *packet, const struct port *port, void *data, void *end,
                                                __u64 frame, int on_the_wire)
{
    struct ethhdr *ethernet = data;
    if ((void *)(ethernet + 1) > end)
        return NOT_IP;
    if (!same_mac(ethernet->h_dest, port->mac))
        return LINK_LAYER;
    void *at = ethernet + 1;
    void *transport;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = at;
        if ((void *)(ip + 1) > end)
            return IP_HEADER;
        if (*(__u8 *)ip != 0x45)
            return IP_HEADER;
        if (ip->frag_off & bpf_htons(0x3fff))
            return FRAGMENT;
        if (ip->ttl <= 1)
            return HOPS_LEFT;
        const __u32 *words = at;
        if (fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff)
            return IP_HEADER;
        packet->length = bpf_ntohs(ip->tot_len);
        if (packet->length < sizeof(*ip))
            return IP_HEADER;
        packet->family = AF_INET;
        packet->protocol = ip->protocol;
        packet->tos = ip->tos;
        *(__u32 *)packet->source = ip->saddr;
        *(__u32 *)packet->destination = ip->daddr;
        transport = ip + 1;
    } else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = at;
        if ((void *)(ip + 1) > end)
            return IP_HEADER;
        if (ip->version != 6)
            return IP_HEADER;
        switch (ip->nexthdr) {
        case 44:
            return FRAGMENT;
        // Extension headers, and what Mobile IPv6, HIP and Shim6 put between (IANA protocol numbers).
        case 0:
        case 43:
        case 51:
        case 59:
        case 60:
        case 135:
        case 139:
        case 140:
        case 253:
        case 254:
            return IP_HEADER;
        }
        if (ip->hop_limit <= 1)
            return HOPS_LEFT;
        packet->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
        packet->family = AF_INET6;
        packet->protocol = ip->nexthdr;
        packet->tos = 0;
        __builtin_memcpy(packet->source, &ip->saddr, 16);
        __builtin_memcpy(packet->destination, &ip->daddr, 16);
        transport = ip + 1;
    } else {
        return NOT_IP;
    }
    // Shorter than it says, or longer than the least frame and than it says: no plain packet.
    frame -= sizeof(*ethernet);
    if (packet->length > frame || (packet->length < frame && frame > ETH_ZLEN - ETH_HLEN))
        return IP_HEADER;
    packet->is_error = 0;
    packet->source_port = 0;
    packet->destination_port = 0;
    if (has_ports(packet->protocol)) {
        __u16 *both = transport;
        // Behind the length of the packet is padding, whatever it looks like.
        __u32 least = packet->protocol == TCP ? 20 : packet->protocol == UDP ? 8 : 4;
        if ((void *)(both + 2) > end || packet->length < (transport - at) + least)
            return IP_HEADER;
        packet->source_port = both[0];
        packet->destination_port = both[1];
    } else if (packet->protocol == ICMP || packet->protocol == ICMP6) {
        __u8 *kind = transport;
        if ((void *)(kind + 1) > end || packet->length == transport - at)
            return IP_HEADER;
        packet->is_error = packet->protocol == ICMP ? *kind == 3 || *kind == 11 || *kind == 12 : *kind >= 1 && *kind <= 4;
    }
    if (on_the_wire && is_partial(packet, transport, end))
        return PARTIAL_CHECKSUM;
    return OUTCOMES;
}

static __always_inline const struct private_prefix *private_of(const struct packet *packet, const __u8 *address)
{
    if (packet->family == AF_INET) {
        struct key4 key = { .length = 32 };
        __builtin_memcpy(key.address, address, 4);
        return bpf_map_lookup_elem(&private4, &key);
    }
    struct key6 key = { .length = 128 };
    __builtin_memcpy(key.address, address, 16);
    return bpf_map_lookup_elem(&private6, &key);
}

static __always_inline int is_subscriber(const struct packet *packet, const __u8 *address)
{
    __u32 *found;
    if (packet->family == AF_INET) {
        struct key4 key = { .length = 32 };
        __builtin_memcpy(key.address, address, 4);
        found = bpf_map_lookup_elem(&subscribers4, &key);
    } else {
        struct key6 key = { .length = 128 };
        __builtin_memcpy(key.address, address, 16);
        found = bpf_map_lookup_elem(&subscribers6, &key);
    }
    return found && *found;
}

static __always_inline int serves(const struct private_prefix *prefix, const struct packet *packet, __u16 port)
{
    if (!prefix->services)
        return 1;
    if (packet->is_error)
        return 0;
    __u32 key = prefix->services;
    struct services *found = bpf_map_lookup_elem(&services, &key);
    if (!found)
        return 0;
    port = bpf_ntohs(port);
    for (__u32 i = 0; i < MAX_SERVICES && i < found->count; i++) {
        struct service *service = &found->list[i];
        if (service->protocol == packet->protocol && (service->all_ports || (service->low <= port && port <= service->high)))
            return 1;
    }
    return 0;
}

// Where the kernel would send it, or NULL when it would not, or does not know the neighbour yet.
static __always_inline struct hop *hop_of(const struct packet *packet)
{
    const __u32 *words = (const __u32 *)packet->destination;
    __u32 slot = words[0] ^ words[1] ^ words[2] ^ words[3] ^ packet->in;
    slot *= 0x9e3779b1;
    slot >>= 32 - 13;
    struct hop *hop = bpf_map_lookup_elem(&hops, &slot);
    if (!hop)
        return NULL;
    __u64 now = bpf_jiffies64();
    if (hop->until > now && hop->in == packet->in && same16(hop->address, packet->destination))
        return hop;
    struct bpf_fib_lookup fib = {};
    fib.family = packet->family;
    fib.ifindex = packet->in;
    fib.l4_protocol = packet->protocol;
    // Asks for the MTU; whether the packet is too big for it is not for this answer.
    fib.tot_len = 1;
    if (packet->family == AF_INET) {
        fib.tos = packet->tos;
        __builtin_memcpy(&fib.ipv4_src, packet->source, 4);
        __builtin_memcpy(&fib.ipv4_dst, packet->destination, 4);
    } else {
        __builtin_memcpy(fib.ipv6_src, packet->source, 16);
        __builtin_memcpy(fib.ipv6_dst, packet->destination, 16);
    }
    hop->until = 0;
    if (bpf_fib_lookup(packet->context, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
        return NULL;
    __builtin_memcpy(hop->address, packet->destination, 16);
    hop->in = packet->in;
    hop->out = fib.ifindex;
    hop->mtu = fib.mtu_result;
    __builtin_memcpy(hop->macs, fib.dmac, ETH_ALEN);
    __builtin_memcpy(hop->macs + ETH_ALEN, fib.smac, ETH_ALEN);
    hop->until = now + HOP_LIFE;
    return hop;
}

// The policy: TO_PRIVATE or FROM_PRIVATE with the hop, or why not.
static __always_inline enum outcome decide(const struct packet *packet, const struct port *port, struct hop **hop)
{
    const struct private_prefix *destination = private_of(packet, packet->destination);
    if (port->role == ROLE_SUBSCRIBERS) {
        if (!destination)
            return BYSTANDER;
        if (!is_subscriber(packet, packet->source))
            return SOURCE;
        if (!serves(destination, packet, packet->destination_port))
            return SERVICE;
        *hop = hop_of(packet);
        if (!*hop || (*hop)->out != destination->link)
            return NO_HOP;
        return TO_PRIVATE;
    }
    const struct private_prefix *source = private_of(packet, packet->source);
    if (!source || source->link != packet->in)
        return SOURCE;
    if (destination || !is_subscriber(packet, packet->destination))
        return DESTINATION;
    if (!serves(source, packet, packet->source_port))
        return SERVICE;
    *hop = hop_of(packet);
    if (!*hop)
        return NO_HOP;
    __u32 out = (*hop)->out;
    struct port *leaves = bpf_map_lookup_elem(&ports, &out);
    if (!leaves || leaves->role != ROLE_SUBSCRIBERS)
        return NO_HOP;
    return FROM_PRIVATE;
}

static __always_inline int stands_aside(void)
{
    __u32 zero = 0;
    struct state *wanted = bpf_map_lookup_elem(&state, &zero);
    return !wanted || wanted->generation != generation;
}

// Turns the frame into the one that leaves. Nothing is handed to the kernel after this.
static __always_inline int rewrite(const struct packet *packet, const struct hop *hop, void *data, void *end)
{
    struct ethhdr *ethernet = data;
    if (packet->family == AF_INET) {
        struct iphdr *ip = data + sizeof(*ethernet);
        if ((void *)(ip + 1) > end)
            return 0;
        ip->ttl--;
        // RFC 1141: the sum loses 0x0100, so its complement gains it.
        __u32 sum = ip->check + bpf_htons(0x0100);
        ip->check = sum + (sum >= 0xffff);
    } else {
        struct ipv6hdr *ip = data + sizeof(*ethernet);
        if ((void *)(ip + 1) > end)
            return 0;
        ip->hop_limit--;
    }
    __builtin_memcpy(ethernet, hop->macs, 2 * ETH_ALEN);
    return 1;
}

SEC("xdp")
int fast_path_xdp(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct packet packet = { .context = context, .in = context->ingress_ifindex };
    struct hop *hop = NULL;
    enum outcome outcome;
    __u64 frame = end - data;
    struct port *port = bpf_map_lookup_elem(&ports, &packet.in);
    if (!port)
        return XDP_PASS;
    if (stands_aside()) {
        outcome = STANDS_ASIDE;
        goto pass;
    }
    outcome = read_packet(&packet, port, data, end, frame, 1);
    if (outcome != OUTCOMES)
        goto pass;
    outcome = decide(&packet, port, &hop);
    if (outcome > FROM_PRIVATE)
        goto pass;
    if (packet.length > hop->mtu) {
        outcome = TOO_BIG;
        goto pass;
    }
    if (!rewrite(&packet, hop, data, end))
        return XDP_PASS;
    count(outcome, 1, packet.length);
    // A device that is not in the map any more drops.
    return bpf_redirect_map(&devices, hop->out, XDP_DROP);
pass:
    count(outcome, 1, frame);
    return XDP_PASS;
}

SEC("classifier")
int fast_path_tcx(struct __sk_buff *context)
{
    struct packet packet = { .context = context, .in = context->ifindex };
    struct hop *hop = NULL;
    enum outcome outcome;
    struct port *port = bpf_map_lookup_elem(&ports, &packet.in);
    if (!port)
        return NEXT;
    // A super-packet counts as what it is on the wire.
    __u64 segments = context->gso_segs ? context->gso_segs : 1;
    __u64 bytes = context->len;
    if (stands_aside()) {
        outcome = STANDS_ASIDE;
        goto pass;
    }
    // A tag that the device took off is out of band, and the packet none of ours.
    if (context->vlan_present) {
        outcome = LINK_LAYER;
        goto pass;
    }
    __u32 needed = sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + 20;
    if (context->data_end - context->data < needed && context->len > context->data_end - context->data)
        bpf_skb_pull_data(context, context->len < needed ? context->len : needed);
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    outcome = read_packet(&packet, port, data, end, context->len, 0);
    if (outcome != OUTCOMES)
        goto pass;
    outcome = decide(&packet, port, &hop);
    if (outcome > FROM_PRIVATE)
        goto pass;
    __u32 header = packet.family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
    __u32 size = packet.length;
    if (context->gso_size) {
        __u8 *transport = data + sizeof(struct ethhdr) + header;
        if (packet.protocol == TCP) {
            if ((void *)(transport + 20) > end) {
                outcome = IP_HEADER;
                goto pass;
            }
            header += (transport[12] >> 4) * 4;
        } else {
            header += 8;
        }
        size = context->gso_size + header;
        bytes = packet.length + (segments - 1) * header;
    } else {
        bytes = packet.length;
    }
    if (size > hop->mtu) {
        bytes = context->len;
        outcome = TOO_BIG;
        goto pass;
    }
    if (!rewrite(&packet, hop, data, end))
        return NEXT;
    count(outcome, segments, bytes);
    return bpf_redirect(hop->out, 0);
pass:
    count(outcome, segments, bytes);
    return NEXT;
}

// bpf_fib_lookup is for programs under a licence that goes with the kernel's.
char _license[] SEC("license") = "Dual MIT/GPL";
