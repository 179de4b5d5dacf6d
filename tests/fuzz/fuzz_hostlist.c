// SPDX-License-Identifier: MIT
// Batch systems' lists of hosts, and Slurm's numbers of tasks. Every entry of a list that is accepted is a name that
// fits, the same whatever was asked for before; one that is not has an error with its text.
//
//   input[0]  form, or 3: numbers of tasks     input[1..3]  an entry to ask for     then the text
#include "fuzz.h"
#include "transport/bootstrap/hostlist.h"

static void check_entry(enum rdi_hosts_form form, const char *text, size_t i) {
    for (size_t cap = 1; cap <= RDI_HOST_NAME; cap += 51) {
        char *host = malloc(cap), whole[RDI_HOST_NAME];
        MUST(host != NULL);
        MUST(rdi_hosts_at(form, text, i, whole, sizeof whole) == RONDO_OK);
        size_t n = strlen(whole);
        MUST(n > 0 && strcspn(whole, "[], \n") == n);
        MUST((rdi_hosts_at(form, text, i, host, cap) == RONDO_OK) == (n < cap));
        MUST(n >= cap || strcmp(host, whole) == 0);
        free(host);
    }
    if (form != RDI_HOSTS_LIST) {
        size_t before, all;
        MUST(rdi_hosts_beside(form, text, i, &before, &all) == RONDO_OK);
        MUST(before <= i && before < all);
    }
}

static void check(enum rdi_hosts_form form, const char *text, size_t i) {
    size_t n = 0;
    char host[RDI_HOST_NAME];
    if (rdi_hosts_count(form, text, &n) == RONDO_OK) {
        MUST(n > 0 && n <= RDI_HOSTS_MAX);
        check_entry(form, text, 0);
        check_entry(form, text, i % n);
        check_entry(form, text, n - 1);
        MUST(rdi_hosts_at(form, text, n, host, sizeof host) == RONDO_ERR_INVALID);
    } else {
        // What is before the wrong place may be asked for all the same.
        MUST(n == 0 && rondo_last_error()[0] != '\0');
        (void)rdi_hosts_at(form, text, i, host, sizeof host);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    uint8_t form = take_byte(&in) % 4;
    size_t i = (size_t)take_number(&in, 3);
    char *text = take_text(&in);
    rdi_set_last_error("");
    if (form < 3) {
        check((enum rdi_hosts_form)form, text, i);
    } else {
        int tasks = -1;
        if (rdi_tasks_on_node(text, i, &tasks) == RONDO_OK) {
            MUST(tasks >= 0);
        } else {
            MUST(tasks == -1 && rondo_last_error()[0] != '\0');
        }
    }
    free(text);
    return 0;
}
