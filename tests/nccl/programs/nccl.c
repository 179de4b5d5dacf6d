// SPDX-License-Identifier: MIT
// NCCL's side, one process a rank, started with --rank and --ranks. Rank 0 leaves the communicator's id in the
// file --id, where the others find it.
#include "data.h"
#include "gpu.h"
#include "nccl_abi.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// `gpu` first: the side's memory functions take the state for a struct gpu.
struct state {
    struct gpu gpu;
    struct nccl_api nccl;
    int version;
    nccl_comm comm;
    void *flag; // device memory of the barrier
};

static const int types[RONDO_TYPE_COUNT] = {
    [RONDO_F32] = NCCL_FLOAT32,       [RONDO_F64] = NCCL_FLOAT64,
    [RONDO_F16] = NCCL_FLOAT16,       [RONDO_BF16] = NCCL_BFLOAT16,
    [RONDO_I8] = NCCL_INT8,           [RONDO_U8] = NCCL_UINT8,
    [RONDO_I32] = NCCL_INT32,         [RONDO_U32] = NCCL_UINT32,
    [RONDO_I64] = NCCL_INT64,         [RONDO_U64] = NCCL_UINT64,
    [RONDO_F8E4M3] = NCCL_FLOAT8E4M3, [RONDO_F8E5M2] = NCCL_FLOAT8E5M2};
static const int ops[RONDO_OP_COUNT] = {[RONDO_SUM] = NCCL_SUM,
                                        [RONDO_PROD] = NCCL_PROD,
                                        [RONDO_MIN] = NCCL_MIN,
                                        [RONDO_MAX] = NCCL_MAX,
                                        [RONDO_AVG] = NCCL_AVG};

static bool load(struct state *state, const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "no NCCL: %s\n", dlerror());
        return false;
    }
    void *symbol;
