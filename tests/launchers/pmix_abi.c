// SPDX-License-Identifier: MIT
// What is declared of libpmix is what its own headers have. Nothing is run: it compiles or does not.
#include "transport/bootstrap/pmix_abi.h"

#include <pmix.h>
#include <string.h>

#define SAME(what) _Static_assert(what, #what)

SAME(RDI_PMIX_SUCCESS == PMIX_SUCCESS);
SAME(RDI_PMIX_GLOBAL == PMIX_GLOBAL);
SAME(RDI_PMIX_RANK_WILDCARD == (PMIX_RANK_WILDCARD));
SAME(RDI_PMIX_BOOL == PMIX_BOOL && RDI_PMIX_STRING == PMIX_STRING);
SAME(RDI_PMIX_UINT16 == PMIX_UINT16 && RDI_PMIX_UINT32 == PMIX_UINT32);
SAME(sizeof(struct rdi_pmix_proc) == sizeof(pmix_proc_t));
SAME(offsetof(struct rdi_pmix_proc, rank) == offsetof(pmix_proc_t, rank));
SAME(sizeof(struct rdi_pmix_value) >= sizeof(pmix_value_t));
SAME(offsetof(struct rdi_pmix_value, data) == offsetof(pmix_value_t, data));
SAME(sizeof(((struct rdi_pmix_value *)NULL)->type) == sizeof(((pmix_value_t *)NULL)->type));
SAME(offsetof(struct rdi_pmix_info, flags) == offsetof(pmix_info_t, flags));
SAME(offsetof(struct rdi_pmix_info, value) == offsetof(pmix_info_t, value));
SAME(sizeof(pmix_scope_t) == sizeof(uint8_t) && sizeof(pmix_status_t) == sizeof(int));

// The functions' types, as far as C can compare them: the same numbers of arguments, pointers and sizes.
static void compare_functions(void) {
    pmix_status_t (*init)(pmix_proc_t *, pmix_info_t *, size_t) = PMIx_Init;
    pmix_status_t (*finalize)(const pmix_info_t *, size_t) = PMIx_Finalize;
    pmix_status_t (*put)(uint8_t, const char *, pmix_value_t *) = PMIx_Put;
    pmix_status_t (*commit)(void) = PMIx_Commit;
    pmix_status_t (*fence)(const pmix_proc_t *, size_t, const pmix_info_t *, size_t) = PMIx_Fence;
    pmix_status_t (*get)(const pmix_proc_t *, const char *, const pmix_info_t *, size_t,
                         pmix_value_t **) = PMIx_Get;
    const char *(*error_string)(pmix_status_t) = PMIx_Error_string;
    (void)init, (void)finalize, (void)put, (void)commit, (void)fence, (void)get;
    (void)error_string;
}

int main(void) {
    (void)compare_functions;
    return strcmp(RDI_PMIX_JOB_SIZE, PMIX_JOB_SIZE) != 0 ||
           strcmp(RDI_PMIX_LOCAL_SIZE, PMIX_LOCAL_SIZE) != 0 ||
           strcmp(RDI_PMIX_LOCAL_RANK, PMIX_LOCAL_RANK) != 0 ||
           strcmp(RDI_PMIX_NUM_NODES, PMIX_NUM_NODES) != 0 ||
           strcmp(RDI_PMIX_COLLECT_DATA, PMIX_COLLECT_DATA) != 0;
}
