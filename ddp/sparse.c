// SPDX-License-Identifier: MIT
// Sparse gradients: rows of a matrix, gathered from all ranks and added up row by row.
//
//   mine   row  7 3 7      --sort, add-->  3 7    --all_gather, padded to the largest rank-->  3 7 | 2 3 |
//   sum    row  2 3 7, each the left fold over ranks of what they have in it
//
// Rounded to the type after each addition, in the order of ranks: the bits depend on nothing else.
#include "ddp/internal.h"
#include "ring/reduce.h"

#include <stdlib.h>
#include <string.h>

// ---- Life ----------------------------------------------------------------------------------------

rondo_status rdi_sparse_open(struct rondo_ddp *d, const size_t *list, size_t n) {
    if (n && !list) {
        return rdi_fail(RONDO_ERR_INVALID, "options.sparse is NULL, but nsparse is %zu", n);
    }
    d->sparse = calloc(n + 1, sizeof *d->sparse);
    if (!d->sparse) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of %zu parameters", n);
    }
    for (size_t k = 0; k < n; k++) {
        size_t i = list[k];
        if (i >= d->nparams || d->params[i].sparse) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "options.sparse[%zu] is %zu, which is no parameter, or there twice", k,
                            i);
        }
        struct rdi_param *p = &d->params[i];
        if (p->rows == 0) {
            return rdi_fail(
                RONDO_ERR_INVALID,
                "parameter %zu (\"%s\") is in options.sparse; options.rows must say how many "
                "rows it has",
                i, p->name);
        }
        size_t width = p->count / p->rows;
        d->sparse[k] = (struct rdi_sparse){
            .param = i, .width = width, .bytes = width * rondo_type_size(p->type)};
        p->sparse = true;
        d->nsparse = k + 1;
    }
    return RONDO_OK;
}

static void free_rows(struct rdi_rows *r) {
    free(r->row);
    free(r->values);
    *r = (struct rdi_rows){0};
}

void rdi_sparse_close(struct rondo_ddp *d) {
    for (size_t k = 0; k < d->nsparse; k++) {
        free_rows(&d->sparse[k].mine);
        free_rows(&d->sparse[k].sum);
    }
    free(d->sparse);
}

static rondo_status make_room(struct rdi_rows *r, size_t n, size_t bytes) {
    if (n <= r->cap) {
        return RONDO_OK;
    }
    size_t cap = n > 2 * r->cap ? n : 2 * r->cap;
    void *row = realloc(r->row, cap * sizeof *r->row);
    if (row) {
        r->row = row;
        void *values = realloc(r->values, cap * bytes);
        if (values) {
            r->values = values;
            r->cap = cap;
            return RONDO_OK;
        }
    }
    return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu rows of a sparse gradient", cap);
}

static struct rdi_sparse *find(const struct rondo_ddp *d, size_t i) {
    for (size_t k = 0; d && k < d->nsparse; k++) {
        if (d->sparse[k].param == i) {
            return &d->sparse[k];
        }
    }
    return NULL;
}

// ---- Marks ---------------------------------------------------------------------------------------

// The sums of the step before end with the first mark of the next.
void rdi_sparse_reset(struct rondo_ddp *d) {
    for (size_t k = 0; k < d->nsparse; k++) {
        d->sparse[k].sum.n = 0;
    }
}

static rondo_status add_rows(struct rondo_ddp *d, struct rdi_sparse *s, const uint64_t *row,
                             const void *values, size_t nrows) {
    const struct rdi_param *p = &d->params[s->param];
    for (size_t k = 0; k < nrows; k++) {
        if (row[k] >= p->rows) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "parameter %zu (\"%s\"): row[%zu] is %llu, but it has %zu rows",
                            s->param, p->name, k, (unsigned long long)row[k], p->rows);
        }
    }
    rondo_status r = make_room(&s->mine, s->mine.n + nrows, s->bytes);
    if (r == RONDO_OK && nrows) {
        memcpy(s->mine.row + s->mine.n, row, nrows * sizeof *row);
        memcpy(s->mine.values + s->mine.n * s->bytes, values, nrows * s->bytes);
        s->mine.n += nrows;
    }
    return r;
}

