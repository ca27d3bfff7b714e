// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// VXLAN (RFC 7348) in XDP: what leaves for a private link that is a tunnel gets its outer headers here, and what comes in by
// the tunnel loses them here. It is the kernel's device that is described to us: whatever differs from it in any way is
// handed to the kernel, and comes out of that device, where the guard has it.

#pragma once

#include <linux/udp.h>

#include "packet.h"

#define VXLAN 8
#define VXLAN_HAS_VNI bpf_htonl(0x08000000)
#define DF 0x4000
#define DF_INHERITED 2
// Blocks of 32 octets of the largest frame whose sum is taken here.
#define SUMMED_BLOCKS 290
#define SUMMED_MOST (SUMMED_BLOCKS * 32)

#define OUTER4 (ETH_HLEN + 20 + 8 + VXLAN)
#define OUTER6 (ETH_HLEN + 40 + 8 + VXLAN)
#define INHERITED 1

// How the frame that carries another leaves: an answer of the routing table for the other end, kept as long as any.
struct outer {
    __u64 until;
    __u32 mtu;
    __u16 identity;
    __u8 macs[2 * ETH_ALEN];
    __u8 unused[2];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct outer);
} outers SEC(".maps");

// Of the outer headers.
static __always_inline __u32 outer_size(const struct tunnel *tunnel)
{
    return tunnel->family == AF_INET ? OUTER4 : OUTER6;
}

// Asks how frames leave for the other end: not while the kernel would not send them by the underlay, or does not know the neighbour.
__noinline int find_outer(struct xdp_md *context, __u32 number)
{
    struct outer *outer = bpf_map_lookup_elem(&outers, &number);
    const struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &number);
    if (!outer || !tunnel)
        return 0;
    outer->until = 0;
    __u64 now = bpf_jiffies64();
    struct bpf_fib_lookup fib = {};
    fib.family = tunnel->family;
    fib.ifindex = tunnel->underlay;
    fib.l4_protocol = UDP;
    fib.dport = tunnel->port;
    fib.tot_len = 1;
    if (tunnel->family == AF_INET) {
        __builtin_memcpy(&fib.ipv4_src, tunnel->local, 4);
        __builtin_memcpy(&fib.ipv4_dst, tunnel->remote, 4);
    } else {
        __builtin_memcpy(fib.ipv6_src, tunnel->local, 16);
        __builtin_memcpy(fib.ipv6_dst, tunnel->remote, 16);
    }
    // As this host's own, bound to the underlay.
    if (bpf_fib_lookup(context, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_SUCCESS ||
        fib.ifindex != tunnel->underlay)
        return 0;
    outer->mtu = fib.mtu_result;
    __builtin_memcpy(outer->macs, fib.dmac, ETH_ALEN);
    __builtin_memcpy(outer->macs + ETH_ALEN, fib.smac, ETH_ALEN);
    outer->until = now + HOP_LIFE;
    return 1;
}

// The same for every packet of a flow, so that it takes one way through the underlay.
static __always_inline __u16 source_port(const struct packet *packet, const struct tunnel *tunnel)
{
    const __u32 *source = (const __u32 *)packet->source, *destination = (const __u32 *)packet->destination;
    __u32 hash = packet->protocol ^ (packet->source_port << 16 | packet->destination_port);
    for (int i = 0; i < 4; i++) {
        hash = (hash ^ source[i]) * 0x9e3779b1;
        hash = (hash ^ hash >> 15 ^ destination[i]) * 0x85ebca6b;
    }
    hash ^= hash >> 16;
    return tunnel->low + ((__u64)hash * (__u32)(tunnel->high - tunnel->low) >> 32);
}

// The sum of the frame from `from` on, or -1.
__noinline long sum_from(struct xdp_md *context, __u32 from)
{
    if (from > 128)
        return -1;
    void *at = (void *)(long)context->data + from, *end = (void *)(long)context->data_end;
    __u64 sum = 0;
    for (int block = 0; block < SUMMED_BLOCKS && at + 32 <= end; block++, at += 32) {
        const __u32 *words = at;
        for (int i = 0; i < 8; i++)
            sum += words[i];
    }
    for (int i = 0; i < 8 && at + 4 <= end; i++, at += 4)
        sum += *(__u32 *)at;
    if (at + 2 <= end) {
        sum += *(__u16 *)at;
        at += 2;
    }
    if (at + 1 <= end) {
        sum += bpf_htons(*(__u8 *)at << 8);
        at += 1;
    }
    return at + 1 > end ? fold(sum) : -1;
}

static __always_inline __u64 words_of(const __u8 *address)
{
    const __u32 *words = (const __u32 *)address;
    return (__u64)words[0] + words[1] + words[2] + words[3];
}

