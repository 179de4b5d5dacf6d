// SPDX-License-Identifier: MIT
// The NICs that were decided for a rank, found by the names of what they are used through.
#include "transport/internal.h"

#include <string.h>

// Whether a list with commas between has the name.
static bool lists(const char *list, const char *name) {
    size_t n = strlen(name);
    while (n > 0 && *list != '\0') {
        size_t len = strcspn(list, ",");
        if (len == n && memcmp(list, name, n) == 0) {
            return true;
        }
        list += len + (list[len] == ',');
    }
    return false;
}

const struct rdi_rail *rdi_rails_net(const struct rdi_rails *rails, const char *name) {
    for (unsigned i = 0; rails != NULL && i < rails->count; i++) {
        if (lists(rails->at[i].net, name)) {
            return &rails->at[i];
        }
    }
    return NULL;
}

const struct rdi_rail *rdi_rails_rdma(const struct rdi_rails *rails, const char *name) {
    for (unsigned i = 0; rails != NULL && i < rails->count; i++) {
        if (lists(rails->at[i].rdma, name)) {
            return &rails->at[i];
        }
    }
    return NULL;
}
