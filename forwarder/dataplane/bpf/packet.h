// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// Reads a frame, and says whether it is a plain packet.

#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

#define TCP 6
#define UDP 17
#define ICMP 1
#define ICMP6 58

#define AF_INET 2
#define AF_INET6 10

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

// Kept by itself: the compiler would take parts of it from a number, and the verifier lets a pointer be taken from none.
static __always_inline __u32 size_of(const void *data, const void *end)
{
    __u64 size = end - data;
    asm volatile("" : "+r"(size));
    return size;
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
        // Its MSS is the guarded kernel's to change.
        if (clamps_mss && packet->protocol == TCP) {
            __u8 *flags = transport + 13;
            if ((void *)(flags + 1) > end || *flags & 2)
                return SYNCHRONISES;
        }
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
