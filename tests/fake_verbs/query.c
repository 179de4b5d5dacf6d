// SPDX-License-Identifier: MIT
// What a device says of itself, and words.
#include "fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

FV_EXPORT int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr) {
    struct fv_nic *nic = fv_enter_locked(context);
    struct fv_faults f = nic->faults;
    fv_leave(nic);
    *attr = (struct ibv_device_attr){
        .fw_ver = "1.0.0",
        .node_guid = ibv_get_device_guid(&nic->device.v),
        .sys_image_guid = ibv_get_device_guid(&nic->device.v),
        .max_mr_size = 1ull << 40,
        .page_size_cap = 4096,
        .vendor_id = 0xfa4e,
        .vendor_part_id = 1,
        .max_qp = 1 << FV_QPN_BITS,
        .max_qp_wr = (int)f.max_wr,
        .device_cap_flags = IBV_DEVICE_SYS_IMAGE_GUID | IBV_DEVICE_RC_RNR_NAK_GEN,
        .max_sge = FV_SGE,
        .max_sge_rd = FV_SGE,
        .max_cq = 65536,
        .max_cqe = (int)f.max_cqe,
        .max_mr = 65536,
        .max_pd = 65536,
        .max_qp_rd_atom = FV_RD_ATOMIC,
        .max_res_rd_atom = FV_RD_ATOMIC << FV_QPN_BITS,
        .max_qp_init_rd_atom = FV_RD_ATOMIC,
        .atomic_cap = nic->device.config.link == FV_IWARP ? IBV_ATOMIC_NONE : IBV_ATOMIC_HCA,
        .max_pkeys = 1,
        .local_ca_ack_delay = 15,
        .phys_port_cnt = (uint8_t)nic->device.config.ports,
    };
    return nic->gone ? EIO : 0;
}

void fv_port_attr(struct fv_nic *nic, unsigned port, struct ibv_port_attr *attr) {
    const struct fv_config *c = &nic->device.config;
    bool up = !nic->down[port] && !nic->gone;
    *attr = (struct ibv_port_attr){
        .state = up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN,
        .max_mtu = IBV_MTU_4096,
        .active_mtu = c->mtu,
        .gid_tbl_len = 8,
        .max_msg_sz = FV_MSG_MAX,
        .pkey_tbl_len = 1,
        .lid = fv_lid(c, nic->device.number, port),
        .sm_lid = c->link == FV_IB ? 1 : 0,
        .max_vl_num = 1,
        .active_width = 2,  // 4X
        .active_speed = 32, // 25 Gbit/s a lane
        .phys_state = up ? 5 : 3,
        .link_layer = c->link == FV_IB ? IBV_LINK_LAYER_INFINIBAND : IBV_LINK_LAYER_ETHERNET,
        .flags = c->link == FV_ROCE ? IBV_QPF_GRH_REQUIRED : 0,
    };
}

#undef ibv_query_port
// The old form, which programs without the extended operation call.
FV_EXPORT int ibv_query_port(struct ibv_context *context, uint8_t port,
                             struct _compat_ibv_port_attr *attr) {
    return fv_nic_of(context)->v.query_port(context, port, (struct ibv_port_attr *)(void *)attr,
                                            offsetof(struct ibv_port_attr, port_cap_flags2));
}

FV_EXPORT int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index,
                                struct ibv_gid_entry *entry, uint32_t flags, size_t size) {
    const struct fv_nic *nic = fv_enter(context);
    if (port < 1 || port > nic->device.config.ports || index >= 8 || flags || size < sizeof *entry)
        return EINVAL;
    uint8_t type;
    memset(entry, 0, size);
    fv_gid(&nic->device.config, nic->device.number, port, index, entry->gid.raw, &type);
    static const uint8_t none[16];
    if (memcmp(entry->gid.raw, none, 16) == 0)
        return ENODATA;
    entry->gid_index = index;
    entry->port_num = port;
    entry->gid_type = type;
    return 0;
}

