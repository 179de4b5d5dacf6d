// SPDX-License-Identifier: MIT
// The NCCL plugin against a peer that has the handle's key: answers of its directory that say anything, and messages
// of any number, offset and length into posted receives, while links break. It runs over a fake net (fake_net.h).
//
//   input[0]  0: connect, then the answer; 1: a receiving comm, 2: a sending one, then steps
#include "fake_net.h"
#include "transport/nccl/core.h"
#include "transport/tcp/hello.h"

#include <errno.h>

#define HUBS 3
#define ROOM 600u // of a request
#define UNDER_WAY 8
#define MS UINT64_C(1000000)

static struct rdi_nccl_hub hubs[HUBS];
static struct fake_net nets[HUBS];
static struct rdi_net_ops net_ops; // fake_net_ops, but all addresses are reached
static unsigned nhubs;
static uint64_t clock_ns;
static uint8_t key[RDI_KEY_BYTES] = "a key";

// ---- What stands around --------------------------------------------------------------------------

static uint64_t now(void *self) {
    (void)self;
    return clock_ns;
}

static void fives(void *self, void *buf, size_t n) {
    (void)self;
    memset(buf, 5, n);
}

static const struct rdi_env env = {.now = now, .random = fives};

const struct rdi_env *__wrap_rdi_nccl_env(void);
const struct rdi_env *__wrap_rdi_nccl_env(void) { return &env; }
const struct rdi_options *__wrap_rdi_nccl_options(void);
const struct rdi_options *__wrap_rdi_nccl_options(void) {
    static struct rdi_options options;
    snprintf(options.str[RDI_OPT_TRANSPORT], sizeof options.str[0], "auto");
    options.num[RDI_OPT_CONNECT_TIMEOUT] = 1000;
    return &options;
}
void __wrap_rdi_nccl_log(int level, const char *fmt, ...);
void __wrap_rdi_nccl_log(int level, const char *fmt, ...) {
    (void)level;
    (void)fmt;
}
int __wrap_rdi_nccl_report(rondo_status s, const char *what, const char *text);
int __wrap_rdi_nccl_report(rondo_status s, const char *what, const char *text) {
    MUST(s != RONDO_OK && what[0] != '\0' && is_clean(text));
    return RDI_NCCL_SYSTEM;
}
const struct rdi_net_ops *__wrap_rdi_nccl_device_ops(void);
const struct rdi_net_ops *__wrap_rdi_nccl_device_ops(void) { return &rdi_tcp_ops; }
const char *__wrap_rdi_nccl_device_name(int dev);
const char *__wrap_rdi_nccl_device_name(int dev) {
    (void)dev;
    return "eth0";
}
bool __wrap_rdi_nccl_rail_leads(struct rdi_nccl_hub *h, const void *peer, size_t len);
bool __wrap_rdi_nccl_rail_leads(struct rdi_nccl_hub *h, const void *peer, size_t len) {
    (void)h;
    free(own_copy(peer, len));
    return true;
}

static void *land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    (void)self;
    return link->owner != NULL ? rdi_nccl_recv_land(link->owner, tag, len) : NULL;
}

static rondo_status take_link(void *self, struct rdi_link *link) {
    struct rdi_nccl_hub *h = self;
    return rdi_nccl_comm_new(h, link, 0) != NULL ? RONDO_OK : RONDO_ERR_NOMEM;
}

static void ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    (void)self;
    if (link->owner != NULL) {
        rdi_nccl_connect_answer(link, type, msg, len);
    }
}

static rondo_status reach(struct rdi_net *net, const void *blob, size_t len) {
    (void)net;
    MUST(len <= RDI_BLOB_MAX);
    free(own_copy(blob, len));
    return len > 0 ? RONDO_OK : rdi_fail(RONDO_ERR_UNSUPPORTED, "no address");
}

static struct rdi_nccl_hub *open_hub(const struct rdi_nccl_hub_key *is) {
    MUST(nhubs < HUBS);
    struct fake_net *extra = &nets[nhubs];
    struct rdi_nccl_hub *h = &hubs[nhubs++];
    *h = (struct rdi_nccl_hub){.refs = 1, .is = *is};
    h->job = (struct rdi_job){.rank = 1, .size = 9, .host = "here", .key = key};
    pthread_mutex_init(&h->lock, NULL);
    h->events = (struct rdi_net_events){.self = h, .accept = take_link, .land = land, .ctrl = ctrl};
    struct rdi_net_params params = {.env = env,
                                    .options = __wrap_rdi_nccl_options(),
                                    .job = &h->job,
                                    .events = &h->events,
                                    .extra = extra};
    net_ops = fake_net_ops;
    net_ops.reach = reach;
    MUST(fake_net_ops.open(&params, &h->net) == RONDO_OK);
    h->net->ops = &net_ops;
    return h;
}

