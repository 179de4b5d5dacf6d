// SPDX-License-Identifier: MIT
// Lists of processors, as options of DP have them. What is accepted is, written anew, the same set again.
#include "dp/internal.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    struct rdi_set set, again;
    char *text = take_text(&in), why[80] = "";
    if (rdi_dp_read_cpus(text, &set, why)) {
        char *list = rdi_set_list(&set);
        MUST(list != NULL && rdi_set_first(&set) >= 0 && why[0] == '\0');
        MUST(rdi_dp_read_cpus(list, &again, why) && rdi_set_equal(&set, &again));
        free(list);
    } else {
        MUST(why[0] != '\0' && memchr(why, '\0', sizeof why) != NULL);
    }
    free(text);
    return 0;
}
