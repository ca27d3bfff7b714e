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

#include "maps.h"
#include "meter.h"
#include "packet.h"
#include "policy.h"
#include "way.h"

// tcx and tc: the next program, or the kernel. (TCX_NEXT of newer headers, TC_ACT_UNSPEC of older ones.)
#define NEXT (-1)

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
        *hop = hop_of(packet, destination->spread);
        if (!*hop || !((*hop)->bit & destination->links))
            return NO_HOP;
        return TO_PRIVATE;
    }
    const struct private_prefix *source = private_of(packet, packet->source);
    if (!source || !(source->links & port->bit))
        return SOURCE;
    if (destination || !is_subscriber(packet, packet->destination))
        return DESTINATION;
    if (!serves(source, packet, packet->source_port))
        return SERVICE;
    *hop = hop_of(packet, 0);
    if (!*hop || (*hop)->role != ROLE_SUBSCRIBERS)
        return NO_HOP;
    return FROM_PRIVATE;
}

static __always_inline int stands_aside(void)
{
    __u32 zero = 0;
    struct state *wanted = bpf_map_lookup_elem(&state, &zero);
    return !wanted || wanted->generation != generation;
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
    if (meters(port->role)) {
        const struct private_prefix *private = private_of(&packet, outcome == TO_PRIVATE ? packet.destination : packet.source);
        enum outcome over = private ? charge(&packet, port->role, private->limit, 1, packet.length) : SOURCES_FULL;
        if (over != OUTCOMES) {
            count(over, 1, packet.length);
            return XDP_DROP;
        }
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

SEC("classifier")
int fast_path_tcx(struct __sk_buff *context)
{
    struct packet packet = { .context = context, .in = context->ifindex };
    struct hop *hop = NULL;
    enum outcome outcome;
    struct port *port = bpf_map_lookup_elem(&ports, &packet.in);
    if (!port)
        return NEXT;
    pull(context);
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
    if (meters(port->role)) {
        const struct private_prefix *private = private_of(&packet, outcome == TO_PRIVATE ? packet.destination : packet.source);
        enum outcome over = private ? charge(&packet, port->role, private->limit, segments, bytes) : SOURCES_FULL;
        if (over != OUTCOMES) {
            count(over, segments, bytes);
            return TC_ACT_SHOT;
        }
    }
    if (!rewrite(&packet, hop, data, end))
        return NEXT;
    count(outcome, segments, bytes);
    return bpf_redirect(hop->out, 0);
pass:
    if (meters(port->role)) {
        enum outcome over = charge_odd(context, port->role, mac_of(port));
        if (over != OUTCOMES) {
            count(over, segments, bytes);
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
    __u32 in = context->ifindex;
    struct port *port = bpf_map_lookup_elem(&ports, &in);
    if (!port || !meters(port->role))
        return NEXT;
    pull(context);
    enum outcome over = charge_odd(context, port->role, mac_of(port));
    if (over == OUTCOMES)
        return NEXT;
    count(over, context->gso_segs ? context->gso_segs : 1, context->len);
    return TC_ACT_SHOT;
}

// Takes the accounts out of their map that are as good as new, and tells the time. Run by the loader, with the keys behind
// the header of a frame: two octets, and sixteen for each.
SEC("classifier")
int sweep(struct __sk_buff *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    __u32 zero = 0;
    const struct limit *limit = bpf_map_lookup_elem(&limits, &zero);
    if (!limit)
        return 0;
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
        bpf_spin_lock(&account->lock);
        int goes = same16(account->who, who.address) && !account->is_gone && is_idle(account, limit, now);
        if (goes)
            account->is_gone = 1;
        bpf_spin_unlock(&account->lock);
        if (goes)
            bpf_map_delete_elem(&sources, &who);
    }
    return 0;
}

// bpf_fib_lookup is for programs under a licence that goes with the kernel's.
char _license[] SEC("license") = "Dual MIT/GPL";
