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
// And how often it is looked at while another processor begins its period.
#define MOMENT 64
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
    // Of the account of a private prefix.
    __u64 slot;
};

// One line of the cache, charged without a lock: two locks would cost what all the rest of the program does.
struct account {
    // Above whose it is, as an element of the map is used again for another source while somebody may still look at it; below
    // the generation of the program that last found it to be a subscriber.
    __u64 identity;
    __s64 packet_tokens;
    __s64 byte_tokens;
    __u64 filled;
    // Or NEVER, or BEGINS.
    __u64 started;
    // Every charge ends here. GONE and more: taken out of its map, or about to be, and charged no more.
    __u64 packets;
    __u64 bytes;
    __u64 refused;
};

#define NEVER (~0ULL)
// Held by the processor that begins a period, or forgets the account.
#define BEGINS (~0ULL - 1)
#define GONE (1ULL << 63)

// Which ways are charged; 0 for none.
volatile const __u32 metered = 0;
// What each source may use: known when the program is loaded, so that what is not limited costs nothing.
volatile const struct limit of_source = {};
// Whether any private prefix has a limit.
volatile const __u32 limits_prefixes = 0;
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

// Those of private prefixes; 0 is none.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct limit);
} limits SEC(".maps");

struct who {
    __u8 address[16];
};

// Preallocated: an insert fails when it is full, and never for want of memory. Nothing is thrown out for a new one.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct who);
    __type(value, struct account);
} sources SEC(".maps");

// Which private prefix has which slot is the loader's business.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct account);
} prefixes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct who);
    __type(value, __u32);
} slots SEC(".maps");

// A new account, laid out here for want of stack.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct account);
} draft SEC(".maps");

// What the clock said first in this jiffy. To read it costs as much as to find an account.
struct clock {
    __u64 now;
    __u64 jiffy;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct clock);
} clocks SEC(".maps");

static __always_inline int meters(__u32 role)
{
    return metered & (role == ROLE_SUBSCRIBERS ? METERS_TO_PRIVATE : METERS_ANSWERS);
}

static __always_inline __u64 now_ns(void)
{
    __u32 zero = 0;
    if (time_is_told) {
        __u64 *told = bpf_map_lookup_elem(&told_time, &zero);
        return told ? *told : 0;
    }
    __u64 jiffy = bpf_jiffies64(), now = bpf_ktime_get_ns();
    struct clock *clock = bpf_map_lookup_elem(&clocks, &zero);
    if (clock) {
        clock->now = now;
        clock->jiffy = jiffy;
    }
    return now;
}

// Late by less than a jiffy: enough to say that there is something left, and not that there is nothing.
static __always_inline __u64 nearly_now(void)
{
    __u32 zero = 0;
    struct clock *clock = bpf_map_lookup_elem(&clocks, &zero);
    if (!time_is_told && clock && clock->jiffy == bpf_jiffies64())
        return clock->now;
    return now_ns();
}

static __always_inline __u64 once(const __u64 *at)
{
    return *(const volatile __u64 *)at;
}

// How much a bucket gains.
static __always_inline __s64 gain(__s64 tokens, __u64 elapsed, __u64 per_second, __s64 full, __u64 longest)
{
    if (elapsed > longest)
        elapsed = longest;
    __s64 room = full - tokens;
    __u64 gained = elapsed * per_second;
    return room <= 0 || gained >= (__u64)room ? room : (__s64)gained;
}

// Brings the buckets to the present: whoever moves the time fills them.
static __always_inline void fill(struct account *account, const volatile struct limit *limit, __u64 now)
{
    __u64 filled = once(&account->filled);
    // The word of another processor may be a little older than what is there.
    if (now <= filled || __sync_val_compare_and_swap(&account->filled, filled, now) != filled)
        return;
    if (limit->packets_per_second) {
        __s64 more = gain(once((__u64 *)&account->packet_tokens), now - filled, limit->packets_per_second,
                          limit->packets_full, limit->packets_longest);
        __sync_fetch_and_add(&account->packet_tokens, more);
    }
    if (limit->bytes_per_second) {
        __s64 more = gain(once((__u64 *)&account->byte_tokens), now - filled, limit->bytes_per_second,
                          limit->bytes_full, limit->bytes_longest);
        __sync_fetch_and_add(&account->byte_tokens, more);
    }
}