// Each is of its own.
rondo_status __wrap_rdi_nccl_hub_ref(const struct rdi_nccl_hub_key *is, struct rdi_nccl_hub **out);
rondo_status __wrap_rdi_nccl_hub_ref(const struct rdi_nccl_hub_key *is, struct rdi_nccl_hub **out) {
    *out = open_hub(is);
    return RONDO_OK;
}
void __wrap_rdi_nccl_hub_unref(struct rdi_nccl_hub *h);
void __wrap_rdi_nccl_hub_unref(struct rdi_nccl_hub *h) {
    MUST(h->refs == 1);
    h->refs = 0;
    h->net->ops->close(h->net);
    pthread_mutex_destroy(&h->lock);
}
void __wrap_rdi_nccl_hub_turn(struct rdi_nccl_hub *h, bool messages);
void __wrap_rdi_nccl_hub_turn(struct rdi_nccl_hub *h, bool messages) {
    (void)h;
    (void)messages;
}

// ---- Connecting ----------------------------------------------------------------------------------

static void close_comm(struct rdi_nccl_comm *c) {
    struct rdi_nccl_hub *h = c->hub;
    if (c->link != NULL) {
        c->link->ops->close_link(c->link, true);
    }
    rdi_nccl_hub_remove_comm(h, c);
    free(c->window);
    free(c);
    __wrap_rdi_nccl_hub_unref(h);
}

static void say_answer(struct fake_link *l, struct input *in) {
    uint8_t answer[RDI_CTRL_MAX] = {RDI_NCCL_WIRE_VERSION, RDI_NCCL_WIRE_TCP, 7, 0, 0, 0, 'f'};
    size_t n = take_byte(in), got;
    const uint8_t *own = take_bytes(in, n, &got);
    if (n > 0) { // else the right one
        memset(answer, 0, sizeof answer);
        memcpy(answer, own, got);
    }
    uint8_t *copy = own_copy(answer, n > 0 ? got : RDI_NCCL_ANSWER_HEAD + 1);
    fake_net_ctrl(l, RDI_NCCL_ANSWER + (take_byte(in) >> 7), copy,
                  n > 0 ? got : RDI_NCCL_ANSWER_HEAD + 1);
    free(copy);
}

static void connect_to(struct input *in) {
    struct rdi_nccl_handle h = {.listen = 7, .number = 3};
    struct rdi_tcp_blob address = {.count = 1, .host = "there"};
    uint8_t handle[RDI_NCCL_HANDLE];
    struct rdi_nccl_comm *comm = NULL;
    address.addr[0] =
        (struct rdi_tcp_addr){.family = 4, .port = 4711, .prefix = 24, .ip = {10, 0, 0, 1}};
    MUST(rdi_nccl_handle_write(&h, &address, handle));
    rdi_nccl_handle_set_token(handle, 0);
    int result = RDI_NCCL_SUCCESS;
    for (int i = 0; i < 60 && comm == NULL && result == RDI_NCCL_SUCCESS; i++) {
        result = rdi_nccl_connect(RDI_NCCL_UNDEFINED, 0, handle, &comm);
        MUST(result == RDI_NCCL_SUCCESS || (comm == NULL && rdi_nccl_handle_token(handle) == 0));
        if (comm != NULL) {
            break;
        }
        clock_ns += (take_byte(in) & 63) * MS;
        struct fake_link *l = NULL;
        for (unsigned k = 0; k < nhubs && l == NULL; k++) {
            l = hubs[k].refs > 0 ? fake_net_pick(&nets[k], 0) : NULL;
        }
        uint8_t step = take_byte(in);
        if (l != NULL && step < 0x60) {
            say_answer(l, in);
        } else if (l != NULL && step < 0xf0) {
            fake_net_state(l, RDI_LINK_UP, RONDO_OK);
        } else if (l != NULL) {
            fake_net_state(l,
                           step & 1   ? RDI_LINK_FAILED
                           : step & 2 ? RDI_LINK_CLOSED
                                      : RDI_LINK_LOST,
                           RONDO_ERR_PEER);
        }
        if (in->left == 0 || i > 40) {
            clock_ns += 500 * MS;
        }
    }
    MUST(comm != NULL || result != RDI_NCCL_SUCCESS);
    if (comm != NULL) {
        MUST(comm->sender && comm->link->state == RDI_LINK_UP);
        close_comm(comm);
    }
    rdi_nccl_connect_sweep(true);
}

// ---- Messages ------------------------------------------------------------------------------------

static struct {
    struct rdi_nccl_request *request;
    char *data;
    size_t size;
} under_way[UNDER_WAY];

