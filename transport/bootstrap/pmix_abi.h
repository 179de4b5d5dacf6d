// SPDX-License-Identifier: MIT
// What is used of libpmix.so.2, which is loaded at run time: the PMIx standard's types and functions (version 2 and
// later, https://pmix.org; chapter "Data structures and types"), so that nothing of it is needed to build.
// tests/launchers/pmix_abi.c compares it with the library's own headers.
#ifndef RDI_BOOTSTRAP_PMIX_ABI_H
#define RDI_BOOTSTRAP_PMIX_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDI_PMIX_SUCCESS 0
#define RDI_PMIX_GLOBAL 3 // scope: for all processes
#define RDI_PMIX_RANK_WILDCARD (UINT32_MAX - 1)

// Types of values.
#define RDI_PMIX_BOOL 1
#define RDI_PMIX_STRING 3
#define RDI_PMIX_UINT16 13
#define RDI_PMIX_UINT32 14

#define RDI_PMIX_JOB_SIZE "pmix.job.size"     // uint32_t
#define RDI_PMIX_LOCAL_SIZE "pmix.local.size" // uint32_t
#define RDI_PMIX_LOCAL_RANK "pmix.lrank"      // uint16_t, of a rank
#define RDI_PMIX_NUM_NODES "pmix.num.nodes"   // uint32_t
#define RDI_PMIX_COLLECT_DATA "pmix.collect"  // bool, of a fence

struct rdi_pmix_proc {
    char nspace[256];
    uint32_t rank;
};

// As large as that of version 2 to 5; the library reads and writes no more than the type says.
struct rdi_pmix_value {
    uint16_t type;
    union {
        bool flag;
        char *string;
        uint16_t uint16;
        uint32_t uint32;
        uint64_t room[3];
    } data;
};

struct rdi_pmix_info {
    char key[512];
    uint32_t flags;
    struct rdi_pmix_value value;
};

struct rdi_pmix {
    int (*init)(struct rdi_pmix_proc *proc, struct rdi_pmix_info info[], size_t n);
    int (*finalize)(const struct rdi_pmix_info info[], size_t n);
    int (*put)(uint8_t scope, const char key[], struct rdi_pmix_value *value);
    int (*commit)(void);
    int (*fence)(const struct rdi_pmix_proc procs[], size_t n, const struct rdi_pmix_info info[],
                 size_t ninfo);
    // The value is from malloc, and so is its string.
    int (*get)(const struct rdi_pmix_proc *proc, const char key[],
               const struct rdi_pmix_info info[], size_t n, struct rdi_pmix_value **value);
    const char *(*error_string)(int status);
};

#endif
