// SPDX-License-Identifier: MIT
// Ways to cut the path between two partners while both live: the user's commands, a function of the tcp
// transport, or the control of a simulated device library.
#include "transport/conform/check.h"
#include "transport/tcp/tcp.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A device library for tests may export this: sets the faults of this process's open devices of that name
// (NULL: of all), and says how many these are.
typedef int (*control_fn)(const char *device, const char *faults);

static control_fn find_control(void) {
    void *library = dlopen("libibverbs.so.1", RTLD_LAZY | RTLD_NOLOAD);
    library = library != NULL ? library : dlopen("libibverbs.so.1", RTLD_LAZY);
    return library != NULL ? (control_fn)dlsym(library, "fake_verbs_control") : NULL;
}

static bool by_command(const struct cf *c) { return c->place->options->break_cmd != NULL; }
static bool is_verbs(const struct cf *c) { return strcmp(c->ops->name, "verbs") == 0; }

const char *cf_cut_excuse(const struct cf *c) {
    if (by_command(c) || strcmp(c->ops->name, "tcp") == 0 || (is_verbs(c) && find_control())) {
        return NULL;
    }
    return "nothing here can cut the path; give --break and --heal";
}

bool cf_cut_lasts(const struct cf *c) { return by_command(c) || is_verbs(c); }

static void run_command(struct cf *c, const char *command) {
    if (c->rank == 0) {
        int status = system(command);
        cf_expect(c, status == 0, "\"%s\" ended with %d", command, status);
    }
}

static void control(struct cf *c, const char *faults) {
    control_fn set = find_control();
    cf_expect(c, set != NULL && set(NULL, faults) > 0, "the device library refuses \"%s\"", faults);
}

void cf_cut(struct cf *c, struct rdi_link *link, unsigned ms) {
    if (by_command(c)) {
        run_command(c, c->place->options->break_cmd);
    } else if (is_verbs(c)) {
        control(c, "cut=0");
    } else {
        // On the next turn if the link is not up right now.
        for (unsigned i = 0; i < rdi_tcp_test_paths(link) && link->state == RDI_LINK_UP; i++) {
            rdi_tcp_test_cut(link, i);
        }
        return;
    }
    if (ms > 0) {
        cf_turns(c, ms);
        cf_heal(c);
    }
}

void cf_heal(struct cf *c) {
    if (by_command(c)) {
        run_command(c, c->place->options->heal_cmd);
    } else if (is_verbs(c)) {
        control(c, "");
    }
}

// ---- Registration --------------------------------------------------------------------------------

void cf_starve(struct cf *c) {
    if (find_control() != NULL) {
        control(c, "regfail=1");
    }
}