// A packet larger than the bucket passes when that is full, and leaves a debt.
static __always_inline int take(__s64 *tokens, __u64 amount, __s64 full)
{
    __s64 cost = (amount > MOST_AT_ONCE ? MOST_AT_ONCE : amount) * NANO;
    __s64 needed = cost < full ? cost : full;
    if ((__s64)once((__u64 *)tokens) < needed)
        return 0;
    if (__sync_fetch_and_add(tokens, -cost) >= needed)
        return 1;
    // Another processor was quicker.
    __sync_fetch_and_add(tokens, cost);
    return 0;
}

// Begins another period. 0: another processor does, or forgets the account, and takes too long for it.
__noinline int begin_period(struct account *account, __u64 started, __u64 now)
{
    if (!account)
        return 0;
    if (started != BEGINS && __sync_val_compare_and_swap(&account->started, started, BEGINS) == started) {
        // In this order: who sees the period sees nothing used in it.
        __sync_lock_test_and_set(&account->packets, 0);
        __sync_lock_test_and_set(&account->bytes, 0);
        __sync_lock_test_and_set(&account->started, now);
        return 1;
    }
    for (int i = 0; i < MOMENT; i++)
        if (once(&account->started) < BEGINS)
            return 1;
    return 0;
}

static __always_inline int has_period(struct account *account, __u64 period, __u64 now)
{
    __u64 started = once(&account->started);
    return (started < BEGINS && (now < started || now - started < period)) || begin_period(account, started, now);
}

// Whether it is as good as new: to forget it forgets nothing.
static __always_inline int is_full(const struct account *account, const volatile struct limit *limit, __u64 now)
{
    __u64 elapsed = now > account->filled ? now - account->filled : 0;
    __s64 packets = account->packet_tokens, bytes = account->byte_tokens;
    if (elapsed) {
        packets += gain(packets, elapsed, limit->packets_per_second, limit->packets_full, limit->packets_longest);
        bytes += gain(bytes, elapsed, limit->bytes_per_second, limit->bytes_full, limit->bytes_longest);
    }
    return (!limit->packets_per_second || packets >= limit->packets_full) &&
           (!limit->bytes_per_second || bytes >= limit->bytes_full);
}

enum charged {
    CHARGED,
    OVER_RATE,
    OVER_QUOTA,
    NO_ROOM,
};

// NO_ROOM: the account is gone.
static __always_inline enum charged charge_account(struct account *account, const volatile struct limit *limit,
                                                   __u64 packets, __u64 bytes, __u64 now)
{
    if (limit->period && !has_period(account, limit->period, now))
        return NO_ROOM;
    fill(account, limit, now);
    if (limit->packets_per_second && !take(&account->packet_tokens, packets, limit->packets_full)) {
        fill(account, limit, now_ns());
        if (!take(&account->packet_tokens, packets, limit->packets_full))
            return OVER_RATE;
    }
    if (limit->bytes_per_second && !take(&account->byte_tokens, bytes, limit->bytes_full)) {
        fill(account, limit, now_ns());
        if (!take(&account->byte_tokens, bytes, limit->bytes_full))
            return OVER_RATE;
    }
    // What refuses once is used up.
    if (limit->period) {
        __u64 used = once(&account->packets);
        if (used >= GONE)
            return NO_ROOM;
        if (used + packets > limit->quota_packets) {
            __sync_val_compare_and_swap(&account->packets, used, limit->quota_packets);
            return OVER_QUOTA;
        }
        used = once(&account->bytes);
        if (used + bytes > limit->quota_bytes) {
            __sync_val_compare_and_swap(&account->bytes, used, limit->quota_bytes);
            return OVER_QUOTA;
        }
    }
    // Two processors may have come so far with the last packet of a quota: here one of them is first.
    __u64 used = __sync_fetch_and_add(&account->packets, packets);
    if (used >= GONE)
        return NO_ROOM;
    if (limit->period && used + packets > limit->quota_packets)
        return OVER_QUOTA;
    used = __sync_fetch_and_add(&account->bytes, bytes);
    if (limit->period && used + bytes > limit->quota_bytes)
        return OVER_QUOTA;
    return CHARGED;
}

// Whose an account is: of IPv4 the address itself.
static __always_inline __u32 tag_of(const struct who *who)
{
    const __u32 *words = (const __u32 *)who->address;
    return words[0] * 0x9e3779b1 ^ words[1] * 0x85ebca6b ^ (words[2] ^ 0xffff0000) * 0xc2b2ae35 ^ words[3];
}

