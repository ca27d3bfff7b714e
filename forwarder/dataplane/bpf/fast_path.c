// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// The fast path: forwards the plain packet, and hands every other one, unchanged, to the guarded kernel.
//
// It drops nothing but what the meter refuses, and never decides "accept" for what it cannot read: a packet that is odd
// in any way, or that the policy refuses, takes the slow path, where the guard (forwarder-core's ruleset) drops and
// counts it. So nothing here has to be complete; it only has to be right about what it forwards. forwarder_core::fast is the model of
// this file, and a test holds the two against each other.
//
// The kernel's own routing table says where a packet goes, so a blackhole, a link that is down and a neighbour that
// is not known are the kernel's word too. An answer is kept for HOP_LIFE jiffies per processor.

#include <linux/pkt_cls.h>

#include "dropped.h"
#include "maps.h"
#include "meter.h"
#include "packet.h"
#include "policy.h"
#include "tunnel.h"
#include "way.h"

// tcx and tc: the next program, or the kernel. (TCX_NEXT of newer headers, TC_ACT_UNSPEC of older ones.)
#define NEXT (-1)

// How a packet is forwarded, and to whom it is charged.
struct way {
    struct hop *hop;
    __u32 dscp;
    struct bill bill;
    // The subscriber's, where it was looked for already.
    struct account *account;
};

// Whether the subscriber's side may send from here. An account of IPv4 that this program has found to be a subscriber's answers
// for the prefixes; one of IPv6 has many addresses.
static __always_inline int may_send(const struct packet *packet, struct way *way)
{
    way->account = NULL;
    if (!(metered & METERS_TO_PRIVATE) || !limits_sources() || packet->family != AF_INET)
        return is_subscriber(packet, packet->source);
    address_bill(&way->bill, packet, packet->source);
    struct account *account = bpf_map_lookup_elem(&sources, &way->bill.source);
    way->account = account;
    __u64 found = (__u64)tag_of(&way->bill.source) << 32 | (__u32)generation;
    __u64 identity = account ? once(&account->identity) : 0;
    if (identity == found)
        return 1;
    if (!is_subscriber(packet, packet->source))
        return 0;
    if (account && identity >> 32 == found >> 32)
        __sync_val_compare_and_swap(&account->identity, identity, found);
    return 1;
}

// The policy of the subscribers' side: TO_PRIVATE with the way, or why not.
static __always_inline enum outcome decide_there(const struct packet *packet, struct way *way)
{
    struct hop *hop = place_of(packet);
    if (!hop)
        return NO_HOP;
    way->hop = hop;
    const struct private_prefix *destination = NULL;
    int kept = is_kept(hop, packet);
    if (!kept) {
        destination = private_of(packet, packet->destination);
        if (!destination)
            return BYSTANDER;
    }
    if (!may_send(packet, way))
        return SOURCE;
    if (!serves(kept ? hop->services : destination->services, packet, packet->destination_port))
        return SERVICE;
    if (!kept && !find_hop(packet, hop, destination))
        return NO_HOP;
    way->bill.limit = hop->limit;
    way->dscp = hop->dscp;
    return TO_PRIVATE;
}

// And of the private links: FROM_PRIVATE with the way, or why not.
static __always_inline enum outcome decide_back(const struct packet *packet, const struct port *port, struct way *way)
{
    struct hop *hop = place_of(packet);
    if (!hop)
        return NO_HOP;
    way->hop = hop;
    way->account = NULL;
    const struct private_prefix *source = private_of(packet, packet->source);
    if (!source || !(source->links & port->bit))
        return SOURCE;
    int kept = is_kept(hop, packet);
    if (!kept && (private_of(packet, packet->destination) || !is_subscriber(packet, packet->destination)))
        return DESTINATION;
    if (!serves(source->services, packet, packet->source_port))
        return SERVICE;
    if (!kept && !find_hop(packet, hop, NULL))
        return NO_HOP;
    way->bill.limit = source->limit;
    way->dscp = source->dscp;
    return FROM_PRIVATE;
}

static __always_inline enum outcome decide(const struct packet *packet, const struct port *port, struct way *way)
{
    return port->role == ROLE_SUBSCRIBERS ? decide_there(packet, way) : decide_back(packet, port, way);
}

// Charges what is about to be forwarded. OUTCOMES: it is paid for.
static __always_inline enum outcome charge(const struct packet *packet, __u32 role, struct way *way, __u64 packets, __u64 bytes)
{
    way->bill.packets = packets;
    way->bill.bytes = bytes;
    address_bill(&way->bill, packet, role == ROLE_SUBSCRIBERS ? packet->source : packet->destination);
    return pay(&way->bill, way->account);
}

static __always_inline int stands_aside(void)
{
    __u32 zero = 0;
    struct state *wanted = bpf_map_lookup_elem(&state, &zero);
    if (!wanted || wanted->generation != generation)
        return 1;
    if (!leased)
        return 0;
    __u64 *until = bpf_map_lookup_elem(&lease, &zero);
    return !until || bpf_ktime_get_coarse_ns() > *until;
}

