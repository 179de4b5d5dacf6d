// SPDX-License-Identifier: MIT
// Encodes and decodes frame headers. A peer that proved the job's key may still be wrong (a bug, another
// build), so every field is held against what the reader knows before a byte of payload is stored.
#include "transport/tcp/frame.h"

#include "transport/tcp/bytes.h"

#define MAGIC 0x6e52u // "Rn"

void rdi_tcp_frame_write(const struct rdi_tcp_frame *f, uint8_t out[RDI_TCP_HEADER]) {
    rdi_put_le(out, MAGIC, 2);
    out[2] = (uint8_t)f->type;
    out[3] = (uint8_t)f->flags;
    rdi_put_le(out + 4, f->epoch, 4);
    rdi_put_le(out + 8, f->seq, 8);
    rdi_put_le(out + 16, f->len, 4);
    rdi_put_le(out + 20, f->aux, 4);
    rdi_put_le(out + 24, f->tag, 8);
}

static const char *check_data(const struct rdi_tcp_frame *f, const struct rdi_tcp_expect *expect) {
    if (!expect->from_sender) {
        return "a message against the link's direction";
    }
    if (f->flags & ~(unsigned)(RDI_TCP_HAS_SIG | RDI_TCP_WANTS_ACK) || f->aux != 0) {
        return "a message with unknown flags";
    }
    if (f->len > expect->max_msg) {
        return "a message longer than agreed";
    }
    if (f->seq != expect->next) {
        return "a message out of order";
    }
    if (f->seq >= expect->limit) {
        return "a message without credit";
    }
    return NULL;
}

static const char *check_ack(const struct rdi_tcp_frame *f, const struct rdi_tcp_expect *expect) {
    if (expect->from_sender) {
        return "an acknowledgement against the link's direction";
    }
    if (f->flags != 0 || f->len != 0 || f->aux != 0) {
        return "an acknowledgement with unknown fields";
    }
    if (f->seq > expect->sendable) {
        return "an acknowledgement of a message that was not sent";
    }
    if (f->tag > f->seq) {
        return "a release of a message that did not arrive";
    }
    return NULL;
}

const char *rdi_tcp_frame_read(struct rdi_tcp_frame *f, const uint8_t in[RDI_TCP_HEADER],
                               const struct rdi_tcp_expect *expect) {
    f->type = (enum rdi_tcp_frame_type)in[2];
    f->flags = in[3];
    f->epoch = (uint32_t)rdi_get_le(in + 4, 4);
    f->seq = rdi_get_le(in + 8, 8);
    f->len = (uint32_t)rdi_get_le(in + 16, 4);
    f->aux = (uint32_t)rdi_get_le(in + 20, 4);
    f->tag = rdi_get_le(in + 24, 8);
    if (rdi_get_le(in, 2) != MAGIC) {
        return "bytes that are no frame";
    }
    if (f->epoch != expect->epoch) {
        return "a frame of another epoch";
    }
    switch (f->type) {
    case RDI_TCP_DATA:
        return check_data(f, expect);
    case RDI_TCP_ACK:
        return check_ack(f, expect);
    case RDI_TCP_CTRL:
        return f->flags != 0 || f->seq != 0 || f->tag != 0 || f->len > RDI_CTRL_MAX
                   ? "a control message with unknown fields or too long"
                   : NULL;
    case RDI_TCP_BYE:
        if (f->flags != 0 || f->len != 0 || f->aux != 0 || (expect->from_sender && f->tag != 0)) {
            return "a good-bye with unknown fields";
        }
        if (!expect->from_sender) {
            return check_ack(f, expect);
        }
        // All messages of this connection come before it: one that counts more would be awaited for ever.
        return f->seq > expect->next ? "a good-bye that counts messages which did not come" : NULL;
    }
    return "a frame of unknown type";
}
