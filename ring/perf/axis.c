// SPDX-License-Identifier: MIT
// Logarithmic axes: where they begin and end, where their ticks are, and what is written there.
#include "ring/perf/perf.h"

#include <math.h>
#include <string.h>

#define BYTE_TICKS 8

void perf_axis_bytes(struct perf_axis *a, double lo, double hi) {
    int from = (int)floor(log2(lo)), to = (int)ceil(log2(hi));
    if (from == to) {
        from--;
        to++;
    }
    a->lo = exp2(from);
    a->hi = exp2(to);
    int step = (to - from + BYTE_TICKS - 1) / BYTE_TICKS;
    a->nticks = 0;
    for (int e = from; e <= to; e += step) {
        a->ticks[a->nticks++] = exp2(e);
    }
}

// 1, 2 or 5 times a power of ten: the nearest at or below v, and the next.
static double nice_below(double v) {
    double decade = pow(10, floor(log10(v))), digit = v / decade;
    return decade * (digit >= 5 ? 5 : digit >= 2 ? 2 : 1);
}

static double nice_next(double v) {
    double digit = v / pow(10, floor(log10(v) + 1e-9));
    return v * (digit > 1.5 && digit < 3 ? 2.5 : 2);
}

void perf_axis_decimal(struct perf_axis *a, double lo, double hi) {
    a->lo = nice_below(lo * (1 + 1e-9));
    a->hi = a->lo;
    while (a->hi < hi * (1 - 1e-9) || a->hi == a->lo) {
        a->hi = nice_next(a->hi);
    }
    // Every digit over a short range, 1, 2 and 5 over a longer one, decades over a long one.
    double range = a->hi / a->lo;
    const int most = (int)(sizeof a->ticks / sizeof *a->ticks);
    a->nticks = 0;
    for (double t = a->lo; t <= a->hi * 1.001 && a->nticks < most;) {
        bool decade = fabs(log10(t) - round(log10(t))) < 1e-6;
        if (range < 1100 || decade) {
            a->ticks[a->nticks++] = t;
        }
        t = range < 11 ? t + pow(10, floor(log10(t) + 1e-9)) : nice_next(t);
    }
}

double perf_axis_at(const struct perf_axis *a, double v) {
    return a->from + (a->to - a->from) * log(v / a->lo) / log(a->hi / a->lo);
}

void perf_bytes_text(double bytes, char *buf, size_t cap) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    for (; bytes >= 1024 && u < 4; u++) {
        bytes /= 1024;
    }
    snprintf(buf, cap, "%.4g %s", bytes, units[u]);
}

// Three digits, never an exponent, no zeros at the end of a fraction.
void perf_number_text(double v, char *buf, size_t cap) {
    int digits = v <= 0 ? 0 : 2 - (int)floor(log10(v) + 1e-9);
    snprintf(buf, cap, "%.*f", digits < 0 ? 0 : digits > 9 ? 9 : digits, v);
    if (strchr(buf, '.') != NULL) {
        size_t n = strlen(buf);
        while (buf[n - 1] == '0') {
            n--;
        }
        buf[buf[n - 1] == '.' ? n - 1 : n] = '\0';
    }
}

void perf_time_text(double us, char *buf, size_t cap) {
    char number[32];
    double scale = us >= 1e6 ? 1e6 : us >= 1e3 ? 1e3 : us >= 1 ? 1 : 1e-3;
    perf_number_text(us / scale, number, sizeof number);
    snprintf(buf, cap, "%s %s", number, us >= 1e6 ? "s" : us >= 1e3 ? "ms" : us >= 1 ? "µs" : "ns");
}
