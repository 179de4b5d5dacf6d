// SPDX-License-Identifier: MIT
// Scenes: faults that meet a certain part of the watch only together and at the right moment. Among random faults they
// are too rare to be found.
//
// The ranks are in three parts. Rank 0, which decides as long as it lives, is in A:
//
//        A
//       / \       each line is a path that may be lost
//      B - C
//
#include "tests/sim/job/job.h"

static struct { uint32_t a, b, c; } part;

static uint64_t option(enum rdi_opt o) { return (uint64_t)job.options.num[o] * MS; }

static struct fault *add(enum what what, uint64_t at, uint32_t mask, uint64_t lasts) {
    struct fault *f = &job.faults[job.nfaults++];
    *f = (struct fault){.what = what, .at = at, .mask = mask, .lasts = lasts};
    return f;
}

// `to`, or a little before or after it.
static uint64_t around(uint64_t to, uint64_t by) {
    uint64_t at = to + below(2 * by);
    return at > by ? at - by : 0;
}

// A path comes back, often in the very moment in which something would be decided about it, or never.
static uint64_t path_time(void) {
    switch (below(5)) {
    case 0:
        // How long a shrink tries.
        job.options.num[RDI_OPT_CONNECT_TIMEOUT] = 3000;
        return FOR_GOOD;
    case 1:
        return around(job.peer_timeout + 300 * MS, 300 * MS);
    case 2:
        return around(option(RDI_OPT_PATH_GRACE), 50 * MS);
    default:
        return job.peer_timeout + below(12000 * MS);
    }
}

static void lose(uint64_t at, uint32_t one, uint32_t other, uint64_t lasts) {
    add(PATH, at, one, lasts)->other = other;
}

static uint32_t one_of(uint32_t mask) {
    int n = (int)below((uint64_t)__builtin_popcount(mask));
    while (n-- > 0) {
        mask &= mask - 1;
    }
    return mask & -mask;
}

static uint64_t stop_time(void) {
    return chance(50) ? below(job.stop_grace) : job.stop_grace + below(8000 * MS);
}

// They end, with their host or without, or do not run for a while.
static void stop_or_end(uint64_t at, uint32_t mask) {
    switch (below(3)) {
    case 0:
        add(KILL, at, mask, 0);
        break;
    case 1:
        add(VANISH, at, mask, 0);
        break;
    default:
        add(STOP, at, mask, stop_time());
        break;
    }
}

// ---- Scenes --------------------------------------------------------------------------------------

// C is all that passes on what A and B say to each other, and denies what they think of each other. Often B has most
// of the ranks: then A, who decides, takes itself for cut off.
static void lone_path(void) {
    job.scene = "scene: a path is lost, and nothing else";
    lose(fault_time(), part.a, part.b, path_time());
}

static void path_and_stop(void) {
    job.scene = "scene: a path is lost, and those who hear both of its ends do not run";
    uint64_t at = 300 * MS + fault_time();
    lose(at, part.a, part.b, path_time());
    add(STOP, around(at + (chance(50) ? 0 : job.peer_timeout), 300 * MS), part.c, stop_time());
}

// B and C go on without A; A hears C's host again when C cannot tell any more.
static void apart(void) {
    job.scene = "scene: those who may have gone on without the first ranks end, or do not run";
    uint64_t at = fault_time(), decided = at + job.peer_timeout + 250 * MS;
    // A has not given C up yet when the others have given A up.
    uint64_t lost = at + (chance(30) ? 0 : job.peer_timeout / 4 + below(job.peer_timeout / 4));
    uint64_t ends = decided + below(400 * MS), back = ends + below(400 * MS);
    lose(at, part.a, part.b, path_time());
    lose(lost, part.a, part.c, back - lost);
    stop_or_end(ends, part.c);
}

// The end of a path is reported to A, which does not answer.
static void no_verdict(void) {
    job.scene = "scene: who has to give the verdict on a lost path ends, or does not run";
    job.options.num[RDI_OPT_PATH_GRACE] = chance(80) ? 500 : 5000;
    // Then others may have said that the rank at the other end lives, which is what a report waits for.
    uint64_t at = fault_time(), told = at + job.peer_timeout;
    uint32_t who = chance(50) ? part.a : 1;
    lose(at, part.b, part.c, job.peer_timeout + path_time());
    if (chance(60)) {
        // Nobody knows that it is gone until peer_timeout is over once more.
        add(VANISH, around(told - 250 * MS, 500 * MS), who, 0);
    } else {
        stop_or_end(around(told, 400 * MS), who);
    }
}

static void relay_ends(void) {
    job.scene = "scene: a path is lost, and then those that are between";
    uint64_t at = fault_time();
    lose(at, part.a, part.b, path_time());
    stop_or_end(at + below(job.peer_timeout + 2000 * MS), chance(50) ? part.c : one_of(part.c));
}

static void invitation(void) {
    job.scene = "scene: a rank was started again, and its paths are lost while it is invited";
    add(KILL, fault_time(), chance(70) ? one_of(part.a | part.b | part.c) : part.c, 0);
    struct fault *f = add(FLAP, UINT64_MAX, 0, below(500 * MS));
    f->invited = true;
    f->after = below(2 * (job.net.latency_ns + job.net.jitter_ns));
}

// Three parts of one host each, or of hosts with a rank each.
static void make_parts(void) {
    uint32_t parts[3] = {0};
    int preferred = (int)below(3);
    bool whole = chance(50);
    for (int r = 0; r < job.n; r++) {
        int p = r < 3 ? r : chance(40) ? preferred : (int)below(3);
        parts[p] |= UINT32_C(1) << r;
        job.hosts[r] = whole ? p : r;
    }
    part.a = parts[0];
    part.b = parts[1];
    part.c = parts[2];
    if (chance(50)) {
        part.b = parts[2];
        part.c = parts[1];
    }
}

bool scene_make(void) {
    if (job.n < 3 || !chance(35)) {
        return false;
    }
    make_parts();
    if (job.restarts && chance(40)) {
        invitation();
        return true;
    }
    static void (*const scenes[])(void) = {lone_path,  path_and_stop, apart,     apart,
                                           no_verdict, no_verdict,    relay_ends};
    scenes[below(sizeof scenes / sizeof *scenes)]();
    return true;
}
