// SPDX-License-Identifier: MIT
// Clipping by the norm of all gradients together, after Pascanu, Mikolov and Bengio, "On the difficulty of training
// recurrent neural networks", ICML 2013.
#include "ddp/internal.h"
#include "ring/fp8.h"
#include "ring/half.h"
#include "ring/reduce.h"

#include <math.h>
#include <stdlib.h>

// The sum of squares, or the largest magnitude. A NaN stays one.
struct norm {
    bool largest;
    double value;
};

static void add(struct norm *n, double x) {
    if (!n->largest) {
        n->value += x * x;
    } else if (!(fabs(x) <= n->value)) {
        n->value = isnan(n->value) ? n->value : fabs(x);
    }
}

static void add_all(struct norm *n, const void *p, size_t count, rondo_type type) {
    for (size_t k = 0; k < count; k++) {
        switch (type) {
        case RONDO_F64:
            add(n, ((const double *)p)[k]);
            break;
        case RONDO_F16:
            add(n, (double)rdi_f16_to_f32(((const uint16_t *)p)[k]));
            break;
        case RONDO_BF16:
            add(n, (double)rdi_bf16_to_f32(((const uint16_t *)p)[k]));
            break;
        case RONDO_F8E4M3:
            add(n, (double)rdi_f8e4m3_to_f32(((const uint8_t *)p)[k]));
            break;
        case RONDO_F8E5M2:
            add(n, (double)rdi_f8e5m2_to_f32(((const uint8_t *)p)[k]));
            break;
        default:
            add(n, (double)((const float *)p)[k]);
        }
    }
}

static rondo_status measure(struct rondo_ddp *d, struct norm *n) {
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        if (!p->sparse) {
            size_t from, count = rdi_ddp_part(d, p, rondo_comm_rank(d->comm), &from);
            add_all(n, rdi_ddp_view(d, i) + from * rondo_type_size(p->type), count, p->type);
        }
    }
    rondo_status s = RONDO_OK;
    if (d->shard) {
        s = rondo_all_reduce(&n->value, &n->value, 1, RONDO_F64, n->largest ? RONDO_MAX : RONDO_SUM,
                             d->comm);
    }
    for (size_t k = 0; k < d->nsparse; k++) {
        const struct rdi_sparse *p = &d->sparse[k];
        add_all(n, p->sum.values, p->sum.n * p->width, d->params[p->param].type);
    }
    n->value = n->largest ? n->value : sqrt(n->value);
    return s;
}

rondo_status rondo_ddp_clip_grad_norm(rondo_ddp *d, double max_norm, double norm_type,
                                      double *norm) {
    rondo_status s = rdi_ddp_between_steps(d, "rondo_ddp_clip_grad_norm");
    if (s != RONDO_OK) {
        return s;
    }
    if (!(max_norm > 0) || (norm_type != 2.0 && !(isinf(norm_type) && norm_type > 0))) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "rondo_ddp_clip_grad_norm: max_norm %g, norm_type %g; allowed are a max_norm above 0, "
            "and norm_type 2 or INFINITY",
            max_norm, norm_type);
    }
    if (d->device) {
        return rdi_fail(
            RONDO_ERR_UNSUPPORTED,
            "rondo_ddp_clip_grad_norm does not work with options.device: measure and scale "
            "the gradients in a kernel of the optimizer there");
    }
    struct norm n = {.largest = norm_type != 2.0};
    s = measure(d, &n);
    if (s != RONDO_OK) {
        return s;
    }
    if (norm) {
        *norm = n.value;
    }
    if (!isfinite(n.value)) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "rondo_ddp_clip_grad_norm: the norm of the gradients is %g; nothing was scaled",
            n.value);
    }
    if (n.value > max_norm) {
        rdi_ddp_scale(d, max_norm / (n.value + 1e-6));
    }
    return RONDO_OK;
}
