// SPDX-License-Identifier: MIT
// rondo-conform's life: it starts its ranks by itself, or is one rank of a job that a launcher started.
#include "transport/conform/conform.h"

#include <stdio.h>
#include <stdlib.h>

bool cf_is_rank(void) {
    static const char *const names[] = {"RANK", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID",
                                        "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value != NULL && value[0] != '\0') {
            return true;
        }
    }
    return false;
}

static int run(const struct cf_options *o, const struct cf_check **chosen) {
    int n = cf_choose(o, chosen);
    if (n < 0) {
        return CF_USAGE;
    }
    if (o->list) {
        cf_list(chosen, n);
        return CF_OK;
    }
    if (!cf_is_rank()) {
        return cf_launch(o, chosen, n);
    }
    if (o->ranks > 0 || o->nhosts > 0) {
        return cf_complain("a launcher has started this process: leave out --ranks and hosts");
    }
    return cf_keep(o, chosen, n);
}

int main(int argc, char **argv) {
    struct cf_options o;
    int code = cf_parse(argc, argv, &o);
    if (code >= 0) {
        return fflush(stdout) == 0 ? code : CF_FAILED;
    }
    const struct cf_check **chosen = calloc(cf_nchecks, sizeof *chosen);
    if (chosen == NULL) {
        (void)cf_complain("no memory");
        return CF_FAILED;
    }
    code = run(&o, chosen);
    free(chosen);
    return code;
}
