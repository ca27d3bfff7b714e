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

static __always_inline int serves(const struct private_prefix *prefix, const struct packet *packet, __u16 port)
{
    if (!prefix->services)
        return 1;
    if (packet->is_error)
        return 0;
    __u32 key = prefix->services;
    struct services *found = bpf_map_lookup_elem(&services, &key);
    if (!found)
        return 0;
    port = bpf_ntohs(port);
    for (__u32 i = 0; i < MAX_SERVICES && i < found->count; i++) {
        struct service *service = &found->list[i];
        if (service->protocol == packet->protocol && (service->all_ports || (service->low <= port && port <= service->high)))
            return 1;
    }
    return 0;
}
