// SPDX-License-Identifier: MIT
// A libpmix.so.2 that is stricter than the real one: what ranks put lies in files of the folder MOCK_PMIX, a fence
// waits for MOCK_PMIX_SIZE ranks. MOCK_PMIX_WRONG makes one call of rank MOCK_PMIX_WHO fail, or never come back.
#include "transport/bootstrap/pmix_abi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define NOT_FOUND (-46)
#define BAD_PARAM (-27)
#define UNREACH (-25)

EXPORT int PMIx_Init(struct rdi_pmix_proc *proc, struct rdi_pmix_info info[], size_t n);
EXPORT int PMIx_Finalize(const struct rdi_pmix_info info[], size_t n);
EXPORT int PMIx_Put(uint8_t scope, const char key[], struct rdi_pmix_value *value);
EXPORT int PMIx_Commit(void);
EXPORT int PMIx_Fence(const struct rdi_pmix_proc procs[], size_t n,
                      const struct rdi_pmix_info info[], size_t ninfo);
EXPORT int PMIx_Get(const struct rdi_pmix_proc *proc, const char key[],
                    const struct rdi_pmix_info info[], size_t n, struct rdi_pmix_value **value);
EXPORT const char *PMIx_Error_string(int status);

static char put_key[512], put_text[4096];
static bool is_begun, is_committed;
static unsigned fences;

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value != NULL ? value : "";
}

// What a call has to return instead of working.
static bool goes_wrong(const char *call, int *status) {
    const char *wrong = variable("MOCK_PMIX_WRONG");
    if (strcmp(variable("MOCK_PMIX_WHO"), "") != 0 &&
        strcmp(variable("MOCK_PMIX_WHO"), variable("PMIX_RANK")) != 0) {
        return false;
    }
    size_t n = strlen(call);
    if (strncmp(wrong, call, n) != 0) {
        return false;
    }
    if (strcmp(wrong + n, " hangs") == 0) {
        sleep(1000);
    }
    *status = UNREACH;
    return true;
}

static int save(const char *name, const char *text) {
    char path[600], half[640];
    snprintf(path, sizeof path, "%s/%s", variable("MOCK_PMIX"), name);
    snprintf(half, sizeof half, "%s.%d", path, (int)getpid());
    FILE *f = fopen(half, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0 || rename(half, path) != 0) {
        return UNREACH;
    }
    return RDI_PMIX_SUCCESS;
}

static bool is_saved(const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", variable("MOCK_PMIX"), name);
    return access(path, F_OK) == 0;
}

int PMIx_Init(struct rdi_pmix_proc *proc, struct rdi_pmix_info info[], size_t n) {
    int status = RDI_PMIX_SUCCESS;
    if (goes_wrong("init", &status)) {
        return status;
    }
    if (info != NULL || n != 0 || is_begun) {
        return BAD_PARAM;
    }
    memset(proc, 0, sizeof *proc);
    snprintf(proc->nspace, sizeof proc->nspace, "%s", variable("PMIX_NAMESPACE"));
    proc->rank = (uint32_t)atoi(variable("PMIX_RANK"));
    is_begun = true;
    return status;
}

int PMIx_Finalize(const struct rdi_pmix_info info[], size_t n) {
    char name[64];
    if (!is_begun || info != NULL || n != 0) {
        return BAD_PARAM;
    }
    is_begun = false;
    snprintf(name, sizeof name, "finalized.%s", variable("PMIX_RANK"));
    return save(name, "");
}

int PMIx_Put(uint8_t scope, const char key[], struct rdi_pmix_value *value) {
    int status = RDI_PMIX_SUCCESS;
    if (goes_wrong("put", &status)) {
        return status;
    }
    if (!is_begun || scope != RDI_PMIX_GLOBAL || value->type != RDI_PMIX_STRING ||
        strlen(value->data.string) >= sizeof put_text) {
        return BAD_PARAM;
    }
    snprintf(put_key, sizeof put_key, "%s", key);
    snprintf(put_text, sizeof put_text, "%s", value->data.string);
    return status;
}

