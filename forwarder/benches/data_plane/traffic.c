// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// A generator and a sink for the bench. Live frames of BPF_PROG_TEST_RUN come as from a wire: no sender's skb, whose
// cost would hide every difference.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

volatile const __u32 out = 0;
volatile const __u32 sources = 1;
// From one source to the next.
volatile const __u32 stride = 1;
volatile const __u32 first_source = 0;
volatile const __u32 destinations = 1;
volatile const __u32 first_destination = 0;
volatile const __u64 to_mac = 0;

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

static __always_inline __u64 next(__u32 key)
{
    __u64 *count = bpf_map_lookup_elem(&counts, &key);
    return count ? (*count)++ : 0;
}

// A page is used again as the last one left it, so that all of the headers is written.
SEC("xdp")
int generate(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    struct iphdr *ip = data + sizeof(*ethernet);
    if ((void *)(ip + 1) > end)
        return XDP_ABORTED;
    *(__u32 *)ethernet->h_dest = (__u32)to_mac;
    *(__u16 *)(ethernet->h_dest + 4) = (__u16)(to_mac >> 32);
    ethernet->h_proto = bpf_htons(ETH_P_IP);
    *(__u8 *)ip = 0x45;
    ip->tos = 0;
    ip->tot_len = bpf_htons(end - (void *)ip);
    ip->id = 0;
    ip->frag_off = 0;
    ip->ttl = 64;
    ip->protocol = 17;
    ip->check = 0;
    __u64 number = next(0);
    ip->saddr = bpf_htonl(first_source + (__u32)(number % sources) * stride);
    ip->daddr = bpf_htonl(first_destination + (__u32)(number % destinations));
    const __u32 *words = (const __u32 *)ip;
    __u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    ip->check = ~sum;
    return bpf_redirect(out, 0);
}

SEC("xdp")
int sink(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    // ARP and ND are for the kernel, so that the link works.
    if ((void *)(ethernet + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    // In a tunnel as well.
    struct iphdr *ip = (void *)(ethernet + 1);
    struct udphdr *udp = (void *)(ip + 1);
    struct ethhdr *inner = (void *)(udp + 1) + 8;
    if ((void *)(inner + 1) <= end && ip->protocol == 17 && udp->dest == bpf_htons(4789) &&
        inner->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    next(1);
    return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
