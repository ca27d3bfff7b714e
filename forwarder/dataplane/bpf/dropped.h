// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// A few of the packets that the meter drops, for somebody who looks on.
//
// He says again and again how many more of each reason he wants, so that nothing is copied for one who has gone.

#pragma once

#include "maps.h"

#define SNAP 128

struct dropped {
    __u32 outcome;
    __u32 in;
    // Of the octets.
    __u32 length;
    __u32 unused;
    // From the IP header on.
    __u8 octets[SNAP];
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} dropped SEC(".maps");

// By outcome.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, OUTCOMES);
    __type(key, __u32);
    __type(value, __s64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} wanted SEC(".maps");

static __always_inline struct dropped *room_for(__u32 outcome, __u32 in, __u32 there, __u32 at)
{
    __s64 *left = bpf_map_lookup_elem(&wanted, &outcome);
    if (!left || *(volatile __s64 *)left <= 0 || there <= at || __sync_fetch_and_add(left, -1) <= 0)
        return NULL;
    struct dropped *room = bpf_ringbuf_reserve(&dropped, sizeof(*room), 0);
    if (!room)
        return NULL;
    __u32 length = there - at;
    room->outcome = outcome;
    room->in = in;
    room->length = length < SNAP ? length : SNAP;
    room->unused = 0;
    return room;
}

// Of a frame whose IP header begins at an octet. 0 in any case: a global function has to say something.
__noinline int tell_xdp(struct xdp_md *context, __u32 outcome, __u32 in, __u32 at)
{
    if (!context)
        return 0;
    struct dropped *room = room_for(outcome, in, context->data_end - context->data, at);
    if (!room)
        return 0;
    __u32 length = room->length;
    if (length < 1 || length > SNAP || bpf_xdp_load_bytes(context, at, room->octets, length))
        bpf_ringbuf_discard(room, BPF_RB_NO_WAKEUP);
    else
        bpf_ringbuf_submit(room, BPF_RB_NO_WAKEUP);
    return 0;
}

__noinline int tell_skb(struct __sk_buff *context, __u32 outcome)
{
    if (!context)
        return 0;
    struct dropped *room = room_for(outcome, context->ifindex, context->len, sizeof(struct ethhdr));
    if (!room)
        return 0;
    __u32 length = room->length;
    if (length < 1 || length > SNAP || bpf_skb_load_bytes(context, sizeof(struct ethhdr), room->octets, length))
        bpf_ringbuf_discard(room, BPF_RB_NO_WAKEUP);
    else
        bpf_ringbuf_submit(room, BPF_RB_NO_WAKEUP);
    return 0;
}