// Sends a packet by a tunnel. What it hands to the kernel is as it was. A tunnel of either family has headers of its own length.
static __always_inline int send_by_tunnel(struct xdp_md *context, const struct packet *packet, struct way *way, __u64 frame)
{
    __u32 number = way->hop->tunnel;
    const struct outer *outer = bpf_map_lookup_elem(&outers, &number);
    const struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &number);
    if (!outer || !tunnel || (outer->until <= bpf_jiffies64() && !find_outer(context, number))) {
        count(NO_HOP, 1, frame);
        return XDP_PASS;
    }
    int size = outer_size(tunnel);
    int padding = frame - sizeof(struct ethhdr) - packet->length;
    if (packet->length + size > outer->mtu || packet->length + size > SUMMED_MOST || bpf_xdp_adjust_head(context, -size)) {
        count(TOO_BIG, 1, frame);
        return XDP_PASS;
    }
    if (padding > 0)
        bpf_xdp_adjust_tail(context, -padding);
    if (meters(ROLE_SUBSCRIBERS)) {
        enum outcome over = charge(packet, ROLE_SUBSCRIBERS, way, 1, packet->length);
        if (over != OUTCOMES) {
            count(over, 1, packet->length);
            tell_xdp(context, over, packet->in, size + sizeof(struct ethhdr));
            return XDP_DROP;
        }
    }
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    if (!rewrite(packet, way->hop, way->dscp, data + (tunnel->family == AF_INET ? OUTER4 : OUTER6), end) ||
        !encapsulate(context, number, source_port(packet, tunnel)))
        return XDP_DROP;
    count(TO_PRIVATE, 1, packet->length);
    return bpf_redirect_map(&devices, tunnel->underlay, XDP_DROP);
}

SEC("xdp")
int fast_path_xdp(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct packet packet = { .context = context, .in = context->ingress_ifindex };
    struct way way;
    enum outcome outcome;
    __u64 frame = size_of(data, end);
    const struct port *port = port_of(packet.in);
    if (!port)
        return XDP_PASS;
    if (stands_aside()) {
        outcome = STANDS_ASIDE;
        goto pass;
    }
    outcome = read_packet(&packet, port, data, end, frame, 1);
    if (outcome != OUTCOMES)
        goto pass;
    outcome = decide(&packet, port, &way);
    if (outcome > FROM_PRIVATE)
        goto pass;
    if (packet.length > way.hop->mtu) {
        outcome = TOO_BIG;
        goto pass;
    }
    if (way.hop->tunnel)
        return send_by_tunnel(context, &packet, &way, frame);
    if (meters(port->role)) {
        enum outcome over = charge(&packet, port->role, &way, 1, packet.length);
        if (over != OUTCOMES) {
            count(over, 1, packet.length);
            tell_xdp(context, over, packet.in, sizeof(struct ethhdr));
            return XDP_DROP;
        }
    }
    if (!rewrite(&packet, way.hop, way.dscp, data, end))
        return XDP_PASS;
    count(outcome, 1, packet.length);
    // A device that is not in the map any more drops.
    return bpf_redirect_map(&devices, way.hop->out, XDP_DROP);
pass:
    count(outcome, 1, frame);
    return XDP_PASS;
}

// At the interface that carries tunnels: takes the packets out of them that the policy lets back.
SEC("xdp")
int carrier_xdp(struct xdp_md *context)
{
    const struct tunnel *tunnel = tunnel_of(context);
    const struct port *port = tunnel ? port_of(tunnel->device) : NULL;
    if (!tunnel || !port)
        return XDP_PASS;
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct packet packet = { .context = context, .in = tunnel->device };
    struct way way;
    int size = tunnel->family == AF_INET ? OUTER4 : OUTER6;
    __u64 frame = size_of(data, end) - size;
    enum outcome outcome = STANDS_ASIDE;
    if (stands_aside())
        goto pass;
    outcome = read_packet(&packet, port, data + size, end, frame, 1);
    if (outcome != OUTCOMES)
        goto pass;
    outcome = decide_back(&packet, port, &way);
    if (outcome > FROM_PRIVATE)
        goto pass;
    outcome = TOO_BIG;
    if (packet.length > way.hop->mtu || way.hop->tunnel || bpf_xdp_adjust_head(context, size))
        goto pass;
    if (meters(ROLE_LINK)) {
        enum outcome over = charge(&packet, ROLE_LINK, &way, 1, packet.length);
        if (over != OUTCOMES) {
            count(over, 1, packet.length);
            tell_xdp(context, over, packet.in, sizeof(struct ethhdr));
            return XDP_DROP;
        }
    }
    data = (void *)(long)context->data;
    end = (void *)(long)context->data_end;
    if (!rewrite(&packet, way.hop, way.dscp, data, end))
        return XDP_DROP;
    count(FROM_PRIVATE, 1, packet.length);
    return bpf_redirect_map(&devices, way.hop->out, XDP_DROP);
pass:
    count(outcome, 1, frame);
    return XDP_PASS;
}

