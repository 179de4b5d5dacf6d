// SPDX-License-Identifier: MIT
// The flight recorder: what its ring keeps, that a reader never sees half an entry, and that a snapshot of ranks
// which wait names the one that they wait for. Clusters live in this process, over the simulated network.
#include "ring/internal.h"
#include "ring/record/dump.h"
#include "transport/sim/sim.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- The ring, by itself -------------------------------------------------------------------------

static uint64_t stand_still(void *self) { return *(const uint64_t *)self; }

static uint64_t clock_ns;

struct alone {
    struct rdi_engine *engine;
    struct rondo_comm *comm;
};

static struct alone open_alone(int64_t cap) {
    struct alone a = {calloc(1, sizeof *a.engine), calloc(1, sizeof *a.comm)};
    assert_non_null(a.engine);
    assert_non_null(a.comm);
    a.engine->env = (struct rdi_env){.self = &clock_ns, .now = stand_still};
    a.engine->options.num[RDI_OPT_RECORD] = cap;
    *a.comm = (struct rondo_comm){.engine = a.engine, .id = 7, .rank = 1, .size = 3};
    a.comm->record = rdi_record_open(a.comm);
    assert_non_null(a.comm->record);
    return a;
}

static void close_alone(struct alone a) {
    rdi_record_close(a.comm);
    rdi_recorder_free(&a.engine->recorder);
    free(a.engine);
    free(a.comm);
}

// An operation whose every figure follows from its number.
static void begin(struct alone a, struct rondo_request *r, uint64_t i) {
    memset(r, 0, sizeof *r);
    r->comm = a.comm;
    r->kind = RDI_BROADCAST;
    r->type = RONDO_F64;
    r->op = RONDO_MAX;
    r->root = (int)(i % 1000) - 3;
    r->count = 3 * i;
    r->sig.seq = i + 100;
    r->sig.algo = RDI_ALGO_TREE;
    r->timeout_ns = 5;
    r->deadline = 10 * i + 5;
    a.comm->seq = i + 101;
    rdi_record_begin(r);
}

static void end(struct rondo_request *r, uint64_t i, rondo_status s) {
    r->marks.first = 10 * i + 1;
    r->marks.last = 10 * i + 2;
    r->marks.sent = i;
    r->marks.received = 2 * i;
    r->marks.msgs = 4 * i;
    r->finished = 10 * i + 3;
    r->status = s;
    rdi_record_end(r);
}

static void check_entry(const struct rdi_op_entry *e, uint64_t i) {
    assert_int_equal(e->m.number, i);
    assert_int_equal(e->seq, i + 100);
    assert_int_equal(e->count, 3 * i);
    assert_int_equal(e->bytes, 24 * i);
    assert_int_equal(e->kind, RDI_BROADCAST);
    assert_int_equal(e->type, RONDO_F64);
    assert_int_equal(e->op, RONDO_MAX);
    assert_int_equal(e->algo, RDI_ALGO_TREE);
    assert_int_equal(e->root, (int)(i % 1000) - 3);
    assert_int_equal(e->m.started, 10 * i);
    assert_int_equal(e->m.submitted, 10 * i);
    bool over = e->state != RDI_OP_STARTED;
    assert_int_equal(e->finished, over ? 10 * i + 3 : 0);
    assert_int_equal(e->m.first, over ? 10 * i + 1 : 0);
    assert_int_equal(e->m.last, over ? 10 * i + 2 : 0);
    assert_int_equal(e->m.sent, over ? i : 0);
    assert_int_equal(e->m.received, over ? 2 * i : 0);
    assert_int_equal(e->m.msgs, over ? 4 * i : 0);
}

