// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// What the program knows and counts: its maps and their values. Their layouts are those of the loader
// (src/fast/object.rs, src/fast/pins.rs).

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#define ROLE_SUBSCRIBERS 1
#define ROLE_LINK 2

#define MAX_SERVICES 32
#define MARKED 0x100
#define NEAR_PORTS 256
#define HOPS 8192
// How many jiffies an answer of the routing table may be old: 4 to 40 ms, 16 ms at 250 Hz. It leads where the policy wants it
// all that time, so that what is late is a way, and never the public one. With one jiffy thousands of destinations would ask for
// every other packet.
#define HOP_LIFE 4

// What came of a packet: the index of its counter, in the order of forwarder_core::fast::Outcome::ALL.
enum outcome {
    TO_PRIVATE,
    FROM_PRIVATE,
    BYSTANDER,
    STANDS_ASIDE,
    NOT_IP,
    LINK_LAYER,
    IP_HEADER,
    FRAGMENT,
    HOPS_LEFT,
    SOURCE,
    DESTINATION,
    SERVICE,
    PARTIAL_CHECKSUM,
    NO_HOP,
    TOO_BIG,
    // Dropped by the meter, in the order of forwarder_core::meter::Over::ALL.
    SOURCE_RATE,
    SOURCE_QUOTA,
    SOURCES_FULL,
    PREFIX_RATE,
    PREFIX_QUOTA,
    // Handed to the kernel again.
    SYNCHRONISES,
    OUTCOMES,
};

// An interface of the policy. A private link has a bit of its own.
struct port {
    __u64 bit;
    __u32 role;
    __u32 index;
    __u8 mac[ETH_ALEN];
    // Which tunnel it is; 0: none that is made here.
    __u16 tunnel;
};

// A VXLAN device of the kernel, as far as it is made here.
struct tunnel {
    // Of IPv4 in the first four octets, and zeros.
    __u8 local[16];
    __u8 remote[16];
    __u32 device;
    __u32 underlay;
    // As they stand in the headers.
    __u32 vni;
    __u16 port;
    // Of the source ports, the last one not among them.
    __u16 low;
    __u16 high;
    __u16 family;
    __u8 ttl;
    __u8 tos;
    __u8 df;
    __u8 checksum;
    __u8 takes_unsummed;
    __u8 unused;
    // Of the underlay.
    __u8 mac[ETH_ALEN];
};

struct end_of_tunnel {
    __u8 local[16];
    __u8 remote[16];
    __u32 underlay;
    __u32 vni;
    __u32 port;
    __u32 unused;
};

// A private prefix: the bits of its links, where its services are (0: everything is allowed), whether the kernel's hash
// chooses among the links, where its limit is (0: none), and what its packets are marked with.
struct private_prefix {
    __u64 links;
    __u32 services;
    __u32 spread;
    __u32 limit;
    // MARKED and the DSCP at its place in the traffic class; 0: packets keep theirs.
    __u32 dscp;
};

struct service {
    __u8 protocol;
    __u8 all_ports;
    __u16 low;
    __u16 high;
    __u16 unused;
};

struct services {
    __u32 count;
    struct service list[MAX_SERVICES];
};

struct key4 {
    __u32 length;
    __u8 address[4];
};

struct key6 {
    __u32 length;
    __u8 address[16];
};

// A kept answer of the routing table, which leads where the policy wants it, and with it what the policy says of the
// destination: towards private prefixes that one's services and limit, on the way back that it is a subscriber.
struct hop {
    __u8 address[16];
    __u64 until;
    __u32 services;
    __u32 limit;
    __u32 in;
    __u32 out;
    __u32 mtu;
    __u8 macs[2 * ETH_ALEN];
    // That it leaves by.
    __u32 tunnel;
    __u32 dscp;
};

struct count {
    __u64 packets;
    __u64 bytes;
};

struct state {
    // The one generation of the program that may forward; 0 for none.
    __u64 generation;
    // The newest generation that was ever loaded.
    __u64 newest;
};

// This program's generation, set when it is loaded.
volatile const __u64 generation = 0;
// Whether the kernel is to write another MSS into what begins a connection.
volatile const __u32 clamps_mss = 0;

// Whether it forwards only for as long as the lease says.
volatile const __u32 leased = 0;

// Pinned: what outlives a program.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct state);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} state SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, OUTCOMES);
    __type(key, __u32);
    __type(value, struct count);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} counts SEC(".maps");

// Until when a forwarder that runs has said that it does, by the clock that counts from the start of the host.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} lease SEC(".maps");

// Each program's own: filled before it is attached and not changed afterwards.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, struct port);
} ports SEC(".maps");

// The same once more, by the last bits of their indexes, as far as no other has those: an array costs a tenth of a hash map.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, NEAR_PORTS);
    __type(key, __u32);
    __type(value, struct port);
} near_ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key4);
    __type(value, struct private_prefix);
} private4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key6);
    __type(value, struct private_prefix);
} private6 SEC(".maps");

// 1 for a subscriber's address, 0 for one among them that is not.
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key4);
    __type(value, __u32);
} subscribers4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1);
    __type(key, struct key6);
    __type(value, __u32);
} subscribers6 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct services);
} services SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, HOPS);
    __type(key, __u32);
    __type(value, struct hop);
} hops SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u32);
} devices SEC(".maps");

// Entry 0 is none.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct tunnel);
} tunnels SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 64);
    __type(key, struct end_of_tunnel);
    __type(value, __u32);
} ends SEC(".maps");

static __always_inline const struct port *port_of(__u32 index)
{
    __u32 near = index % NEAR_PORTS;
    const struct port *port = bpf_map_lookup_elem(&near_ports, &near);
    if (port && port->role && port->index == index)
        return port;
    return bpf_map_lookup_elem(&ports, &index);
}

static __always_inline void count(enum outcome outcome, __u64 packets, __u64 bytes)
{
    __u32 key = outcome;
    struct count *counted = bpf_map_lookup_elem(&counts, &key);
    if (counted) {
        counted->packets += packets;
        counted->bytes += bytes;
    }
}
