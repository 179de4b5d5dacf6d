// SPDX-License-Identifier: MIT
// What a transport is excused from, with the reason. Everything else holds for all transports.
#include "transport/conform/conform.h"

#include <fnmatch.h>
#include <string.h>

static const struct {
    const char *transport, *check, *reason;
} table[] = {
    {"shm", "path.*", "shared memory has no path that could be lost while the peer lives"},
    {"shm", "resource.memlock", "shared memory is not locked"},
    {"tcp", "resource.memlock", "tcp locks no memory"},
};

const char *cf_excuse(const char *transport, const struct cf_check *check) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].transport, transport) == 0 &&
            fnmatch(table[i].check, check->id, 0) == 0) {
            return table[i].reason;
        }
    }
    return NULL;
}