static void test_ring(void **state) {
    (void)state;
    struct alone a = open_alone(5); // becomes 8
    struct rondo_request r;
    struct rdi_op_entry e;
    assert_false(rdi_record_read(a.comm->record, 1, &e));
    for (uint64_t i = 1; i <= 20; i++) {
        begin(a, &r, i);
        assert_true(rdi_record_read(a.comm->record, i, &e));
        assert_int_equal(e.state, RDI_OP_STARTED);
        check_entry(&e, i);
        end(&r, i, i == 19 ? RONDO_ERR_TIMEOUT : RONDO_OK);
        for (uint64_t k = 1; k <= 21; k++) {
            bool kept = k <= i && i - k < 8;
            assert_int_equal(rdi_record_read(a.comm->record, k, &e), kept);
            if (kept) {
                check_entry(&e, k);
                assert_int_equal(e.state, k == 19 ? RDI_OP_FAILED : RDI_OP_DONE);
                assert_int_equal(e.status, k == 19 ? RONDO_ERR_TIMEOUT : RONDO_OK);
            }
        }
    }
    assert_int_equal(atomic_load(&a.comm->record->head), 20);
    assert_int_equal(atomic_load(&a.comm->record->calls), 121);
    close_alone(a);
}

// One that ends when its entry is another's already must not write there.
static void test_overtaken(void **state) {
    (void)state;
    struct alone a = open_alone(2);
    struct rondo_request r[3];
    struct rdi_op_entry e;
    for (uint64_t i = 1; i <= 3; i++) {
        begin(a, &r[i - 1], i);
    }
    end(&r[0], 1, RONDO_OK);
    assert_true(rdi_record_read(a.comm->record, 3, &e));
    assert_int_equal(e.state, RDI_OP_STARTED);
    check_entry(&e, 3);
    close_alone(a);
}

static void test_off(void **state) {
    (void)state;
    struct alone a = open_alone(0);
    struct rondo_request r;
    struct rdi_op_entry e;
    begin(a, &r, 1);
    end(&r, 1, RONDO_OK);
    assert_false(rdi_record_read(a.comm->record, 1, &e));
    assert_int_equal(atomic_load(&a.comm->record->calls), 102);
    close_alone(a);
}

// Records of communicators that are gone serve later ones, and show nothing of the old.
static void test_reuse(void **state) {
    (void)state;
    struct alone a = open_alone(4);
    struct rondo_request r;
    struct rdi_op_entry e;
    begin(a, &r, 1);
    end(&r, 1, RONDO_OK);
    atomic_store(&a.comm->bytes_tcp, 11);
    atomic_store(&a.comm->operations, 1);
    struct rdi_record *first = a.comm->record;
    struct rondo_comm other = {.engine = a.engine, .id = 8, .size = 2};
    assert_ptr_not_equal(rdi_record_open(&other), first);
    rdi_record_close(a.comm);
    assert_int_equal(a.engine->recorder.past_wire[1], 11);
    a.comm->id = 9;
    a.comm->bytes_tcp = 0;
    a.comm->record = rdi_record_open(a.comm);
    assert_ptr_equal(a.comm->record, first);
    assert_false(rdi_record_read(first, 1, &e));
    assert_int_equal(atomic_load(&first->comm), 9);
    close_alone(a);
}

static _Atomic int writing;

static void *writer(void *arg) {
    struct alone a = *(struct alone *)arg;
    struct rondo_request r;
    for (uint64_t i = 1; atomic_load(&writing); i++) {
        begin(a, &r, i);
        end(&r, i, RONDO_OK);
    }
    return NULL;
}

static void test_while_written(void **state) {
    (void)state;
    struct alone a = open_alone(16); // so that entries are overwritten all the time
    pthread_t thread;
    uint64_t seen = 0;
    atomic_store(&writing, 1);
    assert_int_equal(pthread_create(&thread, NULL, writer, &a), 0);
    while (seen < 20000) {
        struct rdi_op_entry e;
        uint64_t number = atomic_load(&a.comm->record->head) - seen % 16;
        if (rdi_record_read(a.comm->record, number, &e)) {
            check_entry(&e, number);
            seen++;
        }
    }
    atomic_store(&writing, 0);
    pthread_join(thread, NULL);
    close_alone(a);
}