static void start(struct rdi_nccl_comm *c, struct input *in) {
    int i = take_byte(in) % UNDER_WAY;
    size_t size = take_number(in, 2) % (ROOM + 1);
    if (under_way[i].request != NULL) {
        return;
    }
    char *data = malloc(size > 0 ? size : 1);
    MUST(data != NULL);
    memset(data, 7, size);
    void *list[] = {data};
    int result = c->sender ? rdi_nccl_isend(c, data, size, &under_way[i].request)
                           : rdi_nccl_irecv(c, 1, list, &size, &under_way[i].request);
    MUST(result == RDI_NCCL_SUCCESS || under_way[i].request == NULL);
    if (under_way[i].request == NULL) {
        free(data);
        return;
    }
    under_way[i].data = data;
    under_way[i].size = size;
}

static void test_all(struct rdi_nccl_comm *c) {
    for (int i = 0; i < UNDER_WAY; i++) {
        int done = 0, size = -1;
        if (under_way[i].request == NULL) {
            continue;
        }
        int result = rdi_nccl_test(under_way[i].request, &done, &size);
        MUST(result == RDI_NCCL_SUCCESS || c->status != RONDO_OK);
        if (done || result != RDI_NCCL_SUCCESS) {
            MUST(!done || (size >= 0 && (size_t)size <= under_way[i].size));
            MUST(!done || !c->sender || (size_t)size == under_way[i].size);
            under_way[i].request = NULL;
            free(under_way[i].data); // NCCL may use it for something else
        }
    }
}

// Near to what is due: the input's bits change the right tag.
static void deliver(struct rdi_nccl_comm *c, struct fake_link *l, struct input *in) {
    uint8_t how = take_byte(in);
    uint32_t len = (uint32_t)take_number(in, 2) % (FAKE_MSG_MAX + 1);
    uint64_t number = c->head + (how & 1 ? l->base.arrived - l->base.released : 0);
    size_t off = c->requests[c->head % RDI_NCCL_REQS].got;
    uint64_t tag = rdi_nccl_tag(number, how & 2 ? off : 0, how & 4);
    tag ^= how & 8 ? take_number(in, 8) : 0;
    fake_net_deliver(l, tag, len, NULL);
}

static void change(struct rdi_nccl_comm *c, struct input *in) {
    struct fake_link *l = (struct fake_link *)c->link;
    uint8_t step = take_byte(in);
    if (step < 0x50) {
        start(c, in);
    } else if (step < 0xb0 && c->sender) {
        fake_net_take(l, take_byte(in) & 7, step & 7);
    } else if (step < 0xb0) {
        deliver(c, l, in);
    } else if (step < 0xe0) {
        test_all(c);
    } else if (step < 0xf0) {
        nets[0].full = step & 1;
    } else if (step < 0xf8) {
        fake_net_state(l, RDI_LINK_LOST, RONDO_ERR_PATH);
    } else if (step < 0xfe) {
        fake_net_back(l, step & 3);
    } else {
        fake_net_state(l, step & 1 ? RDI_LINK_FAILED : RDI_LINK_CLOSED, RONDO_ERR_PEER);
    }
}

static void talk(bool sender, struct input *in) {
    struct rdi_nccl_hub_key is = {.ops = &rdi_tcp_ops,
                                  .role = sender ? RDI_NCCL_DATA_CLIENT : RDI_NCCL_DATA_SERVER};
    struct rdi_nccl_hub *h = open_hub(&is);
    struct rdi_link_id id = {.comm = 7, .from = sender ? 1 : 3, .to = sender ? 3 : 1};
    if (sender) {
        struct rdi_link *link = NULL;
        MUST(net_ops.connect(h->net, &id, "f", 1, &link) == RONDO_OK);
        fake_net_state((struct fake_link *)link, RDI_LINK_UP, RONDO_OK);
        MUST(rdi_nccl_comm_new(h, link, 0) != NULL);
    } else {
        MUST(fake_net_accept(&nets[0], &id));
        fake_net_state(fake_net_pick(&nets[0], 0), RDI_LINK_UP, RONDO_OK);
    }
    struct rdi_nccl_comm *c = h->comms;
    MUST(c != NULL);
    while (in->left > 0 && c->link != NULL) {
        change(c, in);
    }
    test_all(c);
    close_comm(c);
    for (int i = 0; i < UNDER_WAY; i++) {
        if (under_way[i].request != NULL) {
            free(under_way[i].data);
        }
        under_way[i].request = NULL;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {.at = data, .left = size};
    uint8_t what = take_byte(&in) % 3;
    clock_ns = MS;
    nhubs = 0;
    if (what == 0) {
        connect_to(&in);
    } else {
        talk(what == 2, &in);
    }
    for (unsigned i = 0; i < nhubs; i++) {
        MUST(hubs[i].refs == 0);
    }
    return 0;
}
