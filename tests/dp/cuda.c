// SPDX-License-Identifier: MIT
// DP on CUDA devices: cuda ORDINAL... ; runs over the mock driver in CI, and over a real one where there is one.
#include "transport/cuda/cuda.h"
#include "dp_test.h"
#include "ring/reduce.h"

#include <stdio.h>

#define CHECK(cond)                                                                            \
    do {                                                                                       \
        if (!(cond)) {                                                                         \
            fprintf(stderr, "%s:%d: %s is false; last error: %s\n", __FILE__, __LINE__, #cond, \
                    rondo_last_error());                                                       \
            return 1;                                                                          \
        }                                                                                      \
    } while (0)
#define OK(call) CHECK((call) == RONDO_OK)
#define CU(call) CHECK((call) == RDI_CU_OK)

static const struct rdi_cuda_api *cu;
static rondo_param params[DT_PARAMS];
static int devices, ordinal[8];

static rdi_cu_ptr at(const void *p) { return (rdi_cu_ptr)(uintptr_t)p; }

// ---- Device 0's parameters -----------------------------------------------------------------------

static int put(int round) {
    for (size_t i = 0; i < DT_PARAMS; i++) {
        void *v = malloc(dt_bytes(i));
        dt_random(v, dt_bytes(i), (uint64_t)round * 100 + i);
        CU(cu->copy_to_device(at(params[i].data), v, dt_bytes(i)));
        free(v);
    }
    CU(cu->stream_sync(NULL));
    return 0;
}

static int make_params(void) {
    for (size_t i = 0; i < DT_PARAMS; i++) {
        rdi_cu_ptr p = 0;
        CU(cu->mem_alloc(&p, dt_bytes(i)));
        params[i] = (rondo_param){dt_shape[i].name, (void *)(uintptr_t)p, dt_shape[i].count,
                                  dt_shape[i].type};
    }
    return 0;
}

static int same(const void *device, const void *host, size_t bytes) {
    void *v = malloc(bytes);
    CU(cu->copy_to_host(v, at(device), bytes));
    int differs = memcmp(v, host, bytes);
    free(v);
    return differs;
}

// ---- A step --------------------------------------------------------------------------------------

// "Backward" is copies from pinned memory on the part's stream; nothing waits for them here.
static struct rdi_cuda_pinned pinned[8][DT_PARAMS];

static rondo_status backward(rondo_dp_part *p, void *arg) {
    const uint64_t seed = *(const uint64_t *)arg;
    for (size_t i = 0; i < DT_PARAMS; i++) {
        struct rdi_cuda_pinned *from = &pinned[p->device][i];
        dt_gradient(from->host, p->device, i, seed);
        rdi_cu_result r = cu->copy_to_device_async(at(rondo_dp_grad(p->dp, p->device, i)),
                                                   from->host, dt_bytes(i),
                                                   (rdi_cu_stream)p->stream);
        if (r != RDI_CU_OK) {
            snprintf(p->why, sizeof p->why, "copy %d", r);
            return RONDO_ERR_SYSTEM;
        }
    }
    return RONDO_OK;
}

static int compare(rondo_dp *dp, int used, uint64_t seed) {
    for (size_t i = 0; i < DT_PARAMS; i++) {
        unsigned char *sum = malloc(dt_bytes(i)), *other = malloc(dt_bytes(i));
        dt_gradient(sum, 0, i, seed);
        for (int k = 1; k < used; k++) {
            dt_gradient(other, k, i, seed);
            CHECK(same(rondo_dp_grad(dp, k, i), other, dt_bytes(i)) == 0);
            rdi_reduce2(sum, sum, other, dt_shape[i].count, dt_shape[i].type, RONDO_SUM);
        }
        CHECK(same(rondo_dp_grad(dp, 0, i), sum, dt_bytes(i)) == 0);
        free(sum);
        free(other);
    }
    return 0;
}

static int steps(rondo_dp *dp) {
    for (uint64_t rows = 1; rows <= 6; rows++) {
        if (put((int)rows)) {
            return 1;
        }
        OK(rondo_dp_step(dp, rows, backward, &rows));
        CHECK(compare(dp, rows < (uint64_t)devices ? (int)rows : devices, rows) == 0);
        for (int k = 1; k < devices; k++) {
            for (size_t i = 0; i < DT_PARAMS; i++) {
                void *want = malloc(dt_bytes(i));
                dt_random(want, dt_bytes(i), rows * 100 + i);
                CHECK(same(rondo_dp_param(dp, k, i), want, dt_bytes(i)) == 0);
                free(want);
            }
        }
    }
    OK(rondo_dp_zero_grad(dp));
    static const unsigned char zeros[300000];
    for (int k = 0; k < devices; k++) {
        CHECK(same(rondo_dp_grad(dp, k, 1), zeros, dt_bytes(1)) == 0);
    }
    return 0;
}

