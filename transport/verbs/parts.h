// SPDX-License-Identifier: MIT
// What the files of the device layer share among themselves.
#ifndef RDI_TRANSPORT_VERBS_PARTS_H
#define RDI_TRANSPORT_VERBS_PARTS_H

#include "transport/verbs/device.h"

// Fills in what follows from the bytes and the type.
void rdi_verbs_gid_set(struct rdi_verbs_gid *g, const uint8_t raw[16], uint8_t type);

// Reads the table of an open device's port (p->gid_table entries) into p->gids: those that `o` permits (NULL:
// all), best first. Sets p->netdev too.
void rdi_verbs_gids_read(const struct rdi_ibv *v, struct ibv_context *context,
                         const struct rdi_options *o, struct rdi_verbs_port *p);

// How a pair of GIDs serves for a connection between them, greater is better; 0 = not at all. Pure; the order
// of the arguments does not matter.
int rdi_verbs_gid_fit(const struct rdi_verbs_gid *a, const struct rdi_verbs_gid *b);
// Whether two GIDs of RoCE that fit are known to be in one subnet. Pure.
bool rdi_verbs_gid_near(const struct rdi_verbs_gid *a, const struct rdi_verbs_gid *b);

// rdi_verbs_reg() that sets no error: 0 or an errno.
int rdi_verbs_try_reg(struct rdi_verbs_rail *r, void *at, size_t bytes, int access,
                      struct ibv_mr **mr);

// Whether an errno says that something is not known, and not that it went wrong.
bool rdi_verbs_is_refusal(int err);

// Fails for something of a rail that the device or the kernel refused, with the remedy that fits `err`.
rondo_status rdi_verbs_fail_device(const struct rdi_verbs_rail *r, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));

// Drops all registrations of the cache; nobody holds one.
void rdi_verbs_mr_drop_all(struct rdi_verbs_rail *r);

#endif