// Headers, with all options of IPv4 or none of IPv6, within reach.
static __always_inline void pull(struct __sk_buff *context)
{
    __u32 needed = sizeof(struct ethhdr) + 60 + 20;
    if (context->data_end - context->data < needed && context->len > context->data_end - context->data)
        bpf_skb_pull_data(context, context->len < needed ? context->len : needed);
}

static __always_inline __u64 mac_of(const struct port *port)
{
    return *(const __u32 *)port->mac | (__u64) * (const __u16 *)(port->mac + 4) << 32;
}

// What tcx is told; what comes before is the outcome of a packet that takes the slow path.
#define TOLD 0x100

// Forwards the packet, or says why not. A frame of its own: with it charge_odd would have too little stack.
static __noinline int forward(struct __sk_buff *context, const struct port *port)
{
    struct packet packet = { .context = context, .in = context->ifindex };
    struct way way;
    if (stands_aside())
        return STANDS_ASIDE;
    // A tag that the device took off is out of band, and the packet none of ours.
    if (context->vlan_present)
        return LINK_LAYER;
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    enum outcome outcome = read_packet(&packet, port, data, end, context->len, 0);
    if (outcome != OUTCOMES)
        return outcome;
    outcome = decide(&packet, port, &way);
    if (outcome > FROM_PRIVATE)
        return outcome;
    __u32 header = packet.family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
    __u32 size = packet.length;
    // A super-packet counts as what it is on the wire.
    __u64 segments = context->gso_segs ? context->gso_segs : 1, bytes = packet.length;
    if (context->gso_size) {
        __u8 *transport = data + sizeof(struct ethhdr) + header;
        if (packet.protocol == TCP) {
            if ((void *)(transport + 20) > end)
                return IP_HEADER;
            header += (transport[12] >> 4) * 4;
        } else {
            header += 8;
        }
        size = context->gso_size + header;
        bytes = packet.length + (segments - 1) * header;
    }
    if (size > way.hop->mtu)
        return TOO_BIG;
    if (meters(port->role)) {
        enum outcome over = charge(&packet, port->role, &way, segments, bytes);
        if (over != OUTCOMES) {
            count(over, segments, bytes);
            tell_skb(context, over);
            return TOLD + TC_ACT_SHOT;
        }
    }
    if (!rewrite(&packet, way.hop, way.dscp, data, end))
        return IP_HEADER;
    count(outcome, segments, bytes);
    return TOLD + bpf_redirect(way.hop->out, 0);
}

SEC("classifier")
int fast_path_tcx(struct __sk_buff *context)
{
    const struct port *port = port_of(context->ifindex);
    if (!port)
        return NEXT;
    pull(context);
    int outcome = forward(context, port);
    if (outcome >= TOLD)
        return outcome - TOLD;
    __u64 segments = context->gso_segs ? context->gso_segs : 1, bytes = context->len;
    if (meters(port->role)) {
        enum outcome over = charge_odd(context, port->role, mac_of(port));
        if (over != OUTCOMES) {
            count(over, segments, bytes);
            tell_skb(context, over);
            return TC_ACT_SHOT;
        }
    }
    count(outcome, segments, bytes);
    return NEXT;
}

// Behind the program of XDP: charges what that one handed to the kernel.
SEC("classifier")
int meter_tcx(struct __sk_buff *context)
{
    const struct port *port = port_of(context->ifindex);
    if (!port || !meters(port->role))
        return NEXT;
    pull(context);
    enum outcome over = charge_odd(context, port->role, mac_of(port));
    if (over == OUTCOMES)
        return NEXT;
    count(over, context->gso_segs ? context->gso_segs : 1, context->len);
    tell_skb(context, over);
    return TC_ACT_SHOT;
}

// Takes the accounts out of their map that are as good as new, and tells the time. Run by the loader, with the keys behind
// the header of a frame: two octets, and sixteen for each.
SEC("classifier")
int sweep(struct __sk_buff *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    __u32 zero = 0;
    __u64 now = now_ns();
    __u64 *told = bpf_map_lookup_elem(&told_time, &zero);
    if (told)
        *told = now;
    for (int index = 0; index < SWEPT_AT_ONCE; index++) {
        struct who *asked = data + 16 + index * sizeof(struct who);
        if ((void *)(asked + 1) > end)
            break;
        struct who who = *asked;
        struct account *account = bpf_map_lookup_elem(&sources, &who);
        if (!account)
            continue;
        __u64 started = once(&account->started);
        if (started == BEGINS || (of_source.period && started != NEVER && (now < started || now - started < of_source.period)))
            continue;
        // No period begins while it is looked at; what is charged meanwhile shows in its packets.
        if (__sync_val_compare_and_swap(&account->started, started, BEGINS) != started)
            continue;
        __u64 used = once(&account->packets);
        if (used < GONE && is_full(account, &of_source, now) &&
            __sync_val_compare_and_swap(&account->packets, used, GONE) == used)
            bpf_map_delete_elem(&sources, &who);
        else
            __sync_lock_test_and_set(&account->started, started);
    }
    return 0;
}

// bpf_fib_lookup is for programs under a licence that goes with the kernel's.
char _license[] SEC("license") = "Dual MIT/GPL";