rondo_status rondo_ddp_grad_ready_sparse(rondo_ddp *d, size_t i, const uint64_t *row,
                                         const void *values, size_t nrows) {
    struct rdi_sparse *p = find(d, i);
    if (!p || (nrows && (!row || !values))) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_grad_ready_sparse: %s",
                        p ? "a pointer is NULL"
                          : "the ddp object is NULL, or the parameter is not in options.sparse");
    }
    bool complete = false;
    rondo_status s = rdi_ddp_begin_step(d);
    s = s == RONDO_OK ? rdi_usage_mark(d, i, nrows > 0 || d->static_graph, &complete) : s;
    s = s == RONDO_OK ? add_rows(d, p, row, values, nrows) : s;
    if (s == RONDO_OK && complete) {
        rdi_ddp_complete(d, i);
    }
    return s != RONDO_OK && d->elastic && rdi_ddp_is_broken(d) ? RONDO_OK : s;
}

// ---- Adding up -----------------------------------------------------------------------------------

// Where a row comes from: sorted by row, then by place, which is the order of ranks.
struct place {
    uint64_t row;
    size_t at;
};

static int compare(const void *a, const void *b) {
    const struct place *x = a, *y = b;
    return x->row != y->row ? (x->row < y->row ? -1 : 1) : (x->at > y->at) - (x->at < y->at);
}

// *out = rows of `places` (n of them, of `values`), each once.
static rondo_status add_up(const struct rondo_ddp *d, const struct rdi_sparse *s,
                           struct place *places, size_t n, const char *values,
                           struct rdi_rows *out) {
    rondo_type type = d->params[s->param].type;
    qsort(places, n, sizeof *places, compare);
    out->n = 0;
    rondo_status r = make_room(out, n, s->bytes);
    for (size_t k = 0; k < n && r == RONDO_OK; k++) {
        const char *from = values + places[k].at * s->bytes;
        if (k && places[k].row == places[k - 1].row) {
            char *to = out->values + (out->n - 1) * s->bytes;
            rdi_reduce2(to, to, from, s->width, type, RONDO_SUM);
        } else {
            out->row[out->n] = places[k].row;
            memcpy(out->values + out->n++ * s->bytes, from, s->bytes);
        }
    }
    return r;
}

static struct place *new_places(size_t n) {
    struct place *p = malloc((n + 1) * sizeof *p);
    if (!p) {
        (void)rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu rows of a sparse gradient", n);
    }
    return p;
}

// This rank's rows, each once, divided.
static rondo_status condense(struct rondo_ddp *d, struct rdi_sparse *s) {
    struct rdi_rows once = {0};
    struct place *places = new_places(s->mine.n);
    if (!places) {
        return RONDO_ERR_NOMEM;
    }
    for (size_t k = 0; k < s->mine.n; k++) {
        places[k] = (struct place){s->mine.row[k], k};
    }
    rondo_status r = add_up(d, s, places, s->mine.n, s->mine.values, &once);
    free(places);
    if (r != RONDO_OK) {
        free_rows(&once);
        return r;
    }
    free_rows(&s->mine);
    s->mine = once;
    return d->place->divide(d, once.values, once.values, once.n * s->width,
                            d->params[s->param].type);
}

// ---- Gathering -----------------------------------------------------------------------------------

// rows and values of all ranks, each in a block of `most` rows.
static rondo_status gather(struct rondo_ddp *d, struct rdi_sparse *s, size_t most, uint64_t *rows,
                           char *values) {
    size_t me = (size_t)rondo_comm_rank(d->comm);
    rondo_request *reqs[2] = {NULL, NULL};
    uint64_t *row = rows + me * most;
    char *value = values + me * most * s->bytes;
    memset(row, 0, most * sizeof *row);
    memset(value, 0, most * s->bytes);
    if (s->mine.n) {
        memcpy(row, s->mine.row, s->mine.n * sizeof *row);
        memcpy(value, s->mine.values, s->mine.n * s->bytes);
    }
    rondo_status r = rondo_all_gather_start(row, rows, most, RONDO_U64, d->comm, &reqs[0]);
    if (r == RONDO_OK) {
        r = rondo_all_gather_start(value, values, most * s->width, d->params[s->param].type,
                                   d->comm, &reqs[1]);
    }
    rondo_status w = rondo_wait_all(reqs, 2);
    return r == RONDO_OK ? w : r;
}

