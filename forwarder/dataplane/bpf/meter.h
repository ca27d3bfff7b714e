// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// The meter: what each source and each private prefix has used, and whether there is some left. forwarder_core::meter is
// the model of this file.
//
// Both hooks and every program of every generation charge the same accounts, which are pinned. What is charged here and
// handed to the kernel has the mark METERED, without which the guard passes nothing: a program that is gone charges
// nothing and lets nothing through.

#pragma once

#include "packet.h"
#include "policy.h"

#define METERED 0x10000000
#define NANO 1000000000ULL
#define MOST_AT_ONCE (1ULL << 20)

#define METERS_TO_PRIVATE 1
#define METERS_ANSWERS 2

// How often an account is looked for that is being forgotten at the same moment.
#define ATTEMPTS 4
// Accounts that are looked at in one run of sweep.
#define SWEPT_AT_ONCE 64

// A limit; 0 a second for no rate, no period for no quota, and all ones where a quota does not count.
struct limit {
    __u64 packets_per_second;
    __s64 packets_full;
    __u64 packets_longest;
    __u64 bytes_per_second;
    __s64 bytes_full;
    __u64 bytes_longest;
    __u64 quota_packets;
    __u64 quota_bytes;
    __u64 period;
    // The account of a private prefix.
    __u8 who[16];
};

struct account {
    struct bpf_spin_lock lock;
    // Taken out of its map, or about to be.
    __u32 is_gone;
    // An element of the map is used again for another key while somebody may still look at it.
    __u8 who[16];
    __s64 packet_tokens;
    __s64 byte_tokens;
    __u64 filled;
    __u64 started;
    __u64 packets;
    __u64 bytes;
    __u64 refused;
};

// Which ways are charged; 0 for none.
volatile const __u32 metered = 0;
// The bits of an IPv6 address that are its source, in network order.
volatile const __u64 v6_high = ~0ULL;
volatile const __u64 v6_low = 0;
// For tests: the time is what they say.
volatile const __u32 time_is_told = 0;

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} told_time SEC(".maps");

// Entry 0 is that of every source.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct limit);
} limits SEC(".maps");

struct who {
    __u8 address[16];
};

// Preallocated: an insert fails when they are full, and never for want of memory. Nothing is thrown out for a new one.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct who);
    __type(value, struct account);
} sources SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct who);
    __type(value, struct account);
} prefixes SEC(".maps");

// A new account, laid out here for want of stack.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64[sizeof(struct account) / 8]);
} draft SEC(".maps");

static __always_inline int meters(__u32 role)
{
    return metered & (role == ROLE_SUBSCRIBERS ? METERS_TO_PRIVATE : METERS_ANSWERS);
}

static __always_inline __u64 now_ns(void)
{
    if (!time_is_told)
        return bpf_ktime_get_ns();
    __u32 zero = 0;
    __u64 *told = bpf_map_lookup_elem(&told_time, &zero);
    return told ? *told : 0;
}

static __always_inline void fill(__s64 *tokens, __u64 elapsed, __u64 per_second, __s64 full, __u64 longest)
{
    if (elapsed > longest)
        elapsed = longest;
    __s64 room = full - *tokens;
    __u64 gained = elapsed * per_second;
    if (room <= 0 || gained >= (__u64)room)
        *tokens = full;
    else
        *tokens += gained;
}

// Brings an account to the present. With its lock held, as all below.
static __always_inline void bring_to(struct account *account, const struct limit *limit, __u64 now)
{
    if (limit->period && now >= account->started && now - account->started >= limit->period) {
        account->packets = 0;
        account->bytes = 0;
        account->started = now;
    }
    // The word of another processor may be a little older than what is there.
    if (now <= account->filled)
        return;
    __u64 elapsed = now - account->filled;
    account->filled = now;
    if (limit->packets_per_second)
        fill(&account->packet_tokens, elapsed, limit->packets_per_second, limit->packets_full, limit->packets_longest);
    if (limit->bytes_per_second)
        fill(&account->byte_tokens, elapsed, limit->bytes_per_second, limit->bytes_full, limit->bytes_longest);
}

// A packet larger than the bucket passes when that is full, and leaves a debt.
static __always_inline int take(__s64 *tokens, __u64 amount, __s64 full)
{
    __s64 cost = (amount > MOST_AT_ONCE ? MOST_AT_ONCE : amount) * NANO;
    if (*tokens < (cost < full ? cost : full))
        return 0;
    *tokens -= cost;
    return 1;
}

