// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// Where the kernel's routing table sends a packet, and the frame that leaves.

#pragma once

#include "packet.h"

static __always_inline struct hop *place_of(const struct packet *packet)
{
    const __u32 *words = (const __u32 *)packet->destination;
    __u32 slot = words[0] ^ words[1] ^ words[2] ^ words[3] ^ packet->in;
    slot *= 0x9e3779b1;
    slot >>= 32 - 13;
    return bpf_map_lookup_elem(&hops, &slot);
}

// The answer for this destination from this interface that is in its place, while it is fresh.
static __always_inline int is_kept(const struct hop *hop, const struct packet *packet)
{
    return hop->until > bpf_jiffies64() && hop->in == packet->in && same16(hop->address, packet->destination);
}

// Where the kernel would send it: not, or to a neighbour that it does not know, or by no interface of that role and those
// links, is 0. `private` is where it goes, NULL on the way back. Where the kernel's hash chooses, each packet is asked for: the next
// one to the same destination may go another way.
static __always_inline int find_hop(const struct packet *packet, struct hop *hop, const struct private_prefix *private)
{
    int hashed = private && private->spread;
    struct bpf_fib_lookup fib = {};
    fib.family = packet->family;
    fib.ifindex = packet->in;
    fib.l4_protocol = packet->protocol;
    if (hashed) {
        fib.sport = packet->source_port;
        fib.dport = packet->destination_port;
    }
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
    __u64 now = bpf_jiffies64();
    if (bpf_fib_lookup(packet->context, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
        return 0;
    __u32 out = fib.ifindex;
    const struct port *leaves = bpf_map_lookup_elem(&ports, &out);
    if (!leaves || !(private ? leaves->bit & private->links : leaves->role == ROLE_SUBSCRIBERS))
        return 0;
    hop->services = private ? private->services : 0;
    hop->limit = private ? private->limit : 0;
    hop->dscp = private ? private->dscp : 0;
    __builtin_memcpy(hop->address, packet->destination, 16);
    hop->in = packet->in;
    hop->out = out;
    hop->tunnel = leaves->tunnel;
    hop->mtu = fib.mtu_result;
    __builtin_memcpy(hop->macs, fib.dmac, ETH_ALEN);
    __builtin_memcpy(hop->macs + ETH_ALEN, fib.smac, ETH_ALEN);
    hop->until = hashed ? 0 : now + HOP_LIFE;
    return 1;
}

// Turns the frame into the one that leaves, with a DSCP if it gets one. Nothing is handed to the kernel after this.
static __always_inline int rewrite(const struct packet *packet, const struct hop *hop, __u32 dscp, void *data, void *end)
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
        if (dscp & MARKED) {
            __u8 tos = (dscp & 0xfc) | (ip->tos & 3);
            // RFC 1624, equation 3; the first octet of both words is the same.
            ip->check = ~fold((__u64)(__u16)~ip->check + (__u16)~bpf_htons(ip->tos) + bpf_htons(tos));
            ip->tos = tos;
        }
    } else {
        struct ipv6hdr *ip = data + sizeof(*ethernet);
        if ((void *)(ip + 1) > end)
            return 0;
        ip->hop_limit--;
        if (dscp & MARKED) {
            // Six bits behind the version; the two of ECN and the flow label stay.
            __u32 *first = (__u32 *)ip;
            *first = (*first & bpf_htonl(0xf03fffff)) | bpf_htonl((dscp & 0xfc) << 20);
        }
    }
    __builtin_memcpy(ethernet, hop->macs, 2 * ETH_ALEN);
    return 1;
}
