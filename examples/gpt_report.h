// SPDX-License-Identifier: MIT
// What rank 0 tells a person: progress while it runs, a report at the end.
#ifndef GPT_REPORT_H
#define GPT_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gpt_progress {
    bool live; // one line that is rewritten
    bool quiet;
    double shown; // seconds at which the last line was written
    int width;    // of that line
};

// Where the run is. NAN = not known yet.
struct gpt_status {
    uint64_t step;
    double fraction;    // of the run that is done
    double seconds;     // since training began
    double speed;       // tokens a second, all ranks together
    double train, held; // nats per byte
    double hidden;      // share of the communication that ran behind backward
};

// Shows the status if it is time: ten times a second when live; else every five seconds, and
// whenever `measured` says that the held-out loss is new.
void gpt_progress_show(struct gpt_progress *p, const struct gpt_status *s, bool measured);

// Removes the live line.
void gpt_progress_end(struct gpt_progress *p);

struct gpt_summary {
    int ranks;
    int devices;    // with --dp; 0 = DDP
    uint64_t steps; // of this run
    double seconds, speed;
    double before, after;         // held-out loss, nats per byte
    size_t windows;               // on which it was measured
    double comm, exposed;         // seconds, mean of the ranks
    double replicating, reducing; // seconds, with --dp
    uint64_t reduced;             // gradient bytes, of each rank
    uint64_t sent;                // bytes that the busiest rank sent for them
    size_t moments, all_moments;  // bytes of the optimizer on this rank, with --zero; of all ranks
    const char *hook;             // how gradients travelled; NULL = as they are
    uint64_t handed;              // bytes that the hook gave to collectives
    double left_out; // by the hook from the last step's gradient, on rank 0: a share of its norm
    size_t bucket;   // bytes that --bucket auto came to; 0 = it was not asked for
    uint64_t hash;
    bool equal;                       // the same hash on all ranks
    const char *device;               // that computed; empty = the CPU
    const char *picture, *checkpoint; // NULL = none
};

void gpt_report(const struct gpt_summary *s);

#endif
