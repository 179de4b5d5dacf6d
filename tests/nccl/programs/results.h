// SPDX-License-Identifier: MIT
// The file that each rank of each side writes: a head, then for each case of the plan a record and `bytes` bytes
// of result. Numbers as this machine has them: the files do not travel.
#ifndef NCCL_TEST_RESULTS_H
#define NCCL_TEST_RESULTS_H

#include <stdint.h>

#define RESULT_MAGIC "RNDRES1"

enum result_status {
    RESULT_OK,
    RESULT_UNSUPPORTED, // the side has no such type or operation: the text says what
    RESULT_FAILED,
};

struct result_head {
    char magic[8];
    uint32_t rank, ranks, cases, reserved;
    uint64_t plan;    // its hash
    char version[48]; // of the side, for people
};

struct result_record {
    uint32_t index;
    int32_t status;
    uint64_t bytes;
    double us; // median time of one operation; 0: not timed
    uint64_t
        stray; // bytes that changed and should not have: around the buffers, or in the send buffer
    char text[256];
};

#endif
