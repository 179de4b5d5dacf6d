// SPDX-License-Identifier: MIT
// The data: each element is a pure function of case, rank and index, so that all programs see the same bits and
// the comparison can make any rank's operand by itself. What has to fit together across ranks (values that
// cancel, one rank's infinity) follows from the index alone.
#ifndef NCCL_TEST_DATA_H
#define NCCL_TEST_DATA_H

#include "cases.h"
#include "number.h"

#include <stddef.h>

// Element `index` of a rank's send buffer.
uint64_t data_element(const struct test_case *c, int ranks, int rank, uint64_t index);
void data_fill(const struct test_case *c, int ranks, int rank, size_t count, void *out);

// Whether every order of the operations gives the same, exactly representable result.
bool data_is_exact(const struct test_case *c, int ranks);

#endif
