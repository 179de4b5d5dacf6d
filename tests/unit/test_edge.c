// SPDX-License-Identifier: MIT
// Where messages land that come in while their operation has several flows on the edge.
#include "ring/internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char memory[2][256]; // of each flow

static char *land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len) {
    (void)r;
    *len = f->total - off;
    return memory[f->index] + off;
}

static const struct rdi_algo algo = {.land = land};

// The tag tells operation and offset: what comes at an offset of the second flow must not be taken for the first one's.
static void test_several_flows(void **state) {
    (void)state;
    struct rondo_comm *c = calloc(1, sizeof *c);
    struct rondo_request *r = calloc(1, sizeof *r), *later = calloc(1, sizeof *later);
    assert_true(c && r && later);
    r->comm = later->comm = c;
    r->algo = later->algo = &algo;
    later->sig.seq = 1;
    struct rdi_edge e = {.comm = c};
    struct rdi_flow last = {.req = later, .edge = &e, .index = 1, .total = 256};
    struct rdi_flow second = {.req = r, .edge = &e, .index = 1, .total = 256, .next = &last};
    struct rdi_flow first = {.req = r, .edge = &e, .total = 256, .next = &second};
    uint64_t of_later = UINT64_C(1) << 48;
    e.head = &first;
    assert_null(rdi_edge_land(&e, 0, 64)); // whose is it?
    assert_null(rdi_edge_land(&e, 128, 64));
    assert_ptr_equal(rdi_edge_land(&e, of_later | 128, 64), memory[1] + 128);
    e.head = &second; // the first is over
    assert_ptr_equal(rdi_edge_land(&e, 0, 64), memory[1]);
    assert_null(rdi_edge_land(&e, 224, 64)); // beyond its end
    second.done = 64;
    assert_null(rdi_edge_land(&e, 0, 64)); // it had that
    assert_null(rdi_edge_land(&e, UINT64_C(2) << 48, 64));
    free(later);
    free(r);
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_several_flows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
