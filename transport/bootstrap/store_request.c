// SPDX-License-Identifier: MIT
// What the store's server does with a request that has been read: SET, GET, WILL, COME, LEAVE.
#include "transport/bootstrap/store_server.h"

#include <stdlib.h>
#include <string.h>

#define WAIT_MAX_MS (7u * 24 * 3600 * 1000)

static void tell(struct rdi_store_server *s, const uint8_t *key, size_t key_len,
                 const struct rdi_value *value) {
    struct rdi_store_tell list[RDI_STORE_TOLD];
    char name[RDI_STORE_KEY_MAX + 1];
    pthread_mutex_lock(&s->lock);
    int n = s->ntell;
    memcpy(list, s->tell, sizeof list);
    pthread_mutex_unlock(&s->lock);
    memcpy(name, key, key_len);
    name[key_len] = '\0';
    for (int i = 0; i < n; i++) {
        if (strncmp(name, list[i].prefix, strlen(list[i].prefix)) == 0) {
            list[i].told(list[i].arg, name, value->bytes, value->len);
        }
    }
}

// Takes over *value unless there is no room for it; who waits for the key gets it.
static rondo_status publish(struct rdi_store_server *s, const uint8_t *key, size_t key_len,
                            struct rdi_value **value) {
    struct rdi_entry *e = rdi_data_entry(&s->data, key, key_len);
    if (e == NULL || !rdi_data_set(&s->data, e, *value)) {
        return RONDO_ERR_NOMEM;
    }
    *value = NULL;
    tell(s, key, key_len, e->value);
    while (e->waiters.next != &e->waiters) {
        struct rdi_conn *other = (struct rdi_conn *)e->waiters.next;
        rdi_data_unwait(&other->waiter);
        rdi_conn_reply(s, other, RONDO_OK, e->value);
    }
    return RONDO_OK;
}

static void handle_set(struct rdi_store_server *s, struct rdi_conn *c) {
    rdi_conn_reply(s, c, publish(s, c->key, c->request.key_len, &c->value), NULL);
}

static void drop_will(struct rdi_conn *c) {
    rdi_value_unref(c->will);
    free(c->will_key);
    c->will = NULL;
    c->will_key = NULL;
}

static void handle_will(struct rdi_store_server *s, struct rdi_conn *c) {
    drop_will(c);
    if (c->value->len > 0) {
        c->will_key = malloc(c->request.key_len);
        if (c->will_key == NULL) {
            rdi_conn_reply(s, c, RONDO_ERR_NOMEM, NULL);
            return;
        }
        memcpy(c->will_key, c->key, c->request.key_len);
        c->will_key_len = c->request.key_len;
        c->will = c->value;
        c->value = NULL;
    }
    rdi_conn_reply(s, c, RONDO_OK, NULL);
}

static void handle_get(struct rdi_store_server *s, struct rdi_conn *c) {
    struct rdi_entry *e = rdi_data_entry(&s->data, c->key, c->request.key_len);
    if (e == NULL) {
        rdi_conn_reply(s, c, RONDO_ERR_NOMEM, NULL);
    } else if (e->value != NULL) {
        rdi_conn_reply(s, c, RONDO_OK, e->value);
    } else if (rdi_roll_loss(c) != NULL) {
        rdi_conn_reply(s, c, RONDO_ERR_PEER, rdi_roll_loss(c));
    } else if (c->request.timeout_ms == 0) {
        rdi_conn_reply(s, c, RONDO_ERR_TIMEOUT, NULL);
    } else {
        uint32_t ms = c->request.timeout_ms;
        c->state = CONN_WAIT;
        rdi_data_wait(e, &c->waiter);
        rdi_conn_deadline(s, c, ms < WAIT_MAX_MS ? ms : WAIT_MAX_MS);
    }
}

void rdi_request_handle(struct rdi_store_server *s, struct rdi_conn *c) {
    switch (c->request.op) {
    case RDI_STORE_SET:
        handle_set(s, c);
        break;
    case RDI_STORE_GET:
        handle_get(s, c);
        break;
    case RDI_STORE_WILL:
        handle_will(s, c);
        break;
    case RDI_STORE_COME:
        rdi_roll_come(s, c);
        break;
    default:
        rdi_roll_leave(s, c);
        break;
    }
}

void rdi_request_end(struct rdi_store_server *s, struct rdi_conn *c) {
    if (c->will != NULL && !s->closing) {
        publish(s, c->will_key, c->will_key_len, &c->will);
    }
    drop_will(c);
}