// What the peers sent is looked at before it is used.
static rondo_status merge(struct rondo_ddp *d, struct rdi_sparse *s, const uint64_t *counts,
                          size_t most, const uint64_t *rows, const char *values) {
    size_t ranks = (size_t)rondo_comm_size(d->comm), n = 0;
    struct place *places = new_places(ranks * most);
    if (!places) {
        return RONDO_ERR_NOMEM;
    }
    rondo_status r = RONDO_OK;
    for (size_t rank = 0; rank < ranks; rank++) {
        for (size_t k = 0; k < counts[rank * d->nsparse]; k++) {
            const uint64_t row = rows[rank * most + k];
            places[n++] = (struct place){row, rank * most + k};
            if (row >= d->params[s->param].rows) {
                r = rdi_fail(RONDO_ERR_INTERNAL, "rank %zu sent row %llu of \"%s\", which has %zu",
                             rank, (unsigned long long)row, d->params[s->param].name,
                             d->params[s->param].rows);
            }
        }
    }
    r = r == RONDO_OK ? add_up(d, s, places, n, values, &s->sum) : r;
    free(places);
    return r;
}

static rondo_status reduce_one(struct rondo_ddp *d, struct rdi_sparse *s, const uint64_t *counts) {
    size_t ranks = (size_t)rondo_comm_size(d->comm), most = 0;
    for (size_t r = 0; r < ranks; r++) {
        size_t n = (size_t)counts[r * d->nsparse];
        if (n > d->params[s->param].rows) {
            return rdi_fail(RONDO_ERR_INTERNAL,
                            "rank %zu announced %zu rows of \"%s\", which has %zu", r, n,
                            d->params[s->param].name, d->params[s->param].rows);
        }
        most = n > most ? n : most;
    }
    uint64_t *rows = malloc((ranks * most + 1) * sizeof *rows);
    char *values = malloc(ranks * most * s->bytes + 1);
    rondo_status r = RONDO_OK;
    if (!rows || !values) {
        r = rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu rows of %zu bytes from %zu ranks",
                     most, s->bytes, ranks);
    } else if (most > 0) {
        r = gather(d, s, most, rows, values);
    }
    r = r == RONDO_OK ? merge(d, s, counts, most, rows, values) : r;
    free(rows);
    free(values);
    s->mine.n = 0;
    d->stats.bytes_reduced += most * (s->bytes + sizeof *rows);
    return r;
}

rondo_status rdi_sparse_reduce(struct rondo_ddp *d) {
    if (d->nsparse == 0) {
        return RONDO_OK;
    }
    size_t ranks = (size_t)rondo_comm_size(d->comm);
    uint64_t *counts = malloc(ranks * d->nsparse * sizeof *counts);
    if (!counts) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the rows of %zu ranks", ranks);
    }
    rondo_status s = RONDO_OK;
    uint64_t *mine = counts + (size_t)rondo_comm_rank(d->comm) * d->nsparse;
    for (size_t k = 0; k < d->nsparse && s == RONDO_OK; k++) {
        s = condense(d, &d->sparse[k]);
        mine[k] = d->sparse[k].mine.n;
    }
    s = s == RONDO_OK ? rondo_all_gather(mine, counts, d->nsparse, RONDO_U64, d->comm) : s;
    for (size_t k = 0; k < d->nsparse && s == RONDO_OK; k++) {
        s = reduce_one(d, &d->sparse[k], counts + k);
    }
    free(counts);
    return s;
}

rondo_status rondo_ddp_grad_sparse(const rondo_ddp *d, size_t i, const uint64_t **row,
                                   const void **values, size_t *nrows) {
    const struct rdi_sparse *s = find(d, i);
    if (!s || !row || !values || !nrows) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_grad_sparse: %s",
                        s ? "a pointer is NULL"
                          : "the ddp object is NULL, or the parameter is not in options.sparse");
    }
    *row = s->sum.row;
    *values = s->sum.values;
    *nrows = s->sum.n;
    return RONDO_OK;
}
