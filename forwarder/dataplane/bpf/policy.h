// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
//
// What the policy says of a packet, apart from where it goes.

#pragma once

#include "packet.h"

static __always_inline const struct private_prefix *private_of(const struct packet *packet, const __u8 *address)
{
    if (packet->family == AF_INET) {
        struct key4 key = { .length = 32 };
        __builtin_memcpy(key.address, address, 4);
        return bpf_map_lookup_elem(&private4, &key);
    }
    struct key6 key = { .length = 128 };
    __builtin_memcpy(key.address, address, 16);
    return bpf_map_lookup_elem(&private6, &key);
}

static __always_inline int is_subscriber(const struct packet *packet, const __u8 *address)
{
    __u32 *found;
    if (packet->family == AF_INET) {
        struct key4 key = { .length = 32 };
        __builtin_memcpy(key.address, address, 4);
        found = bpf_map_lookup_elem(&subscribers4, &key);
    } else {
        struct key6 key = { .length = 128 };
        __builtin_memcpy(key.address, address, 16);
        found = bpf_map_lookup_elem(&subscribers6, &key);
    }
    return found && *found;
}

// Whether these services have one of that protocol and port, in the host's order. A global function is verified once, and not
// again on every way that leads to it.
__noinline int has_service(__u32 list, __u32 protocol, __u32 port)
{
    struct services *found = bpf_map_lookup_elem(&services, &list);
    if (!found)
        return 0;
    for (__u32 i = 0; i < MAX_SERVICES && i < found->count; i++) {
        struct service *service = &found->list[i];
        if (service->protocol == protocol && (service->all_ports || (service->low <= port && port <= service->high)))
            return 1;
    }
    return 0;
}

// Whether the packet is one of these services; 0: everything is.
static __always_inline int serves(__u32 list, const struct packet *packet, __u16 port)
{
    return !list || (!packet->is_error && has_service(list, packet->protocol, bpf_ntohs(port)));
}