// What is to be charged, and to whom.
struct bill {
    struct who source;
    // Of the private prefix; 0 for none.
    __u32 limit;
    __u32 unused;
    __u64 packets;
    __u64 bytes;
};

// The source's account, made where there is none.
static __always_inline struct account *account_of(const struct who *who, __u64 identity, __u64 now)
{
    struct account *account = bpf_map_lookup_elem(&sources, who);
    if (account)
        return account;
    __u32 zero = 0;
    struct account *fresh = bpf_map_lookup_elem(&draft, &zero);
    if (!fresh)
        return NULL;
    fresh->identity = identity;
    fresh->packet_tokens = of_source.packets_full;
    fresh->byte_tokens = of_source.bytes_full;
    fresh->filled = now;
    fresh->started = now;
    fresh->packets = 0;
    fresh->bytes = 0;
    fresh->refused = 0;
    // Another processor may have been quicker: then that one is found.
    bpf_map_update_elem(&sources, who, fresh, BPF_NOEXIST);
    return bpf_map_lookup_elem(&sources, who);
}

// Charges the source's account, which is looked for where it is NULL.
__noinline int charge_source(const struct bill *bill, struct account *account, __u64 now)
{
    if (!bill)
        return NO_ROOM;
    __u64 identity = (__u64)tag_of(&bill->source) << 32;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        if (!account)
            account = account_of(&bill->source, identity, now);
        if (!account)
            return NO_ROOM;
        enum charged charged = charge_account(account, &of_source, bill->packets, bill->bytes, now);
        // What was charged to another one's meanwhile is that one's loss, and not a packet too many.
        if (charged != NO_ROOM && once(&account->identity) >> 32 == identity >> 32) {
            if (charged != CHARGED)
                __sync_fetch_and_add(&account->refused, bill->packets);
            return charged;
        }
        account = NULL;
    }
    return NO_ROOM;
}

__noinline int charge_prefix(const struct bill *bill, __u64 now)
{
    if (!bill)
        return NO_ROOM;
    __u32 index = bill->limit;
    const struct limit *limit = bpf_map_lookup_elem(&limits, &index);
    if (!limit)
        return NO_ROOM;
    __u32 slot = limit->slot;
    struct account *account = bpf_map_lookup_elem(&prefixes, &slot);
    if (!account)
        return NO_ROOM;
    enum charged charged = charge_account(account, limit, bill->packets, bill->bytes, now);
    if (charged != CHARGED)
        __sync_fetch_and_add(&account->refused, bill->packets);
    return charged;
}

static __always_inline int limits_sources(void)
{
    return of_source.packets_per_second || of_source.bytes_per_second || of_source.period;
}

// Whose account it is.
static __always_inline void address_bill(struct bill *bill, const struct packet *packet, const __u8 *subscriber)
{
    if (packet->family == AF_INET) {
        __builtin_memset(bill->source.address, 0, 8);
        *(__u32 *)(bill->source.address + 8) = bpf_htonl(0xffff);
        __builtin_memcpy(bill->source.address + 12, subscriber, 4);
    } else {
        const __u64 *words = (const __u64 *)subscriber;
        __u64 *masked = (__u64 *)bill->source.address;
        masked[0] = words[0] & v6_high;
        masked[1] = words[1] & v6_low;
    }
}

// Charges the subscriber's account, which is looked for where it is NULL, and then the private prefix. OUTCOMES: it is paid for.
static __always_inline enum outcome pay(const struct bill *bill, struct account *account)
{
    __u64 now = nearly_now();
    if (limits_sources()) {
        switch (charge_source(bill, account, now)) {
        case CHARGED:
            break;
        case OVER_RATE:
            return SOURCE_RATE;
        case OVER_QUOTA:
            return SOURCE_QUOTA;
        default:
            return SOURCES_FULL;
        }
    }
    if (!limits_prefixes || !bill->limit)
        return OUTCOMES;
    switch (charge_prefix(bill, now)) {
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
    struct bill bill = { .limit = private->limit, .packets = segments, .bytes = on_the_wire(packet.length, segments, header) };
    address_bill(&bill, &packet, role == ROLE_SUBSCRIBERS ? packet.source : packet.destination);
    outcome = pay(&bill, NULL);
    if (outcome == OUTCOMES)
        mark |= METERED;
done:
    if (mark != context->mark)
        context->mark = mark;
    return outcome;
}