FV_EXPORT ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries,
                                       size_t max, uint32_t flags, size_t size) {
    size_t n = 0;
    for (uint32_t port = 1; port <= fv_nic_of(context)->device.config.ports; port++) {
        for (uint32_t i = 0; i < 8; i++) {
            struct ibv_gid_entry e;
            if (_ibv_query_gid_ex(context, port, i, &e, flags, sizeof e) != 0)
                continue;
            if (n == max || size != sizeof e)
                return -EINVAL;
            entries[n++] = e;
        }
    }
    return (ssize_t)n;
}

FV_EXPORT int ibv_query_gid(struct ibv_context *context, uint8_t port, int index,
                            union ibv_gid *gid) {
    const struct fv_nic *nic = fv_enter(context);
    if (port < 1 || port > nic->device.config.ports || index < 0 || index >= 8) {
        errno = EINVAL;
        return -1;
    }
    uint8_t type;
    fv_gid(&nic->device.config, nic->device.number, port, (unsigned)index, gid->raw, &type);
    return 0;
}

FV_EXPORT int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey) {
    const struct fv_nic *nic = fv_enter(context);
    if (port < 1 || port > nic->device.config.ports || index != 0) {
        errno = EINVAL;
        return -1;
    }
    *pkey = htobe16(0xffff);
    return 0;
}

FV_EXPORT int ibv_get_pkey_index(struct ibv_context *context, uint8_t port, __be16 pkey) {
    (void)context;
    (void)port;
    return pkey == htobe16(0xffff) ? 0 : -1;
}

// ---- fork ----------------------------------------------------------------------------------------

FV_EXPORT int ibv_fork_init(void) { return fv_counters.registrations ? EINVAL : 0; }

FV_EXPORT enum ibv_fork_status ibv_is_fork_initialized(void) {
    const char *needed = getenv("FAKE_VERBS_FORK");
    return needed && strcmp(needed, "needed") == 0 ? IBV_FORK_DISABLED : IBV_FORK_UNNEEDED;
}

// ---- Words ---------------------------------------------------------------------------------------

FV_EXPORT const char *ibv_wc_status_str(enum ibv_wc_status status) {
    static const char *const words[] = {
        "success",
        "local length error",
        "local QP operation error",
        "local EE context operation error",
        "local protection error",
        "work request flushed",
        "memory window bind error",
        "bad response",
        "local access error",
        "remote invalid request",
        "remote access error",
        "remote operation error",
        "transport retries exceeded",
        "receiver-not-ready retries exceeded",
        "local RDD violation",
        "remote invalid RD request",
        "remote aborted",
        "invalid EE context number",
        "invalid EE context state",
        "fatal error",
        "response timeout",
        "general error",
    };
    return (unsigned)status < sizeof words / sizeof words[0] ? words[status] : "unknown";
}

FV_EXPORT const char *ibv_event_type_str(enum ibv_event_type type) {
    static const char *const words[] = {
        "CQ error",        "QP fatal",           "QP request error", "QP access error",
        "connection made", "send queue drained", "path migrated",    "path migration error",
        "device fatal",    "port active",        "port error",       "LID change",
        "P_Key change",    "SM change",          "SRQ error",        "SRQ limit reached",
        "last WQE",        "client reregister",  "GID change",       "WQ fatal",
    };
    return (unsigned)type < sizeof words / sizeof words[0] ? words[type] : "unknown";
}

FV_EXPORT const char *ibv_port_state_str(enum ibv_port_state state) {
    static const char *const words[] = {"no change", "down",   "init",
                                        "armed",     "active", "active defer"};
    return (unsigned)state < sizeof words / sizeof words[0] ? words[state] : "unknown";
}

FV_EXPORT const char *ibv_node_type_str(enum ibv_node_type type) {
    return type == IBV_NODE_RNIC ? "iWARP NIC" : "channel adapter";
}
