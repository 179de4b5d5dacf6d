// SPDX-License-Identifier: MIT
// What rondo-conform's ranks say in the store about a check, and the JSON report that comes of it: whatever a rank
// says, the report is one JSON document.
#include "fuzz.h"
#include "transport/conform/conform.h"

#include <jansson.h>

#define RANKS 3

static void check_report(struct cf_result *result, char *const *words, int nwords) {
    static const struct cf_check check = {.id = "a.b", .title = "a \"title\"", .rule = "R1"};
    static char hosts[RANKS][RDI_HOST_MAX] = {"a", "b\xff", "c"};
    char *text = NULL;
    size_t n = 0;
    struct cf_options o = {.argc = nwords, .argv = (char **)(void *)(uintptr_t)words};
    o.transport = "tcp";
    struct cf_report r = {.options = &o, .nranks = RANKS, .hosts = hosts};
    r.json = open_memstream(&text, &n);
    MUST(r.json != NULL);
    cf_json_begin(&r);
    result->check = &check;
    for (int i = 0; i < 2; i++) {
        r.seq++;
        cf_json_result(&r, result);
    }
    MUST(cf_json_end(&r, result->ranks[0].text));
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    MUST(json_is_object(root));
    MUST(json_array_size(json_object_get(root, "checks")) == 2);
    json_decref(root);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct cf_outcome ranks[RANKS], again[RANKS];
    memset(ranks, 0x5a, sizeof ranks);
    char *bytes = own_copy(data, size);
    bool ok = cf_unpack(bytes, size, ranks, RANKS);
    free(bytes);
    if (!ok) {
        return 0;
    }
    for (int i = 0; i < RANKS; i++) {
        MUST(ranks[i].verdict <= CF_ABSENT && ranks[i].seconds >= 0);
        MUST(memchr(ranks[i].text, 0, CF_TEXT) != NULL);
    }
    size_t len = 0;
    char *packed = cf_pack(ranks, RANKS, &len);
    MUST(packed != NULL);
    // A time that a double cannot hold to the microsecond may be rounded beyond what is allowed.
    bool short_times = true;
    for (int i = 0; i < RANKS; i++) {
        short_times = short_times && ranks[i].seconds < 1e9;
    }
    MUST(cf_unpack(packed, len, again, RANKS) || !short_times);
    for (int i = 0; i < RANKS && short_times; i++) {
        MUST(again[i].verdict == ranks[i].verdict && strcmp(again[i].text, ranks[i].text) == 0);
    }
    free(packed);
    struct cf_result result = {.ranks = ranks};
    cf_judge(&result, RANKS);
    MUST(result.verdict <= CF_SKIP);
    char name[] = "rondo-conform";
    char *words[] = {name, ranks[1].text, ranks[2].text};
    check_report(&result, words, 3);
    return 0;
}