static void test_time_buckets(void **state) {
    (void)state;
    struct alone a = open_alone(4);
    struct rondo_request r;
    const struct {
        uint64_t ns;
        int bucket;
    } cases[] = {{0, 0},    {1, 0},    {1000, 0},          {1001, 1},
                 {2000, 1}, {2001, 2}, {134217728000, 27}, {134217728001, 28}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t before = atomic_load(&a.engine->recorder.times[RDI_BROADCAST][cases[i].bucket]);
        begin(a, &r, 1);
        r.finished = r.marks.started + cases[i].ns;
        rdi_record_end(&r);
        assert_int_equal(atomic_load(&a.engine->recorder.times[RDI_BROADCAST][cases[i].bucket]),
                         before + 1);
    }
    close_alone(a);
}

// ---- A cluster -----------------------------------------------------------------------------------

#define N 4

struct world {
    struct rdi_sim *sim;
    struct rdi_engine *engine[N];
    struct rondo_comm *comm[N];
    struct rondo_request *req[N];
};

static void broken(void *arg, const char *rule, const char *detail) {
    (void)arg;
    fail_msg("%s: %s", rule, detail);
}

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static void open_world(struct world *w, uint32_t algorithm) {
    struct rdi_options o;
    struct rdi_env env;
    struct rdi_sim_config config = {
        .seed = 1, .nodes = N, .latency_ns = 1000, .bytes_per_s = 1000000000, .broken = broken};
    struct rdi_plan plan = {
        .ranks = N, .algorithm = algorithm, .direct_max = 32768, .block = 65536};
    int ranks[N];
    uint8_t record[RDI_RECORD_MAX];
    const struct rdi_net_ops *ops = &rdi_sim_ops;
    memset(w, 0, sizeof *w);
    w->sim = rdi_sim_create(&config);
    assert_non_null(w->sim);
    assert_int_equal(rdi_options_load(&o, NULL, no_environment), RONDO_OK);
    rdi_sim_env(w->sim, &env);
    for (int r = 0; r < N; r++) {
        struct rdi_job job = {
            .rank = r, .size = N, .local_rank = -1, .host_id = {(uint8_t)(r + 1)}};
        snprintf(job.host, sizeof job.host, "host%d", r);
        assert_int_equal(rdi_engine_create(&env, &o, &job, &ops, 1, rdi_sim_node(w->sim, r), NULL,
                                           &w->engine[r]),
                         RONDO_OK);
        w->engine[r]->peers[r].pid = 1000 + r;
        ranks[r] = r;
    }
    for (int r = 0; r < N; r++) {
        size_t len = rdi_engine_record(w->engine[r], &plan, record);
        for (int q = 0; q < N; q++) {
            assert_int_equal(rdi_engine_add_peer(w->engine[q], r, record, len, NULL), RONDO_OK);
        }
    }
    for (int r = 0; r < N; r++) {
        assert_int_equal(rdi_comm_create(w->engine[r], 1, r, N, ranks, &plan, &w->comm[r]),
                         RONDO_OK);
    }
}

static void close_world(struct world *w) {
    for (int r = 0; r < N; r++) {
        free(w->req[r]);
        rdi_engine_destroy(w->engine[r]);
    }
    rdi_sim_destroy(w->sim);
}

static void call(struct world *w, int rank, float *data, size_t count) {
    w->comm[rank]->timeout_ms = 1000;
    assert_int_equal(rdi_request_new(w->comm[rank], RDI_ALL_REDUCE, data, data, count, RONDO_F32,
                                     RONDO_SUM, 0, &w->req[rank]),
                     RONDO_OK);
    rdi_engine_push(w->engine[rank], w->req[rank]);
}

// Until nothing moves any more before a time.
static void run_until(struct world *w, uint64_t until) {
    for (;;) {
        int moved = 0;
        for (int r = 0; r < N; r++) {
            uint64_t timeout = UINT64_MAX;
            moved += rdi_engine_progress(w->engine[r], true);
            moved += w->engine[r]->nets[0]->ops->arm(w->engine[r]->nets[0], &timeout) != RONDO_OK;
        }
        uint64_t next = rdi_sim_next(w->sim);
        if (!moved && (next == UINT64_MAX || next > until)) {
            break;
        }
        if (!moved) {
            rdi_sim_advance(w->sim, next);
        }
    }
    rdi_sim_advance(w->sim, until);
}