// Whether it is as good as new: to forget it forgets nothing.
static __always_inline int is_idle(struct account *account, const struct limit *limit, __u64 now)
{
    if (limit->period && (now < account->started || now - account->started < limit->period))
        return 0;
    bring_to(account, limit, now);
    return (!limit->packets_per_second || account->packet_tokens >= limit->packets_full) &&
           (!limit->bytes_per_second || account->byte_tokens >= limit->bytes_full);
}

enum charged {
    CHARGED,
    OVER_RATE,
    OVER_QUOTA,
    NO_ROOM,
};

static __always_inline enum charged charge_account(struct account *account, const struct limit *limit, __u64 packets,
                                                   __u64 bytes, __u64 now)
{
    bring_to(account, limit, now);
    if (limit->packets_per_second && !take(&account->packet_tokens, packets, limit->packets_full))
        return OVER_RATE;
    if (limit->bytes_per_second && !take(&account->byte_tokens, bytes, limit->bytes_full))
        return OVER_RATE;
    __u64 used_packets = account->packets + packets, used_bytes = account->bytes + bytes;
    if (limit->period) {
        // What refuses once is used up.
        if (used_packets > limit->quota_packets) {
            account->packets = limit->quota_packets;
            return OVER_QUOTA;
        }
        if (used_bytes > limit->quota_bytes) {
            account->bytes = limit->quota_bytes;
            return OVER_QUOTA;
        }
    }
    account->packets = used_packets;
    account->bytes = used_bytes;
    return CHARGED;
}

static __always_inline enum charged charge_in(void *map, const struct who *who, const struct limit *limit, __u64 packets,
                                              __u64 bytes, __u64 now)
{
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct account *account = bpf_map_lookup_elem(map, who);
        if (!account) {
            __u32 zero = 0;
            __u64 *fresh = bpf_map_lookup_elem(&draft, &zero);
            if (!fresh)
                return NO_ROOM;
            __builtin_memset(fresh, 0, sizeof(struct account));
            __builtin_memcpy(fresh + 1, who->address, 16);
            fresh[3] = limit->packets_full;
            fresh[4] = limit->bytes_full;
            fresh[5] = now;
            fresh[6] = now;
            // Another processor may have been quicker: then that one is found.
            bpf_map_update_elem(map, who, fresh, BPF_NOEXIST);
            account = bpf_map_lookup_elem(map, who);
            if (!account)
                return NO_ROOM;
        }
        enum charged charged = NO_ROOM;
        bpf_spin_lock(&account->lock);
        int is_it = !account->is_gone && same16(account->who, who->address);
        if (is_it) {
            charged = charge_account(account, limit, packets, bytes, now);
            if (charged != CHARGED)
                account->refused += packets;
        }
        bpf_spin_unlock(&account->lock);
        if (is_it)
            return charged;
    }
    return NO_ROOM;
}

// What is to be charged, and to whom.
struct bill {
    struct who source;
    __u32 limit; // of the private prefix
    __u32 unused;
    __u64 packets;
    __u64 bytes;
};

// Global functions are verified once, and not again wherever they are called.
__noinline int pay_source(const struct bill *bill, __u64 now)
{
    __u32 zero = 0;
    const struct limit *limit = bpf_map_lookup_elem(&limits, &zero);
    if (!bill || !limit)
        return NO_ROOM;
    if (!limit->packets_per_second && !limit->bytes_per_second && !limit->period)
        return CHARGED;
    return charge_in(&sources, &bill->source, limit, bill->packets, bill->bytes, now);
}

__noinline int pay_prefix(const struct bill *bill, __u64 now)
{
    if (!bill)
        return NO_ROOM;
    __u32 index = bill->limit;
    if (!index)
        return CHARGED;
    const struct limit *limit = bpf_map_lookup_elem(&limits, &index);
    if (!limit)
        return NO_ROOM;
    struct who who;
    __builtin_memcpy(who.address, limit->who, 16);
    return charge_in(&prefixes, &who, limit, bill->packets, bill->bytes, now);
}

