// SPDX-License-Identifier: MIT
// What rank 0 tells a person.
#include "gpt_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static double bits(double nats) { return nats / 0.69314718055994531; }

// ---- Progress -----------------------------------------------------------------------------------

static size_t add_time_left(char *to, size_t size, const struct gpt_status *s) {
    if (s->fraction <= 0.0 || s->fraction >= 1.0) {
        return 0;
    }
    // From the pace so far; a step more or less makes no difference to a person.
    const double left = fmin(s->seconds * (1.0 - s->fraction) / s->fraction, 359999.0);
    const int total = (int)ceil(left), hours = total / 3600, minutes = total / 60 % 60,
              seconds = total % 60;
    int n = hours ? snprintf(to, size, "  %d:%02d:%02d left", hours, minutes, seconds)
                  : snprintf(to, size, "  %d:%02d left", minutes, seconds);
    return n > 0 ? (size_t)n : 0;
}

static void compose(char line[200], const struct gpt_status *s) {
    size_t at = (size_t)snprintf(line, 200, "step %6" PRIu64 "  loss %.3f", s->step, s->train);
    if (!isnan(s->held)) {
        at += (size_t)snprintf(line + at, 200 - at, "  held-out %.3f", s->held);
    }
    at += (size_t)snprintf(line + at, 200 - at, "  %.1fk tokens/s", s->speed / 1000.0);
    if (!isnan(s->hidden)) {
        at += (size_t)snprintf(line + at, 200 - at, "  %2.0f %% of comm hidden", 100.0 * s->hidden);
    }
    add_time_left(line + at, 200 - at, s);
}

void gpt_progress_show(struct gpt_progress *p, const struct gpt_status *s, bool measured) {
    const double pause = p->live ? 0.1 : 5.0;
    if (p->quiet || (s->seconds - p->shown < pause && !(measured && !p->live))) {
        return;
    }
    char line[200];
    compose(line, s);
    const int width = (int)strlen(line);
    if (p->live) {
        printf("\r%s%*s", line, p->width > width ? p->width - width : 0, "");
    } else {
        puts(line);
    }
    fflush(stdout);
    p->width = width;
    p->shown = s->seconds;
}

void gpt_progress_end(struct gpt_progress *p) {
    if (p->live && p->width > 0) {
        printf("\r%*s\r", p->width, "");
        fflush(stdout);
    }
    p->width = 0;
}

// ---- Report -------------------------------------------------------------------------------------

static void print_communication(const struct gpt_summary *s) {
    if (s->devices) {
        printf("  parameters out %.1f s, gradients in %.1f s, while nothing was computed\n",
               s->replicating, s->reducing);
        return;
    }
    if (s->ranks < 2 || s->reduced == 0) {
        printf("  communication  none: %s\n", s->ranks < 2 ? "one rank" : "no steps");
        return;
    }
    // What a ring sends at best: a reduce-scatter and an all-gather, each of (n - 1) / n of the
    // data (Patarasuk and Yuan, 2009).
    const double mib = 1048576.0, least = 2.0 * (s->ranks - 1) / s->ranks * (double)s->reduced;
    printf(
        "  communication  %.0f %% hidden behind backward (%.1f of %.1f s a rank were waited for)\n",
        s->comm > 0.0 ? 100.0 * (1.0 - s->exposed / s->comm) : 0.0, s->exposed, s->comm);
    printf("  bytes sent     %.1f MiB a rank for %.1f MiB of gradients; the ring's bound 2(n-1)/n "
           "is %.1f MiB: "
           "%.3f times that\n",
           (double)s->sent / mib, (double)s->reduced / mib, least / mib, (double)s->sent / least);
}

void gpt_report(const struct gpt_summary *s) {
    const int places = s->devices ? s->devices : s->ranks;
    printf("report: %" PRIu64 " steps on %d %s%s in %.1f s\n", s->steps, places,
           s->devices ? "device" : "rank", places == 1 ? "" : "s", s->seconds);
    printf(
        "  held-out loss  %.4f -> %.4f nats per byte (%.4f -> %.4f bits per byte), %zu windows\n",
        s->before, s->after, bits(s->before), bits(s->after), s->windows);
    if (*s->device) {
        printf("  device         %s\n", s->device);
    }
    printf("  speed          %.0f tokens/s (a token is a byte)\n", s->speed);
    print_communication(s);
    if (s->all_moments) {
        printf("  optimizer      %.2f MiB of moments a rank, of %.2f MiB: 1/%.2f\n",
               (double)s->moments / 1048576.0, (double)s->all_moments / 1048576.0,
               (double)s->all_moments / (double)s->moments);
    }
    if (s->hook && s->reduced) {
        printf(
            "  hook           %s: %.1f MiB handed over for %.1f MiB of gradients, %.1f %% saved; "
            "%.2g of the last step's norm left out\n",
            s->hook, (double)s->handed / 1048576.0, (double)s->reduced / 1048576.0,
            100.0 * (1.0 - (double)s->handed / (double)s->reduced), s->left_out);
    }
    if (s->bucket) {
        printf("  buckets        of %.0f KiB came out fastest\n", (double)s->bucket / 1024.0);
    }
    if (s->equal) {
        printf("  parameters     hash %016" PRIx64 "%s\n", s->hash,
               s->ranks == 1 ? "" : ", the same on all ranks");
    } else {
        printf("  parameters     DIFFER between the ranks (hash %016" PRIx64 " on rank 0)\n",
               s->hash);
    }
    if (s->picture) {
        printf("  picture        %s\n", s->picture);
    }
    if (s->checkpoint) {
        printf("  checkpoint     %s\n", s->checkpoint);
    }
    fflush(stdout);
}
