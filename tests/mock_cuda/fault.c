// SPDX-License-Identifier: MIT
// MOCK_CUDA_FAIL="function:nth:code,...": the nth call from now on fails; "3+" the third and all after it, "*" all.
// The function "kernel" is the execution of a kernel: the context then is in error for good, as after a fault.
#include "tests/mock_cuda/mock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fault {
    char function[48];
    unsigned long nth;
    bool onwards;
    int code;
    _Atomic unsigned long calls;
} faults[16];
static _Atomic unsigned count;

static bool known(const char *function) {
    if (strcmp(function, "kernel") == 0)
        return true;
    for (unsigned i = 0; i < MC_FUNCTIONS; i++)
        if (strcmp(mc_symbols[i], function) == 0)
            return true;
    return false;
}

static bool parse_one(struct fault *f, const char *text) {
    const char *first = strchr(text, ':'), *second = first ? strchr(first + 1, ':') : NULL;
    if (!second || (size_t)(first - text) >= sizeof f->function)
        return false;
    memcpy(f->function, text, (size_t)(first - text));
    f->function[first - text] = '\0';
    char *end;
    if (first[1] == '*') {
        f->nth = 1;
        f->onwards = true;
        end = (char *)(uintptr_t)first + 2;
    } else {
        f->nth = strtoul(first + 1, &end, 10);
        f->onwards = *end == '+';
        end += f->onwards;
    }
    if (end != second || f->nth == 0)
        return false;
    f->code = (int)strtol(second + 1, &end, 10);
    return end != second + 1 && *end == '\0' && f->code > 0 && known(f->function);
}

void mc_fault_parse(const char *text) {
    char copy[1024], *save;
    unsigned n = 0;
    atomic_store(&count, 0);
    if (!text)
        return;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *one = strtok_r(copy, ", \n", &save); one; one = strtok_r(NULL, ", \n", &save)) {
        if (n == sizeof faults / sizeof faults[0] || !parse_one(&faults[n], one))
            mc_rule("environment", "'%s' in MOCK_CUDA_FAIL=\"%s\" is not function:nth:code", one,
                    text);
        atomic_store(&faults[n].calls, 0);
        n++;
    }
    atomic_store(&count, n);
}

int mc_fault(const char *function) {
    unsigned n = atomic_load_explicit(&count, memory_order_acquire);
    int code = 0;
    for (unsigned i = 0; i < n; i++) {
        struct fault *f = &faults[i];
        if (strcmp(f->function, function) != 0)
            continue;
        unsigned long nth = atomic_fetch_add_explicit(&f->calls, 1, memory_order_relaxed) + 1;
        if (nth == f->nth || (f->onwards && nth > f->nth))
            code = f->code;
    }
    return code;
}