static void text_of(const struct world *w, int rank, const struct rdi_snap *s, struct rdi_text *t) {
    struct rdi_dump_head head = {.cause = "call",
                                 .job = "test",
                                 .program = "a \"program\"\n\xff",
                                 .host = "host",
                                 .boot = "boot",
                                 .rank = rank,
                                 .size = N,
                                 .pid = 1};
    rdi_dump_json(t, &head, s, &w->engine[rank]->recorder, 256);
    assert_false(t->failed);
}

// Rank 2 does not call: of the others, each waits for it or for one that does.
static void late(uint32_t algorithm, size_t count) {
    struct world w;
    float *data = calloc(N * count, sizeof *data);
    open_world(&w, algorithm);
    for (int r = 0; r < N; r++) {
        call(&w, r, data + (size_t)r * count, count);
    }
    run_until(&w, 900000000);
    for (int r = 0; r < N; r++) {
        assert_int_equal(w.req[r]->status, RONDO_OK);
        rdi_request_free(w.req[r]);
        w.req[r] = NULL;
        if (r != 2) {
            call(&w, r, data + (size_t)r * count, count);
        }
    }
    run_until(&w, 1000000000);
    bool waits[N][N] = {{false}};
    for (int r = 0; r < N; r++) {
        struct rdi_snap s;
        assert_int_equal(rdi_snap_take(w.engine[r], &s), RONDO_OK);
        assert_int_equal(s.ncomms, 1);
        assert_int_equal(s.comms[0].calls, r == 2 ? 1 : 2);
        assert_int_equal(s.comms[0].nops, r == 2 ? 0 : 1);
        for (unsigned i = 0; r != 2 && i < s.comms[0].ops[0].nwaits; i++) {
            const struct rdi_snap_wait *v = &s.comms[0].ops[0].waits[i];
            waits[r][v->world] |= rdi_wait_is_for_peer(v->wait);
        }
        struct rdi_text t = {0};
        text_of(&w, r, &s, &t);
        assert_non_null(strstr(t.buf, "\"program\": \"a \\\"program\\\"\\u000a\\ufffd\""));
        assert_int_equal(strstr(t.buf, "\"for_peer\": true") != NULL, r != 2);
        rdi_text_free(&t);
        rdi_snap_free(&s);
    }
    // Who waits for whom, through others: everybody reaches rank 2 and rank 2 nobody.
    for (int k = 0; k < N; k++) {
        for (int a = 0; a < N; a++) {
            for (int b = 0; b < N; b++) {
                waits[a][b] |= waits[a][k] && waits[k][b];
            }
        }
    }
    for (int r = 0; r < N; r++) {
        assert_int_equal(waits[r][2], r != 2);
        assert_false(waits[2][r]);
    }
    close_world(&w);
    free(data);
}

static void test_late(void **state) {
    (void)state;
    for (uint32_t algorithm = 1; algorithm <= 3; algorithm++) {
        late(algorithm, 16);
    }
    late(3, 400000);
}

static int notices;

static void notice(void *arg) { notices += arg != NULL; }

