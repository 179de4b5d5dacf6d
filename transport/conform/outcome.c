// SPDX-License-Identifier: MIT
// What ranks found, as bytes for the store and as one verdict.
//
//   "<verdict> <microseconds> <bytes of text>\n<text>" for each rank
#include "transport/conform/conform.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *cf_pack(const struct cf_outcome *ranks, int n, size_t *len) {
    size_t cap = (size_t)n * (CF_TEXT + 64), used = 0;
    char *bytes = malloc(cap);
    for (int r = 0; r < n && bytes != NULL; r++) {
        used += (size_t)snprintf(bytes + used, cap - used, "%d %.0f %zu\n%s", (int)ranks[r].verdict,
                                 ranks[r].seconds * 1e6, strlen(ranks[r].text), ranks[r].text);
    }
    *len = used;
    return bytes;
}

// One whole number in front of `end`; NULL: malformed.
static const char *read_number(const char *at, const char *stop, char end, uint64_t max,
                               uint64_t *out) {
    uint64_t v = 0;
    const char *from = at;
    for (; at < stop && *at >= '0' && *at <= '9'; at++) {
        v = v * 10 + (uint64_t)(*at - '0');
        if (v > max) {
            return NULL;
        }
    }
    *out = v;
    return at > from && at < stop && *at == end ? at + 1 : NULL;
}

bool cf_unpack(const void *bytes, size_t len, struct cf_outcome *ranks, int n) {
    const char *at = bytes, *stop = at + len;
    for (int r = 0; r < n; r++) {
        uint64_t verdict, us, text;
        at = read_number(at, stop, ' ', CF_ABSENT, &verdict);
        at = at != NULL ? read_number(at, stop, ' ', UINT64_MAX / 100, &us) : NULL;
        at = at != NULL ? read_number(at, stop, '\n', CF_TEXT - 1, &text) : NULL;
        if (at == NULL || text > (size_t)(stop - at)) {
            return false;
        }
        ranks[r].verdict = (enum cf_verdict)verdict;
        ranks[r].seconds = (double)us / 1e6;
        memcpy(ranks[r].text, at, text);
        ranks[r].text[text] = '\0';
        at += text;
    }
    return at == stop;
}

// One that failed decides; a skip only if nobody did the check.
void cf_judge(struct cf_result *r, int n) {
    unsigned count[CF_ABSENT + 1] = {0};
    r->seconds = 0;
    for (int i = 0; i < n; i++) {
        count[r->ranks[i].verdict]++;
        r->seconds = r->ranks[i].seconds > r->seconds ? r->ranks[i].seconds : r->seconds;
    }
    r->verdict = count[CF_FAIL] > 0                          ? CF_FAIL
                 : count[CF_PASS] > 0 && count[CF_SKIP] == 0 ? CF_PASS
                                                             : CF_SKIP;
}
