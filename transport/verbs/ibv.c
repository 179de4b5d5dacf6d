// SPDX-License-Identifier: MIT
// Finds libibverbs.so.1 and its functions at run time.
//
// It is never unloaded: its providers start threads and keep memory of their own, and none of them expects
// that.
#include "transport/verbs/ibv.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY "libibverbs.so.1"

static const struct entry {
    const char *symbol;
    size_t at; // in struct rdi_ibv
    bool optional;
} entries[] = {
    {"ibv_get_device_list", offsetof(struct rdi_ibv, get_device_list), false},
    {"ibv_free_device_list", offsetof(struct rdi_ibv, free_device_list), false},
    {"ibv_get_device_name", offsetof(struct rdi_ibv, get_device_name), false},
    {"ibv_open_device", offsetof(struct rdi_ibv, open_device), false},
    {"ibv_close_device", offsetof(struct rdi_ibv, close_device), false},
    {"ibv_query_device", offsetof(struct rdi_ibv, query_device), false},
    {"ibv_query_gid", offsetof(struct rdi_ibv, query_gid), false},
    {"ibv_query_pkey", offsetof(struct rdi_ibv, query_pkey), false},
    {"ibv_alloc_pd", offsetof(struct rdi_ibv, alloc_pd), false},
    {"ibv_dealloc_pd", offsetof(struct rdi_ibv, dealloc_pd), false},
    {"ibv_reg_mr", offsetof(struct rdi_ibv, reg_mr), false},
    {"ibv_dereg_mr", offsetof(struct rdi_ibv, dereg_mr), false},
    {"ibv_create_comp_channel", offsetof(struct rdi_ibv, create_comp_channel), false},
    {"ibv_destroy_comp_channel", offsetof(struct rdi_ibv, destroy_comp_channel), false},
    {"ibv_create_cq", offsetof(struct rdi_ibv, create_cq), false},
    {"ibv_destroy_cq", offsetof(struct rdi_ibv, destroy_cq), false},
    {"ibv_get_cq_event", offsetof(struct rdi_ibv, get_cq_event), false},
    {"ibv_ack_cq_events", offsetof(struct rdi_ibv, ack_cq_events), false},
    {"ibv_create_qp", offsetof(struct rdi_ibv, create_qp), false},
    {"ibv_modify_qp", offsetof(struct rdi_ibv, modify_qp), false},
    {"ibv_query_qp", offsetof(struct rdi_ibv, query_qp), false},
    {"ibv_destroy_qp", offsetof(struct rdi_ibv, destroy_qp), false},
    {"ibv_get_async_event", offsetof(struct rdi_ibv, get_async_event), false},
    {"ibv_ack_async_event", offsetof(struct rdi_ibv, ack_async_event), false},
    {"ibv_wc_status_str", offsetof(struct rdi_ibv, wc_status_str), false},
    {"ibv_event_type_str", offsetof(struct rdi_ibv, event_type_str), false},
    {"ibv_fork_init", offsetof(struct rdi_ibv, fork_init), false},
    {"ibv_query_port", offsetof(struct rdi_ibv, query_port_compat), false},
    {"ibv_reg_mr_iova2", offsetof(struct rdi_ibv, reg_mr_iova2), true},
    {"ibv_reg_dmabuf_mr", offsetof(struct rdi_ibv, reg_dmabuf_mr), true},
    {"ibv_is_fork_initialized", offsetof(struct rdi_ibv, is_fork_initialized), true},
    {"_ibv_query_gid_ex", offsetof(struct rdi_ibv, query_gid_ex), true},
};
_Static_assert(sizeof entries / sizeof entries[0] == sizeof(struct rdi_ibv) / sizeof(void *),
               "each member of the table has a symbol");

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct rdi_ibv table;
static bool loaded;
static char reason[256]; // why it was not

static void load(void) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        // dlerror() begins with the library's name.
        const char *text = dlerror();
        snprintf(reason, sizeof reason,
                 "%s; install it and its providers (Debian: libibverbs1 and ibverbs-providers)",
                 text != NULL ? text : LIBRARY " cannot be loaded");
        return;
    }
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        void *symbol = dlsym(library, entries[i].symbol);
        if (symbol == NULL && !entries[i].optional) {
            snprintf(reason, sizeof reason,
                     LIBRARY " has no function %s: too old; install libibverbs 1.1 or later",
                     entries[i].symbol);
            return; // the library stays, as it would with all of them
        }
        memcpy((char *)&table + entries[i].at, &symbol, sizeof symbol);
    }
    loaded = true;
}

const struct rdi_ibv *rdi_ibv_load(char *why, size_t cap) {
    pthread_once(&once, load);
    if (!loaded) {
        snprintf(why, cap, "%s", reason);
        return NULL;
    }
    return &table;
}

int rdi_ibv_query_port(const struct rdi_ibv *v, struct ibv_context *context, uint8_t port,
                       struct ibv_port_attr *attr) {
    memset(attr, 0, sizeof *attr);
    const struct verbs_context *extended = verbs_get_ctx_op(context, query_port);
    if (extended != NULL) {
        return extended->query_port(context, port, attr, sizeof *attr);
    }
    // The old form is a beginning of the new one.
    return v->query_port_compat(context, port, (struct _compat_ibv_port_attr *)attr);
}