// Charges the packet to the subscriber that it comes from or goes to, and then to the private prefix with that limit.
// OUTCOMES: it is paid for.
static __always_inline enum outcome charge(const struct packet *packet, __u32 role, __u32 limit, __u64 packets, __u64 bytes)
{
    const __u8 *subscriber = role == ROLE_SUBSCRIBERS ? packet->source : packet->destination;
    struct bill bill = { .limit = limit, .packets = packets, .bytes = bytes };
    if (packet->family == AF_INET) {
        bill.source.address[10] = 0xff;
        bill.source.address[11] = 0xff;
        __builtin_memcpy(bill.source.address + 12, subscriber, 4);
    } else {
        const __u64 *words = (const __u64 *)subscriber;
        __u64 *masked = (__u64 *)bill.source.address;
        masked[0] = words[0] & v6_high;
        masked[1] = words[1] & v6_low;
    }
    __u64 now = now_ns();
    switch (pay_source(&bill, now)) {
    case CHARGED:
        break;
    case OVER_RATE:
        return SOURCE_RATE;
    case OVER_QUOTA:
        return SOURCE_QUOTA;
    default:
        return SOURCES_FULL;
    }
    switch (pay_prefix(&bill, now)) {
    case CHARGED:
        return OUTCOMES;
    case OVER_RATE:
        return PREFIX_RATE;
    default:
        return PREFIX_QUOTA;
    }
}

// What a super-packet is on the wire, of which `length` is the one that the kernel holds, with these headers.
static __always_inline __u64 on_the_wire(__u64 length, __u64 segments, __u32 headers)
{
    return length + (segments - 1) * headers;
}

// Charges what the kernel is going to have, whatever it is, and marks it. OUTCOMES: it may go on, charged or none of ours.
__noinline int charge_odd(struct __sk_buff *context, __u32 role, __u64 mac)
{
    if (!context)
        return OUTCOMES;
    __u32 mark = context->mark & ~METERED;
    __u64 segments = context->gso_segs ? context->gso_segs : 1;
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    struct packet packet = { .in = context->ifindex };
    enum outcome outcome = OUTCOMES;
    __u32 header;
    // What is not for this host, and what is not IP, goes nowhere. A tag that has a priority and no number is none.
    if ((context->vlan_present && (context->vlan_tci & 0xfff)) || (void *)(ethernet + 1) > end || !same_mac(ethernet->h_dest, (const __u8 *)&mac))
        goto done;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = (void *)(ethernet + 1);
        if ((void *)(ip + 1) > end)
            goto done;
        __u8 first = *(__u8 *)ip;
        header = (first & 15) * 4;
        if (first >> 4 != 4 || header < sizeof(*ip))
            goto done;
        packet.family = AF_INET;
        packet.protocol = ip->protocol;
        packet.length = bpf_ntohs(ip->tot_len);
        *(__u32 *)packet.source = ip->saddr;
        *(__u32 *)packet.destination = ip->daddr;
    } else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = (void *)(ethernet + 1);
        if ((void *)(ip + 1) > end || ip->version != 6)
            goto done;
        header = sizeof(*ip);
        packet.family = AF_INET6;
        packet.protocol = ip->nexthdr;
        packet.length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
        __builtin_memcpy(packet.source, &ip->saddr, 16);
        __builtin_memcpy(packet.destination, &ip->daddr, 16);
    } else {
        goto done;
    }
    // A super-packet may be longer than its header can say; what is shorter than that the kernel drops.
    __u32 whole = context->len - sizeof(*ethernet);
    if (context->gso_size)
        packet.length = whole;
    if (packet.length < header || packet.length > whole)
        goto done;
    const struct private_prefix *private;
    if (role == ROLE_SUBSCRIBERS) {
        private = private_of(&packet, packet.destination);
        if (!private || !is_subscriber(&packet, packet.source))
            goto done;
    } else {
        private = private_of(&packet, packet.source);
        if (!private || !is_subscriber(&packet, packet.destination))
            goto done;
    }
    if (context->gso_size) {
        __u8 *transport = data + sizeof(*ethernet) + (header & 63);
        if (packet.protocol == TCP && (void *)(transport + 20) <= end)
            header += (transport[12] >> 4) * 4;
        else
            header += 8;
    }
    outcome = charge(&packet, role, private->limit, segments, on_the_wire(packet.length, segments, header));
    if (outcome == OUTCOMES)
        mark |= METERED;
done:
    if (mark != context->mark)
        context->mark = mark;
    return outcome;
}
