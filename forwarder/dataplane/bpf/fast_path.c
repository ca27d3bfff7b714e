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

#include "maps.h"
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
