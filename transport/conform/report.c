// SPDX-License-Identifier: MIT
// What is printed: TAP version 14 (https://testanything.org), or lines for people with what is being done now.
#include "transport/conform/conform.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int total_of(const struct cf_report *r) { return r->nchosen * r->options->repeat; }

// ---- TAP -----------------------------------------------------------------------------------------

// A double-quoted YAML scalar.
static void print_quoted(const char *text) {
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char b = (unsigned char)*text;
        if (b == '"' || b == '\\') {
            printf("\\%c", b);
        } else if (b == '\n') {
            printf("\\n");
        } else if (b < 0x20 || b == 0x7f) {
            printf("\\x%02x", b);
        } else {
            putchar(b);
        }
    }
    putchar('"');
}

static void tap_failure(const struct cf_report *r, const struct cf_result *result) {
    printf("  ---\n  rule: ");
    print_quoted(result->check->rule);
    printf("\n  seconds: %.3f\n  seed: %llu\n  ranks:\n", result->seconds,
           (unsigned long long)r->seed);
    for (int i = 0; i < r->nranks; i++) {
        if (result->ranks[i].verdict == CF_FAIL) {
            printf("    - rank: %d\n      host: ", i);
            print_quoted(r->hosts[i]);
            printf("\n      message: ");
            print_quoted(result->ranks[i].text);
            printf("\n");
        }
    }
    printf("  ...\n");
}

// A SKIP directive ends its line, and '#' begins one.
static void print_reason(const char *text) {
    for (; *text != '\0'; text++) {
        putchar(*text == '\n' || *text == '#' ? ' ' : *text);
    }
}

static const char *skip_reason(const struct cf_report *r, const struct cf_result *result) {
    for (int i = 0; i < r->nranks; i++) {
        if (result->ranks[i].verdict == CF_SKIP) {
            return result->ranks[i].text;
        }
    }
    return "no rank took part";
}

static void tap_result(const struct cf_report *r, const struct cf_result *result) {
    printf("%sok %d - %s: %s", result->verdict == CF_FAIL ? "not " : "", r->seq, result->check->id,
           result->check->title);
    if (result->verdict == CF_SKIP) {
        printf(" # SKIP ");
        print_reason(skip_reason(r, result));
    }
    printf("\n");
    if (result->verdict == CF_FAIL) {
        tap_failure(r, result);
    }
}

// ---- People --------------------------------------------------------------------------------------

// A text of several lines, each behind the same margin.
static void print_lines(const char *text) {
    while (*text != '\0') {
        size_t n = strcspn(text, "\n");
        printf("           %.*s\n", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

static void human_result(const struct cf_report *r, const struct cf_result *result) {
    static const char *const words[] = {"ok  ", "FAIL", "skip", "skip"};
    if (r->tty) {
        printf("\r\033[K");
    }
    printf("[%*d/%d] %s %6.2f s  %-22s ", total_of(r) < 100 ? 2 : 3, r->seq, total_of(r),
           words[result->verdict], result->seconds, result->check->id);
    if (result->verdict == CF_SKIP) {
        print_reason(skip_reason(r, result));
    } else {
        printf("%s", result->check->title);
    }
    printf("\n");
    for (int i = 0; i < r->nranks && result->verdict == CF_FAIL; i++) {
        if (result->ranks[i].verdict == CF_FAIL) {
            printf("         rank %d (host %s):\n", i, r->hosts[i]);
            print_lines(result->ranks[i].text);
        }
    }
    if (result->verdict == CF_FAIL) {
        printf("         rule: %s\n", result->check->rule);
    }
}

static void human_end(const struct cf_report *r, const char *why) {
    if (r->tty) {
        printf("\r\033[K");
    }
    printf("%d passed, %d failed, %d skipped, in %.1f s; seed %llu\n", r->passed, r->failed,
           r->skipped, now_seconds() - r->started, (unsigned long long)r->seed);
    if (why != NULL) {
        printf("ended early: %s\n", why);
    } else if (r->passed + r->failed == 0) {
        printf("nothing ran: that counts as a failure\n");
    }
}

// ---- All -----------------------------------------------------------------------------------------

static void print_head(const struct cf_report *r) {
    const char *mark = r->tap ? "# " : "";
    if (r->tap) {
        printf("TAP version 14\n1..%d\n", total_of(r));
    }
    printf("%srondo-conform %s: %s between %d ranks on", mark, rondo_version(),
           r->options->transport, r->nranks);
    for (int i = 0; i < r->nranks; i++) {
        printf(" %s", r->hosts[i]);
    }
    printf(", seed %llu\n", (unsigned long long)r->seed);
    fflush(stdout);
}

bool cf_report_begin(struct cf_report *r) {
    const struct cf_options *o = r->options;
    bool terminal = isatty(STDOUT_FILENO) == 1;
    r->tap = o->format == CF_TAP || (o->format == CF_AUTO && !terminal);
    r->tty = terminal && !r->tap;
    r->started = now_seconds();
    if (o->json != NULL) {
        r->json = fopen(o->json, "we");
        if (r->json == NULL) {
            (void)cf_complain("cannot write \"%s\": %s; name a file in a folder that you may write "
                              "to",
                              o->json, strerror(errno));
            return false;
        }
        cf_json_begin(r);
    }
    print_head(r);
    return true;
}

void cf_report_next(struct cf_report *r, const struct cf_check *check) {
    if (r->tty) {
        printf("\r\033[K[%*d/%d] ...           %-22s %s", total_of(r) < 100 ? 2 : 3, r->seq + 1,
               total_of(r), check->id, check->title);
        fflush(stdout);
    }
}

void cf_report_result(struct cf_report *r, const struct cf_result *result) {
    r->seq++;
    r->passed += result->verdict == CF_PASS;
    r->failed += result->verdict == CF_FAIL;
    r->skipped += result->verdict == CF_SKIP;
    if (r->tap) {
        tap_result(r, result);
    } else {
        human_result(r, result);
    }
    fflush(stdout);
    if (r->json != NULL) {
        cf_json_result(r, result);
    }
}

int cf_report_end(struct cf_report *r, const char *why) {
    bool good = why == NULL && r->failed == 0 && r->passed > 0;
    if (!r->tap) {
        human_end(r, why);
    } else if (why != NULL) {
        printf("Bail out! ");
        print_reason(why);
        printf("\n");
    } else {
        printf("# %d passed, %d failed, %d skipped\n", r->passed, r->failed, r->skipped);
    }
    bool written = fflush(stdout) == 0;
    if (r->json != NULL && !cf_json_end(r, why)) {
        (void)cf_complain("cannot write \"%s\": %s", r->options->json, strerror(errno));
        written = false;
    }
    return good && written ? CF_OK : CF_FAILED;
}
