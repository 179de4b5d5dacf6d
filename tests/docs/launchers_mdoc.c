// SPDX-License-Identifier: MIT
// Prints the library's table of launchers as rondo-launchers(7) has it.
#include "transport/bootstrap/launchers.h"

#include <stdio.h>

static void variable(const char *what, const char *name) {
    if (name != NULL) {
        printf(".It %s\n.Ev %s\n", what, name);
    }
}

static void row(const struct rdi_launcher *l) {
    printf(".It %s\n.Bl -tag -width \"local size\" -compact\n", l->name);
    printf(".It known by\n.Ev %s", l->detect);
    if (l->also != NULL) {
        printf("\nand\n.Ev %s", l->also);
    }
    if (l->except_for != NULL) {
        printf(" ,\nunless\n.Ev %s\nis %s", l->except_for, l->except);
    }
    puts("");
    variable("rank", l->rank);
    if (l->first != 0) {
        printf("(rank 0 has %d)\n", l->first);
    }
    variable("size", l->size);
    if (l->hosts != NULL && l->form != RDI_HOSTS_LIST) {
        printf("%s\n.Ev %s\n", l->size == NULL ? ".It size\nthe slots of" : "or the slots of",
               l->hosts);
    }
    variable("local rank", l->local_rank);
    variable("local size", l->local_size);
    if (l->tasks != NULL) {
        printf(".It local size\nthat of host\n.Ev %s\nin\n.Ev %s\n", l->node, l->tasks);
    }
    variable("hosts", l->nodes);
    if (l->hosts != NULL) {
        printf(".It store\non the first host of\n.Ev %s\n", l->hosts);
    }
    if (l->offers != 0) {
        const char *const names[] = {"PMIx", "PMI", "munge"};
        const char *comma = "";
        puts(".It offers");
        for (size_t i = 0; i < 3; i++) {
            if ((l->offers >> i & 1) != 0) {
                printf("%s%s", comma, names[i]);
                comma = ", ";
            }
        }
        puts("");
    }
    if (l->job_id != NULL) {
        printf(".It port\nmade of\n.Ev %s%s%s\n", l->job_id, l->step_id != NULL ? " ,\n.Ev " : "",
               l->step_id != NULL ? l->step_id : "");
    }
    if (l->remedy != NULL) {
        printf(".It note\n%s\n", l->remedy);
    }
    puts(".El");
}

int main(void) {
    puts(".Bl -tag -width Ds");
    for (size_t i = 0; i < rdi_launcher_count; i++) {
        row(&rdi_launchers[i]);
    }
    puts(".El");
    return 0;
}