int PMIx_Commit(void) {
    is_committed = put_key[0] != '\0';
    return is_begun && is_committed ? RDI_PMIX_SUCCESS : BAD_PARAM;
}

int PMIx_Fence(const struct rdi_pmix_proc procs[], size_t n, const struct rdi_pmix_info info[],
               size_t ninfo) {
    char name[600];
    int status = RDI_PMIX_SUCCESS;
    if (goes_wrong("fence", &status)) {
        return status;
    }
    if (!is_begun || n != 1 || procs[0].rank != RDI_PMIX_RANK_WILDCARD || ninfo != 1 ||
        strcmp(procs[0].nspace, variable("PMIX_NAMESPACE")) != 0 ||
        strcmp(info[0].key, RDI_PMIX_COLLECT_DATA) != 0 || info[0].value.type != RDI_PMIX_BOOL ||
        !info[0].value.data.flag) {
        return BAD_PARAM;
    }
    if (is_committed) {
        snprintf(name, sizeof name, "%s.%s", put_key, variable("PMIX_RANK"));
        status = save(name, put_text);
    }
    snprintf(name, sizeof name, "fence.%u.%s", fences, variable("PMIX_RANK"));
    status = status == RDI_PMIX_SUCCESS ? save(name, "") : status;
    for (int r = 0; r < atoi(variable("MOCK_PMIX_SIZE")) && status == RDI_PMIX_SUCCESS;) {
        snprintf(name, sizeof name, "fence.%u.%d", fences, r);
        if (is_saved(name)) {
            r++;
        } else {
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        }
    }
    fences++;
    return status;
}

static int give_number(uint16_t type, const char *text, struct rdi_pmix_value *v) {
    v->type = type;
    if (type == RDI_PMIX_UINT16) {
        v->data.uint16 = (uint16_t)atoi(text);
    } else {
        v->data.uint32 = (uint32_t)atoi(text);
    }
    return text[0] != '\0' ? RDI_PMIX_SUCCESS : NOT_FOUND;
}

static int give_text(uint32_t rank, const char *key, struct rdi_pmix_value *v) {
    char path[1200], text[sizeof put_text] = "";
    snprintf(path, sizeof path, "%s/%s.%u", variable("MOCK_PMIX"), key, rank);
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        return NOT_FOUND;
    }
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    v->type = RDI_PMIX_STRING;
    v->data.string = strndup(text, n);
    return RDI_PMIX_SUCCESS;
}

int PMIx_Get(const struct rdi_pmix_proc *proc, const char key[], const struct rdi_pmix_info info[],
             size_t n, struct rdi_pmix_value **value) {
    int status = RDI_PMIX_SUCCESS;
    if (goes_wrong("get", &status)) {
        return status;
    }
    if (!is_begun || info != NULL || n != 0 ||
        strcmp(proc->nspace, variable("PMIX_NAMESPACE")) != 0) {
        return BAD_PARAM;
    }
    bool of_job = proc->rank == RDI_PMIX_RANK_WILDCARD;
    struct rdi_pmix_value *v = calloc(1, sizeof *v);
    status = NOT_FOUND;
    if (strcmp(key, RDI_PMIX_JOB_SIZE) == 0 && of_job) {
        status = give_number(RDI_PMIX_UINT32, variable("MOCK_PMIX_SIZE"), v);
    } else if (strcmp(key, RDI_PMIX_LOCAL_SIZE) == 0 && of_job) {
        status = give_number(RDI_PMIX_UINT32, variable("MOCK_PMIX_LOCAL_SIZE"), v);
    } else if (strcmp(key, RDI_PMIX_LOCAL_RANK) == 0 && !of_job) {
        status = give_number(RDI_PMIX_UINT16, variable("PMIX_RANK"), v);
    } else if (strncmp(key, "pmix.", 5) != 0 && !of_job) {
        status = give_text(proc->rank, key, v);
    }
    if (status == RDI_PMIX_SUCCESS) {
        *value = v;
    } else {
        free(v);
    }
    return status;
}

const char *PMIx_Error_string(int status) {
    return status == UNREACH ? "MOCK-UNREACH" : status == NOT_FOUND ? "MOCK-NOT-FOUND" : "MOCK-BAD";
}