// Rows that lie in the devices' replicas come to device 0's memory in their order.
static int gathered(rondo_dp *dp) {
    enum { ROW = 40, ROWS = 11 };
    rdi_cu_ptr out = 0;
    unsigned char want[ROW * ROWS];
    void *part[8];
    dt_random(want, sizeof want, 77);
    CU(cu->mem_alloc(&out, sizeof want));
    for (int k = 0; k < devices; k++) {
        uint64_t first, count;
        OK(rondo_dp_scatter(ROWS, k, devices, &first, &count));
        part[k] = rondo_dp_grad(dp, k, 1);
        CU(cu->copy_to_device(at(part[k]), want + first * ROW, count * ROW));
    }
    CU(cu->stream_sync(NULL));
    OK(rondo_dp_gather(dp, ROWS, ROW, part, (void *)(uintptr_t)out));
    CHECK(same((void *)(uintptr_t)out, want, sizeof want) == 0);
    CU(cu->mem_free(out));
    return 0;
}

static int refused(void) {
    rondo_dp_options o = RONDO_DP_OPTIONS_INIT;
    rondo_dp *dp = NULL;
    float x[4] = {0};
    rondo_param host = {"x", x, 4, RONDO_F32};
    int none[2] = {ordinal[0], 63};
    o.cuda = ordinal;
    CHECK(rondo_dp_create(&host, 1, devices, &o, &dp) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), "is host memory, not on CUDA device"));
    o.cuda = none;
    CHECK(rondo_dp_create(params, DT_PARAMS, 2, &o, &dp) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), "options.cuda[1]"));
    return 0;
}

static int run(struct rdi_cuda_device *first) {
    rondo_dp_options o = RONDO_DP_OPTIONS_INIT;
    rondo_dp *dp = NULL;
    if (make_params()) {
        return 1;
    }
    for (int k = 0; k < devices; k++) {
        for (size_t i = 0; i < DT_PARAMS; i++) {
            OK(rdi_cuda_pinned_alloc(first, dt_bytes(i), &pinned[k][i]));
        }
    }
    o.cuda = ordinal;
    OK(rondo_dp_create(params, DT_PARAMS, devices, &o, &dp));
    CHECK(strstr(rondo_dp_device_name(dp, devices - 1), "CUDA device "));
    int rc = steps(dp) || gathered(dp) || refused();
    OK(rondo_dp_destroy(dp));
    for (int k = 0; k < devices; k++) {
        for (size_t i = 0; i < DT_PARAMS; i++) {
            rdi_cuda_pinned_free(first, &pinned[k][i]);
        }
    }
    for (size_t i = 0; i < DT_PARAMS; i++) {
        CU(cu->mem_free(at(params[i].data)));
    }
    return rc;
}

int main(int argc, char **argv) {
    struct rdi_cuda_device *first;
    devices = argc - 1;
    for (int k = 0; k < devices && k < 8; k++) {
        ordinal[k] = atoi(argv[1 + k]);
    }
    cu = rdi_cuda(RDI_CUDA_LOAD);
    if (devices < 1 || devices > 8 || !cu || rdi_cuda_device(ordinal[0], &first) != RONDO_OK ||
        !first->module) {
        // Without a driver, or kernels, that is what a program is told.
        rondo_dp_options o = RONDO_DP_OPTIONS_INIT;
        float x = 0;
        rondo_param p = {"x", &x, 1, RONDO_F32};
        rondo_dp *dp = NULL;
        o.cuda = ordinal;
        rondo_status s = cu ? RONDO_OK : rondo_dp_create(&p, 1, 2, &o, &dp);
        fprintf(stderr, "skipped: %s\n", rdi_cuda_state());
        return cu || s == RONDO_ERR_UNSUPPORTED ? 77 : 1;
    }
    OK(rdi_cuda_enter(first));
    int rc = run(first);
    rdi_cuda_leave(first);
    return rc;
}
