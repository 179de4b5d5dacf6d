// SPDX-License-Identifier: MIT
// A comm: one direction between two processes, a link of a hub with requests on it, in the order in which they
// were posted. What its link's states mean for it, and how it fails.
#include "transport/nccl/core.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

struct rdi_nccl_comm *rdi_nccl_comm_new(struct rdi_nccl_hub *h, struct rdi_link *link, int dev) {
    struct rdi_nccl_comm *c = calloc(1, sizeof *c);
    struct rdi_nccl_sent *window = c != NULL && link->sender ? calloc(link->slots, sizeof *window)
                                                             : NULL;
    if (c == NULL || (link->sender && window == NULL)) {
        free(c);
        rdi_fail(RONDO_ERR_NOMEM, "no memory for a comm of %u slots", link->slots);
        return NULL;
    }
    c->hub = h;
    c->link = link;
    c->sender = link->sender;
    c->dev = dev;
    c->window = window;
    link->owner = c;
    rdi_nccl_hub_add_comm(h, c);
    char text[400] = "";
    link->ops->describe(link, text, sizeof text);
    for (char *at = text; *at != '\0'; at++) {
        *at = *at == '\n' ? ' ' : *at;
    }
    rdi_nccl_log(RDI_NCCL_LOG_INFO, "NET/" RDI_NCCL_NAME ": %s device %d (%s): %s",
                 c->sender ? "connected" : "accepted", dev, rdi_nccl_device_name(dev), text);
    return c;
}

int rdi_nccl_comm_close(struct rdi_nccl_comm *c) {
    struct rdi_nccl_hub *h = c->hub;
    pthread_mutex_lock(&h->lock);
    rdi_nccl_hub_remove_comm(h, c);
    if (c->link != NULL) {
        c->link->ops->close_link(c->link, true);
    }
    pthread_mutex_unlock(&h->lock);
    rdi_nccl_hub_unref(h);
    free(c->window);
    free(c);
    rdi_nccl_connect_sweep(false);
    return RDI_NCCL_SUCCESS;
}

// ---- States --------------------------------------------------------------------------------------

// The link is closed first: nothing touches a buffer of NCCL's any more once it is told of the error.
rondo_status rdi_nccl_comm_fail(struct rdi_nccl_comm *c, rondo_status s, const char *fmt, ...) {
    char text[RDI_ERROR_TEXT], what[192], pid[32] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (c->peer_pid != 0) {
        snprintf(pid, sizeof pid, " (pid %u)", c->peer_pid);
    }
    const struct rdi_link_id *id = &c->link->id;
    snprintf(what, sizeof what, "%s %s %u%s over %s, device %d (%s)",
             c->sender ? "sending to" : "receiving from", rdi_nccl_self_word(),
             c->sender ? id->to : id->from, pid, c->link->ops->name, c->dev,
             rdi_nccl_device_name(c->dev));
    c->status = s;
    rdi_nccl_report(s, what, text);
    c->link->ops->close_link(c->link, true);
    c->link = NULL;
    return s;
}

static rondo_status recover(struct rdi_nccl_comm *c) {
    struct rdi_link *l = c->link;
    if (!c->sender || l->ops->reset == NULL) {
        return RONDO_OK; // the sender's to do
    }
    rdi_nccl_log(RDI_NCCL_LOG_INFO, "NET/" RDI_NCCL_NAME ": path lost, trying again: %s", l->why);
    rondo_status s = l->ops->reset(l, l->epoch + 1);
    return s == RONDO_OK ? s : rdi_nccl_comm_fail(c, s, "%s", rondo_last_error());
}

rondo_status rdi_nccl_comm_pump(struct rdi_nccl_comm *c) {
    if (c->status != RONDO_OK) {
        return c->status;
    }
    // In whatever state: what the other end had, or what arrived, counts.
    if (c->sender) {
        rdi_nccl_send_pump(c);
    } else {
        rdi_nccl_recv_pump(c);
    }
    if (c->status != RONDO_OK) {
        return c->status;
    }
    struct rdi_link *l = c->link;
    switch (l->state) {
    case RDI_LINK_UP:
    case RDI_LINK_CONNECTING:
        break;
    case RDI_LINK_LOST:
        return recover(c);
    case RDI_LINK_FAILED:
        return rdi_nccl_comm_fail(c, l->status, "%s", l->why);
    case RDI_LINK_CLOSED:
        if (c->head < c->next_request) {
            return rdi_nccl_comm_fail(c, RONDO_ERR_PEER,
                                      "the peer closed its end while %llu of our requests were "
                                      "under way; it ended, or aborted: see its log",
                                      (unsigned long long)(c->next_request - c->head));
        }
        break;
    }
    return RONDO_OK;
}

// ---- Requests ------------------------------------------------------------------------------------

struct rdi_nccl_request *rdi_nccl_request_new(struct rdi_nccl_comm *c, void *data, size_t size) {
    struct rdi_nccl_request *r = &c->requests[c->next_request % RDI_NCCL_REQS];
    if (r->used) {
        return NULL;
    }
    *r = (struct rdi_nccl_request){.comm = c, .used = true, .data = data, .size = size};
    c->next_request++;
    return r;
}

int rdi_nccl_test(struct rdi_nccl_request *r, int *done, int *size) {
    struct rdi_nccl_comm *c = r->comm;
    rondo_status s = RONDO_OK;
    *done = 0;
    pthread_mutex_lock(&c->hub->lock);
    if (!r->done) {
        rdi_nccl_hub_turn(c->hub, true);
        s = rdi_nccl_comm_pump(c);
    }
    if (r->done) {
        *done = 1;
        if (size != NULL) {
            *size = r->got > INT_MAX ? INT_MAX : (int)r->got; // NCCL's type has no more
        }
        r->used = false;
        s = RONDO_OK;
    }
    pthread_mutex_unlock(&c->hub->lock);
    return rdi_nccl_result(s);
}
