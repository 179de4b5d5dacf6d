// SPDX-License-Identifier: MIT
// The side of any MPI, built with its compiler wrapper. Integers, f32 and f64 are MPI's own types and operations;
// for f16, bf16 and the 8-bit floats, which MPI does not have, the operations are made here, each rounded once to
// the type. MPI has no average: it is the sum, then divided here.
#include "data.h"
#include "side.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rondo_type narrow_type; // what a user operation works on: its datatype tells the size only
static MPI_Datatype narrow_mpi[2 + 1]; // by bytes

static bool is_narrow(rondo_type type) {
    const struct number_format *f = number_format(type);
    return f->real && f->bytes < 4;
}

// ---- Operations on narrow floats -----------------------------------------------------------------

// In double: sums and products of two of these are exact there or have more than twice their bits.
static double to_double(const struct number_format *f, uint64_t bits) {
    switch (number_class(f, bits)) {
    case NUMBER_NAN:
        return __builtin_nan("");
    case NUMBER_INFINITE:
        return number_negative(f, bits) ? -__builtin_inf() : __builtin_inf();
    default:
        return (double)number_value(f, bits);
    }
}

static uint64_t from_double(const struct number_format *f, double v) {
    if (__builtin_isnan(v)) {
        return f->nan;
    }
    if (__builtin_isinf(v)) {
        return (f->saturates ? f->top : f->top + 1) | (v < 0 ? number_sign_bit(f) : 0);
    }
    return number_round(f, (wide)v);
}

static uint64_t operate(const struct number_format *f, rondo_op op, uint64_t x, uint64_t y) {
    const double a = to_double(f, x), b = to_double(f, y);
    switch (op) {
    case RONDO_PROD:
        return from_double(f, a * b);
    case RONDO_MIN:
        return a < b ? x : y;
    case RONDO_MAX:
        return a > b ? x : y;
    default:
        return from_double(f, a + b);
    }
}

static void reduce_narrow(rondo_op op, const void *in, void *inout, int n) {
    const struct number_format *f = number_format(narrow_type);
    for (size_t i = 0; i < (size_t)n; i++) {
        const uint64_t bits = operate(f, op, number_load(f, in, i), number_load(f, inout, i));
        number_store(f, inout, i, bits);
    }
}

#define USER_OP(name, op)                                                 \
    static void name(void *in, void *inout, int *n, MPI_Datatype *type) { \
        (void)type;                                                       \
        reduce_narrow(op, in, inout, *n);                                 \
    }
USER_OP(narrow_sum, RONDO_SUM)
USER_OP(narrow_prod, RONDO_PROD)
USER_OP(narrow_min, RONDO_MIN)
USER_OP(narrow_max, RONDO_MAX)

static MPI_Op narrow_ops[RONDO_AVG];

static void make_narrow(void) {
    MPI_Type_contiguous(1, MPI_BYTE, &narrow_mpi[1]);
    MPI_Type_contiguous(2, MPI_BYTE, &narrow_mpi[2]);
    MPI_Type_commit(&narrow_mpi[1]);
    MPI_Type_commit(&narrow_mpi[2]);
    MPI_Op_create(narrow_sum, 1, &narrow_ops[RONDO_SUM]);
    MPI_Op_create(narrow_prod, 1, &narrow_ops[RONDO_PROD]);
    MPI_Op_create(narrow_min, 1, &narrow_ops[RONDO_MIN]);
    MPI_Op_create(narrow_max, 1, &narrow_ops[RONDO_MAX]);
}

static MPI_Datatype mpi_type(rondo_type type) {
    switch (type) {
    case RONDO_F32:
        return MPI_FLOAT;
    case RONDO_F64:
        return MPI_DOUBLE;
    case RONDO_I8:
        return MPI_INT8_T;
    case RONDO_U8:
        return MPI_UINT8_T;
    case RONDO_I32:
        return MPI_INT32_T;
    case RONDO_U32:
        return MPI_UINT32_T;
    case RONDO_I64:
        return MPI_INT64_T;
    case RONDO_U64:
        return MPI_UINT64_T;
    default:
        return narrow_mpi[number_format(type)->bytes];
    }
}

static MPI_Op mpi_op(rondo_type type, rondo_op op) {
    op = op == RONDO_AVG ? RONDO_SUM : op;
    if (is_narrow(type)) {
        return narrow_ops[op];
    }
    return op == RONDO_SUM    ? MPI_SUM
           : op == RONDO_PROD ? MPI_PROD
           : op == RONDO_MIN  ? MPI_MIN
                              : MPI_MAX;
}

// ---- The average ---------------------------------------------------------------------------------

static uint64_t divide_integer(const struct number_format *f, uint64_t bits, uint64_t n) {
    const uint64_t v = number_integer(f, bits);
    if (f->has_sign && (int64_t)v < 0) {
        return 0 - (0 - v) / n;
    }
    return v / n;
}

static void divide(const struct test_case *c, int ranks, void *array) {
    const struct number_format *f = number_format(c->type);
    for (size_t i = 0; i < c->count; i++) {
        const uint64_t bits = number_load(f, array, i);
        if (!f->real) {
            number_store(f, array, i, divide_integer(f, bits, (uint64_t)ranks));
        } else if (c->type == RONDO_F32) {
            ((float *)array)[i] /= (float)ranks;
        } else if (c->type == RONDO_F64) {
            ((double *)array)[i] /= ranks;
        } else {
            number_store(f, array, i, from_double(f, to_double(f, bits) / ranks));
        }
    }
}

