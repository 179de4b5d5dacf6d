// SPDX-License-Identifier: MIT
// rondo-perf: times the collectives, and links by themselves, and checks what comes out, as nccl-tests do.
//
//   main.c         options -> ranks (of its own, or of a launcher's job) -> rows -> exit code
//   measure.c      one row: buffers, warm-up, timed loops, percentiles
//   verify.c       one row: a checked operation, out of place or in place
//   data.c         inputs, and what every element of the result has to be
//   collectives.c  the table of collectives: sizes, bandwidth, how to call them
//   place.c        what this rank runs on, and how much memory it may take
//   report.c       the text table; machine.c: JSON and CSV; plot.c, axis.c: the picture
//
// put, get and pingpong measure a pair of ranks and no collective (pairs.h):
//
//   pairs.c        one row; link.c: its two links; flow.c: messages over them; pairs_report.c: its figures
#ifndef RDI_PERF_H
#define RDI_PERF_H

#include <rondo/rondo.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

// ---- Options -------------------------------------------------------------------------------------

#define PERF_ALL (-2)  // every type, op or root
#define PERF_NONE (-1) // no op (nothing is reduced), no root
#define PERF_OK 0      // exit codes
#define PERF_FAILED 1  // wrong results, or an operation failed
#define PERF_USAGE 2   // options that cannot be

struct perf_options {
    int coll; // index of perf_colls
    size_t min_bytes, max_bytes, step_bytes;
    int step_factor;   // 0 = step_bytes is used
    int ranks;         // 0 = not given
    int iters, warmup; // 0, PERF_NONE = not given: chosen by size
    bool check, percentiles, use_malloc;
    bool bidirectional, sleep; // of pairs
    int op, type, root;        // or PERF_ALL
    int timeout_s;
    int corrupt;                     // rank whose first result is damaged, or PERF_NONE
    const char *transport, *options; // NULL = not given
    const char *simulate;            // file that describes a cluster; NULL: real ranks
    const char *json, *csv, *plot;   // file names, "-" = stdout, NULL = not wanted
    int argc;
    char **argv; // as given, for the reports
};
// Parses argv; returns -1 to go on, else the exit code (help, version, an error that was printed).
int perf_parse(int argc, char **argv, struct perf_options *o);

// Prints "rondo-perf: …" on stderr; returns PERF_USAGE.
int perf_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

// simulate.c: predicts instead of measuring; the exit code.
int perf_simulate(const struct perf_options *o);

// ---- Collectives ---------------------------------------------------------------------------------

// What is not a collective: messages between the ranks 0 and 1, 2 and 3, …
enum perf_kind { PERF_COLLECTIVE, PERF_PUT, PERF_GET, PERF_PINGPONG };

// The largest bytes a row moves are split among the ranks (`split`) or not; counts are in elements.
struct perf_coll {
    const char *name;
    enum perf_kind kind;
    bool two; // needs a second rank
    bool reduces, rooted;
    bool in_place;           // has an in-place form
    bool split;              // the size is that of `ranks` blocks, one for each rank
    bool send_all, recv_all; // that side holds all the blocks
    int traversals;          // busbw = algbw * traversals * (n-1)/n; 0 = algbw itself
    rondo_status (*run)(const void *send, void *recv, size_t count, rondo_type type, rondo_op op,
                        int root, rondo_comm *comm);
};
extern const struct perf_coll perf_colls[];
extern const int perf_ncolls;

// The count that is passed for a size: as in nccl-tests, a block is a multiple of 16 bytes.
size_t perf_count(const struct perf_coll *c, size_t bytes, size_t esize, int ranks);
size_t perf_send_elements(const struct perf_coll *c, size_t count, int ranks);
size_t perf_recv_elements(const struct perf_coll *c, size_t count, int ranks);
double perf_bus_factor(const struct perf_coll *c, int ranks);
// Timed operations of a size, and those before them: as given, else fewer the larger they are.
int perf_iters(const struct perf_options *o, size_t bytes);
int perf_warmup(const struct perf_options *o, size_t bytes);

// ---- Data ----------------------------------------------------------------------------------------

// Which inputs: they differ with `rep`, so that what an earlier operation left behind is not right.
struct perf_values {
    rondo_type type;
    int op; // or PERF_NONE: bits that are only moved
    int ranks;
    uint32_t rep;
};
#define PERF_REDUCED (-1)
// Elements first … first + count - 1 of `rank`'s input.
void perf_fill(const struct perf_values *v, int rank, size_t first, size_t count, void *dst);
// How many of them `got` has wrong; PERF_REDUCED: of the reduction over all ranks.
int64_t perf_check(const struct perf_values *v, int rank, size_t first, size_t count,
                   const void *got);

// ---- Measuring -----------------------------------------------------------------------------------

struct perf_stats {
    double min, max, avg, p50, p95, p99, stdev; // us
};
// One half of a row: out of place or in place.
struct perf_half {
    double us, algbw, busbw; // GB = 1e9 bytes
    int64_t wrong;           // over all ranks; -1 = not checked
    struct perf_stats each;  // of single operations, with --percentiles
};
struct perf_row {
    size_t bytes, count;
    rondo_type type;
    int op, root; // or PERF_NONE
    int iters;
    struct perf_half
        half[2]; // of pairs only the first: algbw of one direction, busbw of all together
};