#define LOAD(field, name, arguments)                    \
    symbol = dlsym(library, #name);                     \
    if (symbol == NULL) {                               \
        fprintf(stderr, "%s has no %s\n", path, #name); \
        return false;                                   \
    }                                                   \
    memcpy(&state->nccl.field, &symbol, sizeof symbol);
    NCCL_FUNCTIONS(LOAD)
#undef LOAD
    symbol = dlsym(library, "ncclGetErrorString");
    memcpy(&state->nccl.error_string, &symbol, sizeof symbol);
    return state->nccl.version(&state->version) == NCCL_OK;
}

static const char *error_text(const struct state *state, int result) {
    return state->nccl.error_string != NULL ? state->nccl.error_string(result) : "error";
}

// ---- Collectives ---------------------------------------------------------------------------------

// Sends and receives in one group, so that none waits for another.
static int exchange(const struct side *s, const struct test_case *c, const char *send, char *recv) {
    const struct state *state = s->state;
    const struct nccl_api *n = &state->nccl;
    const int type = types[c->type], next = (s->rank + 1) % s->ranks;
    const int before = (s->rank + s->ranks - 1) % s->ranks;
    const size_t block = c->count * number_format(c->type)->bytes;
    void *stream = state->gpu.stream;
    int r = n->group_start();
    if (c->coll == CASE_SEND_RECV) {
        r = r != NCCL_OK ? r : n->send(send, c->count, type, next, state->comm, stream);
        r = r != NCCL_OK ? r : n->recv(recv, c->count, type, before, state->comm, stream);
    }
    for (int p = 0; p < s->ranks && c->coll == CASE_ALL_TO_ALL && r == NCCL_OK; p++) {
        const size_t at = (size_t)p * block;
        r = n->send(send + at, c->count, type, p, state->comm, stream);
        r = r != NCCL_OK ? r : n->recv(recv + at, c->count, type, p, state->comm, stream);
    }
    const int end = n->group_end();
    return r != NCCL_OK ? r : end;
}

static int call(const struct side *s, const struct test_case *c, const void *send, void *recv) {
    const struct state *state = s->state;
    const struct nccl_api *n = &state->nccl;
    const int type = types[c->type], op = ops[c->op];
    nccl_comm comm = state->comm;
    void *stream = state->gpu.stream;
    switch (c->coll) {
    case CASE_ALL_REDUCE:
        return n->all_reduce(send, recv, c->count, type, op, comm, stream);
    case CASE_REDUCE_SCATTER:
        return n->reduce_scatter(send, recv, c->count, type, op, comm, stream);
    case CASE_REDUCE:
        return n->reduce(send, recv, c->count, type, op, c->root, comm, stream);
    case CASE_ALL_GATHER:
        return n->all_gather(send, recv, c->count, type, comm, stream);
    case CASE_BROADCAST:
        return n->broadcast(send, recv, c->count, type, c->root, comm, stream);
    default:
        return exchange(s, c, send, recv);
    }
}

static bool finish(struct state *state, int result, const char *what, char *why, size_t cap) {
    int later = NCCL_OK;
    if (result == NCCL_OK && !gpu_sync(&state->gpu)) {
        snprintf(why, cap, "%s", state->gpu.why);
        return false;
    }
    if (result == NCCL_OK) {
        result = state->nccl.async_error(state->comm, &later);
        result = result == NCCL_OK ? later : result;
    }
    if (result != NCCL_OK) {
        snprintf(why, cap, "%s: %s (%d)", what, error_text(state, result), result);
    }
    return result == NCCL_OK;
}

static enum result_status run(struct side *s, const struct test_case *c, const void *send,
                              void *recv, char *why, size_t cap) {
    struct state *state = s->state;
    if (number_format(c->type)->saturates) {
        if (state->version < NCCL_FLOAT8_VERSION) {
            snprintf(why, cap, "NCCL has 8-bit floats since 2.24");
            return RESULT_UNSUPPORTED;
        }
        if (state->gpu.major < 9) {
            snprintf(why, cap, "NCCL takes 8-bit floats on devices of compute capability 9.0");
            return RESULT_UNSUPPORTED;
        }
    }
    const int r = call(s, c, send, recv);
    return finish(state, r, case_coll_name(c->coll), why, cap) ? RESULT_OK : RESULT_FAILED;
}

static bool barrier(struct side *s) {
    struct state *state = s->state;
    char why[256];
    const int r = state->nccl.all_reduce(state->flag, state->flag, 1, NCCL_INT32, NCCL_SUM,
                                         state->comm, state->gpu.stream);
    if (!finish(state, r, "barrier", why, sizeof why)) {
        fprintf(stderr, "%s\n", why);
        return false;
    }
    return true;
}

// ---- The communicator ----------------------------------------------------------------------------

static bool leave_id(const char *path, const nccl_id *id) {
    char part[4096];
    snprintf(part, sizeof part, "%s.part", path);
    FILE *file = fopen(part, "wb");
    if (file == NULL) {
        perror(part);
        return false;
    }
    bool good = fwrite(id, sizeof *id, 1, file) == 1;
    good = fclose(file) == 0 && good;
    return good && rename(part, path) == 0;
}

// The process's deadline bounds the wait.
static bool find_id(const char *path, nccl_id *id) {
    const struct timespec pause = {.tv_nsec = 20000000};
    while (access(path, R_OK) != 0) {
        nanosleep(&pause, NULL);
    }
    FILE *file = fopen(path, "rb");
    const bool good = file != NULL && fread(id, sizeof *id, 1, file) == 1;
    if (file != NULL) {
        fclose(file);
    }
    return good;
}

static bool join(struct side *s, const struct side_options *o) {
    struct state *state = s->state;
    nccl_id id;
    int r = NCCL_OK;
    if (s->rank == 0) {
        r = state->nccl.unique_id(&id);
        if (r == NCCL_OK && !leave_id(o->id, &id)) {
            return false;
        }
    } else if (!find_id(o->id, &id)) {
        fprintf(stderr, "%s holds no id\n", o->id);
        return false;
    }
    r = r == NCCL_OK ? state->nccl.init(&state->comm, s->ranks, id, s->rank) : r;
    if (r != NCCL_OK) {
        fprintf(stderr, "rank %d: no communicator: %s (%d)\n", s->rank, error_text(state, r), r);
        return false;
    }
    state->flag = s->alloc(s, 256);
    return state->flag != NULL;
}

int main(int argc, char **argv) {
    static struct state state;
    struct side_options o;
    if (!side_parse(argc, argv, &o)) {
        return 2;
    }
    if (o.rank < 0 || o.ranks <= o.rank || o.id == NULL || o.device == NULL || o.library == NULL) {
        fprintf(stderr, "--rank, --ranks, --id, --device and --library are needed\n");
        return 2;
    }
    struct side s = {
        .rank = o.rank, .ranks = o.ranks, .run = run, .barrier = barrier, .state = &state};
    if (!load(&state, o.library)) {
        return 1;
    }
    if (!gpu_open(&state.gpu, o.device, &s)) {
        fprintf(stderr, "%s\n", state.gpu.why);
        return 1;
    }
    snprintf(s.version, sizeof s.version, "NCCL %d.%d.%d", state.version / 10000,
             state.version / 100 % 100, state.version % 100);
    if (!join(&s, &o)) {
        return 1;
    }
    const int rc = side_run(&s, &o);
    s.release(&s, state.flag);
    const int r = state.nccl.destroy(state.comm);
    if (r != NCCL_OK) {
        fprintf(stderr, "ncclCommDestroy: %s (%d)\n", error_text(&state, r), r);
        return 1;
    }
    gpu_close(&state.gpu);
    return rc;
}