// Writes the outer headers before the frame, where room has been made for them. 0: it cannot.
__noinline int encapsulate(struct xdp_md *context, __u32 number, __u32 source)
{
    struct outer *outer = bpf_map_lookup_elem(&outers, &number);
    const struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &number);
    if (!outer || !tunnel)
        return 0;
    int is_v4 = tunnel->family == AF_INET;
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    __u16 length = size_of(data, end) - sizeof(struct ethhdr) - (is_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
    struct ethhdr *inside = data + (is_v4 ? OUTER4 : OUTER6);
    struct iphdr *carried = (void *)(inside + 1);
    if ((void *)(carried + 1) > end)
        return 0;
    int carries_v4 = inside->h_proto == bpf_htons(ETH_P_IP);
    __u8 tos = carries_v4 ? carried->tos : bpf_ntohl(*(__u32 *)carried) >> 20;
    __u16 keeps_whole = !carries_v4 ? bpf_htons(DF) : carried->frag_off & bpf_htons(DF);
    // The bits of congestion go along, but for the mark itself (RFC 3168 §9.1.1, full functionality).
    __u8 outside = ((tunnel->tos == INHERITED ? tos : tunnel->tos) & 0xfc) | ((tos & 3) == 3 ? 2 : tos & 3);
    struct ethhdr *ethernet = data;
    struct udphdr *udp;
    __builtin_memcpy(ethernet, outer->macs, 2 * ETH_ALEN);
    if (is_v4) {
        struct iphdr *ip = (void *)(ethernet + 1);
        ethernet->h_proto = bpf_htons(ETH_P_IP);
        *(__u8 *)ip = 0x45;
        ip->tos = outside;
        ip->tot_len = bpf_htons(sizeof(*ip) + length);
        ip->id = bpf_htons(outer->identity++);
        ip->frag_off = tunnel->df == DF_INHERITED ? keeps_whole : tunnel->df ? bpf_htons(DF) : 0;
        ip->ttl = tunnel->ttl;
        ip->protocol = UDP;
        ip->check = 0;
        ip->saddr = *(const __u32 *)tunnel->local;
        ip->daddr = *(const __u32 *)tunnel->remote;
        const __u32 *words = (const __u32 *)ip;
        ip->check = ~fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
        udp = (void *)(ip + 1);
    } else {
        struct ipv6hdr *ip = (void *)(ethernet + 1);
        ethernet->h_proto = bpf_htons(ETH_P_IPV6);
        *(__u32 *)ip = bpf_htonl((__u32)6 << 28 | (__u32)outside << 20);
        ip->payload_len = bpf_htons(length);
        ip->nexthdr = UDP;
        ip->hop_limit = tunnel->ttl;
        __builtin_memcpy(&ip->saddr, tunnel->local, 16);
        __builtin_memcpy(&ip->daddr, tunnel->remote, 16);
        udp = (void *)(ip + 1);
    }
    __u32 *vxlan = (void *)(udp + 1);
    vxlan[0] = VXLAN_HAS_VNI;
    vxlan[1] = tunnel->vni;
    udp->source = bpf_htons(source);
    udp->dest = tunnel->port;
    udp->len = bpf_htons(length);
    udp->check = 0;
    if (!tunnel->checksum)
        return 1;
    long sum = sum_from(context, size_of(data, udp));
    if (sum < 0)
        return 0;
    __u16 check = ~fold(sum + words_of(tunnel->local) + words_of(tunnel->remote) + bpf_htons(UDP) + bpf_htons(length));
    data = (void *)(long)context->data;
    end = (void *)(long)context->data_end;
    udp = data + sizeof(*ethernet) + (is_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
    if ((void *)(udp + 1) > end)
        return 0;
    udp->check = check ? check : 0xffff;
    return 1;
}

// Whose tunnel a frame has come by; NULL when it is none of them, or odd in any way.
static __always_inline const struct tunnel *tunnel_of(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    struct end_of_tunnel key = { .underlay = context->ingress_ifindex };
    struct udphdr *udp;
    __u8 tos;
    if ((void *)(ethernet + 1) > end)
        return NULL;
    __u32 length = size_of(data, end) - sizeof(*ethernet);
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = (void *)(ethernet + 1);
        udp = (void *)(ip + 1);
        if ((void *)(udp + 1) + VXLAN > end)
            return NULL;
        const __u32 *words = (const __u32 *)ip;
        if (*(__u8 *)ip != 0x45 || ip->protocol != UDP || ip->frag_off & bpf_htons(0x3fff) || bpf_ntohs(ip->tot_len) != length ||
            fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff)
            return NULL;
        tos = ip->tos;
        *(__u32 *)key.local = ip->daddr;
        *(__u32 *)key.remote = ip->saddr;
        length -= sizeof(*ip);
    } else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = (void *)(ethernet + 1);
        udp = (void *)(ip + 1);
        if ((void *)(udp + 1) + VXLAN > end)
            return NULL;
        length -= sizeof(*ip);
        if (ip->version != 6 || ip->nexthdr != UDP || bpf_ntohs(ip->payload_len) != length)
            return NULL;
        tos = bpf_ntohl(*(__u32 *)ip) >> 20;
        __builtin_memcpy(key.local, &ip->daddr, 16);
        __builtin_memcpy(key.remote, &ip->saddr, 16);
    } else {
        return NULL;
    }
    const __u32 *vxlan = (const __u32 *)(udp + 1);
    if (bpf_ntohs(udp->len) != length || vxlan[0] != VXLAN_HAS_VNI)
        return NULL;
    key.port = udp->dest;
    key.vni = vxlan[1];
    const __u32 *number = bpf_map_lookup_elem(&ends, &key);
    const struct tunnel *tunnel = number ? bpf_map_lookup_elem(&tunnels, number) : NULL;
    // A mark of congestion is for the inner packet (RFC 6040 §4.2): the kernel sees to it.
    if (!tunnel || (tos & 3) == 3 || !same_mac(ethernet->h_dest, tunnel->mac))
        return NULL;
    if (!udp->check)
        return tunnel->takes_unsummed ? tunnel : NULL;
    long sum = sum_from(context, size_of(data, udp));
    if (sum < 0 || fold(sum + words_of(key.local) + words_of(key.remote) + bpf_htons(UDP) + bpf_htons(length)) != 0xffff)
        return NULL;
    return tunnel;
}