// One rank at work.
struct perf_run {
    const struct perf_options *options;
    const struct perf_coll *coll;
    rondo_comm *comm;
    int rank, ranks;
    size_t max_bytes; // that fit
    char *send, *recv;
    double *times;          // perf_iters() entries, with --percentiles and for pairs
    struct perf_pair *pair; // NULL: a collective is measured
    uint32_t rep;           // of the inputs
    bool corrupted;         // --corrupt has done its damage
    int64_t failures;       // halves of rows in which this rank saw something wrong
    bool told;              // the exit code needs no more words
};
// A half's buffers; recv_base is where the guarded memory begins.
struct perf_buffers {
    char *send, *recv, *recv_base;
    size_t send_bytes, recv_bytes;
};
double perf_now_us(void);
struct perf_stats perf_statistics(double *t, int n); // sorts them
rondo_status perf_alloc(struct perf_run *r);
void perf_free(struct perf_run *r);
// Collective: fills in row->half; bytes, count, type, op and root are given.
rondo_status perf_measure(struct perf_run *r, struct perf_row *row);
struct perf_buffers perf_place(const struct perf_run *r, const struct perf_row *row, bool in_place);
rondo_status perf_call(const struct perf_run *r, const struct perf_row *row,
                       const struct perf_buffers *b);
// One operation with fresh inputs; *wrong is this rank's count.
rondo_status perf_verify(struct perf_run *r, const struct perf_row *row, bool in_place,
                         int64_t *wrong);
#define PERF_GUARD 256   // bytes behind a buffer that nobody may touch
#define PERF_SPREAD 4096 // bytes behind a pair's buffers: messages begin at different places

// ---- Place ---------------------------------------------------------------------------------------

// "Rank …" line of each rank, as the header shows it; collective.
#define PERF_DEVICE_LINE 256
struct perf_device {
    int32_t rank, pid, local_rank;
    uint32_t node, package, cpu; // where it ran when asked
    char host[64], name[PERF_DEVICE_LINE - 24 - 64];
};
rondo_status perf_devices(const struct perf_run *r, struct perf_device *all);
// Lowers *max_bytes to what fits on every host; collective.
rondo_status perf_fit(const struct perf_run *r, size_t *max_bytes);

// ---- Reports, on rank 0 --------------------------------------------------------------------------

struct perf_report {
    const struct perf_options *options;
    const struct perf_coll *coll;
    int ranks;
    FILE *text, *csv, *json, *plot; // NULL = not wanted
    bool begun;
    const char *opening; // the file that could not be opened or written
    char plan[256], device[PERF_DEVICE_LINE];
    size_t max_bytes;
    struct perf_row *rows;
    size_t nrows, cap;
};
// False with r->opening and errno set.
bool perf_report_open(struct perf_report *r);
void perf_report_begin(struct perf_report *r, const struct perf_device *devices);
bool perf_report_row(struct perf_report *r, const struct perf_row *row); // false: no memory
// `failures` of all ranks together; `error` NULL or why the run ended early.
void perf_report_end(struct perf_report *r, int64_t failures, const char *error);
// Closes the files; false when one could not be written (r->opening names it).
bool perf_report_close(struct perf_report *r);
const char *perf_row_op(const struct perf_row *row);
double perf_average_busbw(const struct perf_report *r);

void perf_json_begin(const struct perf_report *r, const struct perf_device *devices);
void perf_json_row(const struct perf_report *r, const struct perf_row *row);
void perf_json_end(const struct perf_report *r, int64_t failures, const char *error);
void perf_csv_begin(const struct perf_report *r);
void perf_csv_row(const struct perf_report *r, const struct perf_row *row);

// As many digits as `width` takes: decimals give way first, then the exponent comes. Returns buf.
const char *perf_fit_number(double v, int width, char buf[16]);
void perf_json_stats(FILE *f, const struct perf_stats *s);

// The same of pairs.
void perf_text_pair_columns(const struct perf_report *r);
void perf_text_pair_row(const struct perf_report *r, const struct perf_row *row);
void perf_json_pair_row(const struct perf_report *r, const struct perf_row *row);
void perf_csv_pair_begin(const struct perf_report *r);
void perf_csv_pair_row(const struct perf_report *r, const struct perf_row *row);

void perf_plot(const struct perf_report *r);

// A logarithmic axis: lo and hi are powers of its base or nice numbers around the data.
struct perf_axis {
    double lo, hi;
    int from, to; // pixels
    int nticks;
    double ticks[32];
};
void perf_axis_bytes(struct perf_axis *a, double lo, double hi);
void perf_axis_decimal(struct perf_axis *a, double lo, double hi);
double perf_axis_at(const struct perf_axis *a, double v);
void perf_bytes_text(double bytes, char *buf, size_t cap);
void perf_number_text(double v, char *buf, size_t cap);
void perf_time_text(double us, char *buf, size_t cap);

#endif