// When the deadline has passed, what was then is kept, though links and operations are gone.
static void test_failure(void **state) {
    (void)state;
    struct world w;
    float data[N] = {0};
    open_world(&w, 1);
    w.engine[0]->recorder.notice = notice;
    w.engine[0]->recorder.notice_arg = &w;
    for (int r = 0; r < N - 1; r++) {
        call(&w, r, &data[r], 1);
    }
    run_until(&w, 999000000);
    assert_int_equal(notices, 0);
    for (uint64_t t = 1000000000; t <= 2000000000; t += 1000000) {
        run_until(&w, t);
    }
    assert_int_equal(notices, 1);
    assert_int_not_equal(w.req[0]->status, RONDO_OK);
    struct rdi_snap s;
    assert_int_equal(rdi_snap_take(w.engine[0], &s), RONDO_OK);
    assert_int_equal(s.nfailures, 1);
    const struct rdi_snap_comm *f = s.failures[0];
    assert_int_equal(f->status, RONDO_ERR_TIMEOUT);
    assert_non_null(strstr(f->why, "did not finish"));
    assert_int_equal(f->nops, 1);
    // The others' data is there; the one that never came has not even connected.
    assert_int_equal(f->ops[0].nwaits, 3);
    assert_int_equal(f->ops[0].waits[0].wait, RDI_WAIT_REDUCE);
    assert_int_equal(f->ops[0].waits[2].wait, RDI_WAIT_CONNECT);
    assert_int_equal(f->ops[0].waits[2].world, N - 1);
    assert_true(f->nedges >= 3);
    assert_int_equal(atomic_load(&w.engine[0]->recorder.failures[-RONDO_ERR_TIMEOUT]), 1);
    // The snapshot outlives the engine's own copy.
    rdi_snap_comm_free(w.engine[0]->recorder.failed[0]);
    w.engine[0]->recorder.failed[0] = NULL;
    w.engine[0]->recorder.nfailed = 0;
    assert_int_equal(f->ops[0].waits[2].world, N - 1);
    rdi_snap_free(&s);
    close_world(&w);
}

// Without the engine the ring alone tells what is under way.
static void test_rings_only(void **state) {
    (void)state;
    struct world w;
    float data[N] = {0};
    open_world(&w, 1);
    call(&w, 0, &data[0], 1);
    run_until(&w, 1000);
    struct rdi_snap s = {0};
    struct rdi_text t = {0};
    text_of(&w, 0, &s, &t);
    assert_non_null(strstr(t.buf, "\"whole\": false"));
    assert_non_null(
        strstr(t.buf, "\"active\": [\n{\"number\": 1, \"seq\": 0, \"op\": \"all_reduce\""));
    rdi_text_free(&t);
    close_world(&w);
}

static void test_metrics(void **state) {
    (void)state;
    struct world w;
    float data[N] = {0};
    open_world(&w, 1);
    for (int r = 0; r < N; r++) {
        call(&w, r, &data[r], 1);
    }
    run_until(&w, 500000000);
    struct rdi_snap s;
    struct rdi_metrics m = {.rank = 3, .job = "j"};
    assert_int_equal(rdi_snap_take(w.engine[3], &s), RONDO_OK);
    rdi_metrics_take(&m, &s, &w.engine[3]->recorder);
    rdi_snap_free(&s);
    assert_int_equal(m.operations, 1);
    assert_int_equal(m.messages, N - 1);
    assert_int_equal(m.bytes_received, (N - 1) * 4);
    // What a communicator has counted stays when it is gone.
    rdi_comm_free(w.comm[3], true);
    assert_int_equal(rdi_snap_take(w.engine[3], &s), RONDO_OK);
    rdi_metrics_take(&m, &s, &w.engine[3]->recorder);
    assert_int_equal(m.operations, 1);
    assert_int_equal(m.messages, N - 1);
    rdi_snap_free(&s);
    struct rdi_text t = {0};
    rdi_metrics_text(&t, &m, 1);
    assert_non_null(strstr(t.buf, "\nrondo_operations_total{rank=\"3\"} 1\n"));
    assert_non_null(
        strstr(t.buf, "\nrondo_operation_seconds_count{rank=\"3\",op=\"all_reduce\"} 1\n"));
    rdi_text_free(&t);
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring),          cmocka_unit_test(test_overtaken),
        cmocka_unit_test(test_off),           cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_while_written), cmocka_unit_test(test_time_buckets),
        cmocka_unit_test(test_late),          cmocka_unit_test(test_failure),
        cmocka_unit_test(test_rings_only),    cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
