// SPDX-License-Identifier: MIT
// From the words of --hook to a communication hook.
#include "gpt_hook.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_HOOKS = 8, MOST_RANK = 64 };

struct word {
    const char *text;
    int length;
};

// The words between the signs; their number, or 0 where there are too many.
static int split(const char *text, struct word *words) {
    for (int n = 0; n < MOST_HOOKS; n++) {
        const size_t length = strcspn(text, "+");
        words[n] = (struct word){text, (int)length};
        if (!text[length]) {
            return n + 1;
        }
        text += length + 1;
    }
    return 0;
}

static bool is(struct word w, const char *name) {
    return (size_t)w.length == strlen(name) && memcmp(w.text, name, (size_t)w.length) == 0;
}

static bool rank_of(struct word w, int *rank, struct gpt_error *e) {
    const char *digits = w.text + strlen("powersgd:"), *after = w.text + w.length;
    char *end = NULL;
    const long value = *digits >= '0' && *digits <= '9' ? strtol(digits, &end, 10) : 0;
    if (end != after || value < 1 || value > MOST_RANK) {
        return gpt_fail(e, "--hook %.*s: the rank after powersgd: is an integer from 1 to %d",
                        w.length, w.text, MOST_RANK);
    }
    *rank = (int)value;
    return true;
}

// The hook that a word names, with `inner` in it, which it takes over; also where it fails.
static bool make(struct word w, const rondo_ddp_hook *inner, rondo_ddp_hook *out,
                 struct gpt_error *e) {
    rondo_powersgd_options o = RONDO_POWERSGD_OPTIONS_INIT;
    const bool with_rank = w.length > 9 && memcmp(w.text, "powersgd:", 9) == 0;
    rondo_status s = RONDO_ERR_INVALID;
    bool known = true;
    if (is(w, "fp16") || is(w, "bf16")) {
        s = rondo_ddp_hook_cast(is(w, "fp16") ? RONDO_F16 : RONDO_BF16, inner, out);
    } else if (is(w, "powersgd") || with_rank) {
        known = !with_rank || rank_of(w, &o.rank, e);
        s = known ? rondo_ddp_hook_powersgd(&o, inner, out) : s;
    } else {
        known = gpt_fail(e,
                         "--hook %.*s: allowed is none, or fp16, bf16 and powersgd[:RANK], joined "
                         "by + where there are several",
                         w.length, w.text);
    }
    if (!known && inner) {
        rondo_ddp_hook given = *inner;
        rondo_ddp_hook_destroy(&given);
    }
    return known && (s == RONDO_OK || gpt_fail(e, "--hook: %s", rondo_last_error()));
}

bool gpt_hook_make(const char *text, rondo_ddp_hook *hook, bool *any, struct gpt_error *e) {
    struct word words[MOST_HOOKS];
    *any = text && strcmp(text, "none") != 0;
    if (!*any) {
        return true;
    }
    const int n = split(text, words);
    if (n == 0) {
        return gpt_fail(e, "--hook %s: more than %d hooks", text, MOST_HOOKS);
    }
    rondo_ddp_hook inner;
    for (int i = n; i-- > 0;) {
        if (!make(words[i], i + 1 < n ? &inner : NULL, hook, e)) {
            return false;
        }
        inner = *hook;
    }
    return true;
}
