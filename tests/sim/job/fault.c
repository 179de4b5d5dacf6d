// SPDX-License-Identifier: MIT
// From a seed to a job and to what happens to it.
#include "tests/sim/job/job.h"

#include <stdio.h>
#include <string.h>

static uint64_t next(void) {
    uint64_t z = job.rng += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t below(uint64_t n) { return n ? next() % n : 0; }

bool chance(unsigned percent) { return below(100) < percent; }

const char *what_name(enum what w) {
    static const char *const names[WHATS] = {"nothing", "kill", "vanish", "stop",
                                             "cut",     "path", "flap"};
    return names[w];
}

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static uint32_t ranks_of_host(int host) {
    uint32_t m = 0;
    for (int r = 0; r < job.n; r++) {
        m |= job.hosts[r] == host ? UINT32_C(1) << r : 0;
    }
    return m;
}

// The ranks of a third host still reach both ends, so nobody may look dead.
static void make_path(struct fault *f) {
    f->mask = ranks_of_host(job.hosts[below((uint64_t)job.n)]);
    f->other = ranks_of_host(job.hosts[below((uint64_t)job.n)]);
    f->lasts = chance(30) ? below(job.peer_timeout / 2) : job.peer_timeout + below(9000 * MS);
    if (f->mask == f->other || (f->mask | f->other) == (UINT32_C(1) << job.n) - 1) {
        f->what = FLAP;
        f->lasts = below(500 * MS);
    }
}

// A side of a cut: some hosts, often as many that both sides have half of the ranks.
static uint32_t cut_off(void) {
    uint32_t mask = 0;
    bool half = chance(40);
    int first = (int)below((uint64_t)job.n);
    for (int i = 0; i < job.n; i++) {
        uint32_t more = mask | ranks_of_host((first + i) % job.n);
        if (half ? 2 * __builtin_popcount(more) <= job.n : chance(40)) {
            mask = more;
        }
    }
    return mask;
}

uint64_t fault_time(void) {
    return chance(20) ? below(20 * MS) : below((uint64_t)job.steps * (job.compute + 3 * MS));
}

static void make_fault(struct fault *f) {
    uint32_t one = UINT32_C(1) << below((uint64_t)job.n);
    f->what = job.ddp && chance(30) ? KILL : (enum what)(1 + below(WHATS - 1));
    f->at = fault_time();
    f->mask = one;
    f->lasts = 0;
    if (chance(40)) {
        // Into an agreement: when as many ranks as there are have called it, its messages are on their way.
        f->at = UINT64_MAX;
        f->calls = job.n * (1 + (int)below((uint64_t)job.steps)) - (chance(60) ? 0 : (int)below(3));
        f->after = below(6 * (job.net.latency_ns + job.net.jitter_ns));
    }
    switch (f->what) {
    case KILL:
        f->mask = chance(job.ddp ? 50 : 30) ? ranks_of_host(job.hosts[below((uint64_t)job.n)])
                                            : one;
        break;
    case VANISH: // a host takes all its ranks along
        f->mask = ranks_of_host(job.hosts[below((uint64_t)job.n)]);
        break;
    case STOP:
        f->lasts = chance(50) ? below(job.stop_grace / 2) : job.stop_grace + below(8000 * MS);
        break;
    case CUT: // between hosts
        f->mask = cut_off();
        f->lasts = chance(40)   ? below(job.peer_timeout / 2)
                   : chance(30) ? job.peer_timeout + below(500 * MS) // as the sides decide
                                : job.peer_timeout + below(9000 * MS);
        break;
    case PATH: // between two of at least three hosts
        make_path(f);
        break;
    default:
        f->lasts = below(500 * MS);
        break;
    }
}

static void make_training(void) {
    job.ddp = chance(50);
    if (!job.ddp) {
        return;
    }
    job.batch = 1 + (int)below(chance(20) ? 4 : 40);
    job.samples = (uint64_t)job.batch * (uint64_t)job.steps / (1 + below(3)) + below(10);
    job.accumulate = chance(25) ? 2 : 1;
    job.evaluate_every = 1 + (int)below(10);
    job.loss = chance(30);
    job.bucket = 128 << below(6);
    job.restarts = chance(30) ? 0 : 1 + (int)below(RESTARTS);
    job.net.nodes += 2 * RESTARTS;
}

static void make_faults(void) {
    job.nfaults = chance(5) ? 0 : chance(60) ? 1 : chance(70) ? 2 : 3;
    for (int i = 0; i < job.nfaults; i++) {
        make_fault(&job.faults[i]);
        // Several at once, and one into the shrink that follows another.
        if (i > 0 && job.faults[i - 1].calls == 0 && chance(60)) {
            job.faults[i].calls = 0;
            if (chance(40) && (job.faults[i - 1].what == KILL || job.faults[i - 1].what == STOP)) {
                // A death of a decision of its own, or one on which a stopped rank cannot decide.
                job.faults[i].what = KILL;
                job.faults[i].lasts = 0;
                job.faults[i].at = job.faults[i - 1].at + 100 * MS + below(500 * MS);
                continue;
            }
            job.faults[i].at = job.faults[i - 1].at +
                               (chance(50) ? below(5 * MS) : below(600 * MS));
        }
    }
}

void job_make(uint64_t seed) {
    bool verbose = job.verbose;
    memset(&job, 0, sizeof job);
    job.verbose = verbose;
    job.seed = seed;
    job.rng = seed * UINT64_C(0x2545f4914f6cdd1d) + 1;
    job.n = chance(80) ? 2 + (int)below(6) : chance(80) ? 8 + (int)below(6) : 17 + (int)below(6);
    int hosts = chance(40) ? job.n : 1 + (int)below((uint64_t)job.n);
    for (int r = 0; r < job.n; r++) {
        job.hosts[r] = hosts == job.n ? r : (int)below((uint64_t)hosts);
    }
    job.mesh = chance(70) ? 64 : 2;
    job.steps = 4 + (int)below(STEPS - 4);
    job.compute = 1 + below(200 * MS);
    if (chance(20)) {
        // Long enough that a rank learns of several decisions at once.
        job.compute = 1 + below(1500 * MS);
        job.steps = 4 + (int)below(8);
    }
    if (rdi_options_load(&job.options, NULL, no_environment) != RONDO_OK) {
        give_up("options: %s", rondo_last_error());
    }
    job.options.num[RDI_OPT_PEER_TIMEOUT] = chance(70) ? 3000 : 1000;
    job.options.num[RDI_OPT_STOP_GRACE] = chance(50) ? 10000 : 1000;
    job.options.num[RDI_OPT_PATH_GRACE] = chance(70) ? 5000 : 500;
    job.options.num[RDI_OPT_CHUNK] = 1024 << below(5);
    job.peer_timeout = (uint64_t)job.options.num[RDI_OPT_PEER_TIMEOUT] * MS;
    job.stop_grace = (uint64_t)job.options.num[RDI_OPT_STOP_GRACE] * MS;
    job.plan = (struct rdi_plan){.direct_max = chance(50) ? 0 : 16384, .block = 4096};
    job.net = (struct rdi_sim_config){.seed = seed,
                                      .nodes = 2 * job.n,
                                      .refuse = true,
                                      .latency_ns = 1000 + below(500000),
                                      .jitter_ns = 1 + below(200000),
                                      .bytes_per_s = UINT64_C(1000000000),
                                      .spike_ns = 1 + below(20 * MS),
                                      .detect_ns = 1 + below(20 * MS),
                                      .spike = (unsigned)below(5),
                                      .again = (unsigned)below(30),
                                      .late = (unsigned)below(50)};
    make_training();
    if (!scene_make()) {
        make_faults();
    }
}

void job_print(void) {
    printf("seed %llu: %d ranks on hosts", (unsigned long long)job.seed, job.n);
    for (int r = 0; r < job.n; r++) {
        printf(" %d", job.hosts[r]);
    }
    printf(", %d steps of up to %llu ms, peer_timeout %llu ms, stop_grace %llu ms\n", job.steps,
           (unsigned long long)(job.compute / MS), (unsigned long long)(job.peer_timeout / MS),
           (unsigned long long)(job.stop_grace / MS));
    if (job.scene) {
        printf("  %s\n", job.scene);
    }
    if (job.ddp) {
        printf("  trains with DDP: batches of %d of %llu samples, %d passes a step, %d restarts\n",
               job.batch, (unsigned long long)job.samples, job.accumulate, job.restarts);
    }
    for (int i = 0; i < job.nfaults; i++) {
        const struct fault *f = &job.faults[i];
        char at[64];
        if (f->invited) {
            snprintf(at, sizeof at, "%.3f ms after an invitation", (double)f->after / 1e6);
        } else if (f->calls) {
            snprintf(at, sizeof at, "%.3f ms after call %d", (double)f->after / 1e6, f->calls);
        } else {
            snprintf(at, sizeof at, "at %.3f ms", (double)f->at / 1e6);
        }
        printf("  %s: %s, ranks %#x", at, what_name(f->what), f->mask);
        if (f->other) {
            printf(" and %#x", f->other);
        }
        printf(f->lasts >= FOR_GOOD ? ", for good\n" : ", for %.3f ms\n", (double)f->lasts / 1e6);
    }
}

static void set_path_of(const struct fault *f, const struct rank *k, bool cut) {
    unsigned path = (unsigned)(f - job.faults);
    int end = f->mask >> k->rank & 1 ? 1 : f->other >> k->rank & 1 ? 2 : 0;
    if (end && !k->dead) {
        rdi_sim_path_end(k->node, path, cut ? end : 0);
        rdi_sim_path_end(k->watch_node, path, cut ? end : 0);
    }
}

static void set_path(const struct fault *f, bool cut) {
    for (int r = 0; r < job.n; r++) {
        set_path_of(f, &job.ranks[r], cut);
    }
}

static bool has_end(const struct fault *f) {
    return f->what == STOP || f->what == CUT || f->what == PATH;
}

static void lose(const struct rdi_sim_node *a, const struct rdi_sim_node *b, uint64_t down_ns) {
    (void)rdi_sim_lose(job.sim, rdi_sim_rank(a), rdi_sim_rank(b), down_ns);
    (void)rdi_sim_lose(job.sim, rdi_sim_rank(b), rdi_sim_rank(a), down_ns);
}

static void begin(struct fault *f, uint64_t now) {
    say("%s of ranks %#x", what_name(f->what), f->mask);
    if (f->what == PATH) {
        set_path(f, true);
        return;
    }
    for (int r = 0; r < job.n; r++) {
        struct rank *k = &job.ranks[r];
        if (!(f->mask >> r & 1) || k->dead || k->over) {
            continue;
        }
        switch (f->what) {
        case KILL:
            rdi_sim_kill(k->node);
            rdi_sim_kill(k->watch_node);
            k->dead = true;
            if (job.ddp) {
                world_fell(k);
            }
            break;
        case VANISH:
            rdi_sim_vanish(k->node);
            rdi_sim_vanish(k->watch_node);
            k->dead = true;
            break;
        case STOP:
            rdi_sim_pause(k->node, now + f->lasts);
            rdi_sim_pause(k->watch_node, now + f->lasts);
            k->stopped = true;
            break;
        case CUT:
            rdi_sim_side(k->node, 1);
            rdi_sim_side(k->watch_node, 1);
            break;
        default:
            for (int q = 0; q < job.n; q++) {
                lose(k->node, job.ranks[q].node, f->lasts);
                lose(k->watch_node, job.ranks[q].watch_node, f->lasts);
            }
            break;
        }
    }
}

static void end(const struct fault *f) {
    if (f->what == PATH) {
        set_path(f, false);
        return;
    }
    for (int r = 0; r < job.n; r++) {
        struct rank *k = &job.ranks[r];
        if (!(f->mask >> r & 1) || k->dead) {
            continue;
        }
        if (f->what == STOP) {
            k->stopped = false;
            rdi_sim_poke(k->node);
            rdi_sim_poke(k->watch_node);
        } else if (f->what == CUT) {
            rdi_sim_side(k->node, 0);
            rdi_sim_side(k->watch_node, 0);
        }
    }
}

void fault_call(void) {
    for (int i = 0; i < job.nfaults; i++) {
        struct fault *f = &job.faults[i];
        if (f->calls > 0 && --f->calls == 0) {
            f->at = rdi_sim_now(job.sim) + f->after;
        }
    }
}

void fault_invited(int rank) {
    for (int i = 0; i < job.nfaults; i++) {
        struct fault *f = &job.faults[i];
        if (f->invited && !f->done && f->at == UINT64_MAX) {
            f->mask = UINT32_C(1) << rank;
            f->at = rdi_sim_now(job.sim) + f->after;
        }
    }
}

void fault_do(uint64_t now) {
    for (int i = 0; i < job.nfaults; i++) {
        struct fault *f = &job.faults[i];
        if (f->what != NOTHING && !f->done && now >= f->at) {
            f->done = true;
            f->lasted = f->lasts;
            begin(f, now);
            if (!has_end(f)) {
                f->lasts = UINT64_MAX / 2 - f->at; // for good
            }
        } else if (f->done && f->lasts && now >= f->at + f->lasts) {
            end(f);
            f->lasts = 0;
        }
    }
}

void fault_started_again(const struct rank *k, uint64_t now) {
    for (int i = 0; i < job.nfaults; i++) {
        const struct fault *f = &job.faults[i];
        if (!f->done || !f->lasts || now >= f->at + f->lasts) {
            continue;
        }
        if (f->what == CUT && f->mask >> k->rank & 1) {
            rdi_sim_side(k->node, 1);
            rdi_sim_side(k->watch_node, 1);
        } else if (f->what == PATH) {
            set_path_of(f, k, true);
        }
    }
}

uint64_t fault_next(void) {
    uint64_t at = UINT64_MAX;
    for (int i = 0; i < job.nfaults; i++) {
        const struct fault *f = &job.faults[i];
        uint64_t t = !f->done ? f->at : f->lasts && has_end(f) ? f->at + f->lasts : UINT64_MAX;
        at = t < at ? t : at;
    }
    return at;
}