// ---- Collectives ---------------------------------------------------------------------------------

// MPICH 4.0 takes MPI_IN_PLACE for an address where the root is not rank 0 and the array is large.
static int reduce_copied(const struct test_case *c, const void *send, void *recv) {
    const size_t bytes = c->count * number_format(c->type)->bytes;
    void *copy = malloc(bytes + 1);
    if (copy == NULL) {
        return MPI_ERR_NO_MEM;
    }
    memcpy(copy, send, bytes);
    const int r = MPI_Reduce(copy, recv, (int)c->count, mpi_type(c->type), mpi_op(c->type, c->op),
                             c->root, MPI_COMM_WORLD);
    free(copy);
    return r;
}

static int reduce(const struct side *s, const struct test_case *c, const void *send, void *recv) {
    const int count = (int)c->count;
    const MPI_Datatype type = mpi_type(c->type);
    const MPI_Op op = mpi_op(c->type, c->op);
    const bool root = s->rank == c->root;
    switch (c->coll) {
    case CASE_ALL_REDUCE:
        return MPI_Allreduce(c->in_place ? MPI_IN_PLACE : send, recv, count, type, op,
                             MPI_COMM_WORLD);
    case CASE_REDUCE_SCATTER:
        return MPI_Reduce_scatter_block(send, recv, count, type, op, MPI_COMM_WORLD);
    default:
        if (c->in_place && root) {
            return reduce_copied(c, send, recv);
        }
        return MPI_Reduce(send, root ? recv : NULL, count, type, op, c->root, MPI_COMM_WORLD);
    }
}

// In place, MPI wants the whole input where the result will begin.
static int reduce_scatter_in_place(const struct side *s, const struct test_case *c, void *send,
                                   void *recv) {
    const size_t block = c->count * number_format(c->type)->bytes;
    const int r = MPI_Reduce_scatter_block(MPI_IN_PLACE, send, (int)c->count, mpi_type(c->type),
                                           mpi_op(c->type, c->op), MPI_COMM_WORLD);
    if (s->rank != 0) {
        memmove(recv, send, block);
    }
    return r;
}

static int move(const struct side *s, const struct test_case *c, const void *send, void *recv) {
    const int count = (int)c->count;
    const MPI_Datatype type = mpi_type(c->type);
    switch (c->coll) {
    case CASE_ALL_GATHER:
        return MPI_Allgather(c->in_place ? MPI_IN_PLACE : send, count, type, recv, count, type,
                             MPI_COMM_WORLD);
    case CASE_BROADCAST:
        if (s->rank == c->root && !c->in_place) {
            memcpy(recv, send, c->count * number_format(c->type)->bytes);
        }
        return MPI_Bcast(recv, count, type, c->root, MPI_COMM_WORLD);
    case CASE_ALL_TO_ALL:
        return MPI_Alltoall(send, count, type, recv, count, type, MPI_COMM_WORLD);
    default:
        return MPI_Sendrecv(send, count, type, (s->rank + 1) % s->ranks, 0, recv, count, type,
                            (s->rank + s->ranks - 1) % s->ranks, 0, MPI_COMM_WORLD,
                            MPI_STATUS_IGNORE);
    }
}

static enum result_status run(struct side *s, const struct test_case *c, const void *send,
                              void *recv, char *why, size_t cap) {
    int r;
    narrow_type = c->type;
    if (!case_reduces(c)) {
        r = move(s, c, send, recv);
    } else if (c->coll == CASE_REDUCE_SCATTER && c->in_place) {
        // `send` lies in `recv`'s area, which may be written.
        char *whole = (char *)recv - (size_t)s->rank * c->count * number_format(c->type)->bytes;
        r = reduce_scatter_in_place(s, c, whole, recv);
    } else {
        r = reduce(s, c, send, recv);
    }
    if (r != MPI_SUCCESS) {
        snprintf(why, cap, "%s: MPI error %d", case_coll_name(c->coll), r);
        return RESULT_FAILED;
    }
    if (case_reduces(c) && c->op == RONDO_AVG && case_has_result(c, s->rank)) {
        divide(c, s->ranks, recv);
    }
    return RESULT_OK;
}

static bool barrier(struct side *s) {
    (void)s;
    return MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS;
}

// Operations made here are made for their bits, not for speed.
static bool timed(const struct side *s, const struct test_case *c) {
    (void)s;
    return !case_reduces(c) || (!is_narrow(c->type) && c->op != RONDO_AVG);
}

int main(int argc, char **argv) {
    struct side_options o;
    char name[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Init(&argc, &argv);
    struct side s = {.run = run, .barrier = barrier, .timed = timed};
    MPI_Comm_rank(MPI_COMM_WORLD, &s.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &s.ranks);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Get_library_version(name, &length);
    const size_t first = strcspn(name, ",\n");
    for (size_t i = 0; i < first; i++) {
        name[i] = name[i] == '\t' ? ' ' : name[i];
    }
    snprintf(s.version, sizeof s.version, "%.*s", (int)first, name);
    make_narrow();
    const int rc = side_parse(argc, argv, &o) ? side_run(&s, &o) : 2;
    if (rc != 0) {
        MPI_Abort(MPI_COMM_WORLD, rc);
    }
    MPI_Finalize();
    return 0;
}
