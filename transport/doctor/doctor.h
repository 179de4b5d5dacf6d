// SPDX-License-Identifier: MIT
// rondo-doctor: tells what a job will meet on this host before it starts.
//
//   main.c, options.c    the command's life; its table of options
//   checks.c             the one table of checks
//   findings.c           what checks say; text.c, json.c: the two reports
//   files.c              reads /proc and /sys, or a tree that stands for them
//   job.c                options, launcher, key
//   host.c, cgroup.c     container, processors, NUMA, cgroups, kernel settings
//   memory.c             locked memory, shared memory, descriptors
//   network.c            interfaces, TCP's settings
//   rdma.c, gpu.c        devices, ports, GIDs; GPU memory, PCI
//   peer.c, listen.c     both ends of the test with another host, over wire.c (the control connection),
//                        probe.c (one TCP connection of a pair of addresses), link.c (one RDMA link)
#ifndef RDI_DOCTOR_H
#define RDI_DOCTOR_H

#include "transport/bootstrap/bootstrap.h"
#include "transport/internal.h"

#include <stdio.h>

#define DR_CAN_RUN 0 // exit codes
#define DR_CANNOT_RUN 1
#define DR_USAGE 2

#define DR_PORT 29510 // of --listen and --peer
#define DR_LISTEN_S 600
#define DR_ANSWER_S 5

// ---- Findings ------------------------------------------------------------------------------------

enum dr_level { DR_OK, DR_INFO, DR_WARNING, DR_ERROR, DR_LEVELS };

struct dr_finding {
    const struct dr_check *check;
    enum dr_level level;
    char *subject; // which device, interface, file …; NULL = the host
    char *what;
    char *consequence, *remedy; // NULL = none
};

struct doctor;
struct dr_check {
    const char *id, *section, *title;
    void (*run)(struct doctor *d); // NULL: part of another's
};
extern const struct dr_check dr_checks[];
extern const size_t dr_ncheck;
// What --peer and --listen find; run by dr_peer() and dr_listen() in one go.
enum {
    DR_PEER_CONNECT,
    DR_PEER_CLOCK,
    DR_PEER_PATH,
    DR_PEER_MTU,
    DR_PEER_SPEED,
    DR_PEER_LINK,
    DR_PEER_CHECKS
};
extern const struct dr_check dr_peer_checks[DR_PEER_CHECKS];

struct dr_request {
    int ranks, per_node; // 0 = not given
    const char *transport, *options, *only, *json, *root, *peer;
    bool list, listen;
    int port, timeout_s; // 0 = not given
};

struct doctor {
    struct dr_request ask;
    struct rdi_env env;
    rondo_config config;
    struct rdi_options options;
    char *options_error; // of the environment; the options are the defaults then
    struct rdi_launch launch;
    rondo_status launch_status;
    char launch_error[RDI_ERROR_TEXT];
    char offer_error[RDI_ERROR_TEXT]; // why what the launcher offers does not work; "": it does
    int ranks, per_node;
    char host[RDI_HOST_MAX];
    const char *root;             // "" or where /proc, /sys and /dev/shm are looked for instead
    const struct dr_check *check; // that runs now
    struct dr_finding *findings;
    size_t n, cap, count[DR_LEVELS];
    bool no_memory; // a finding was lost
};

// What the running check found; `subject` NULL: the host. dr_means() and dr_remedy() belong to the finding
// that was added last.
void dr_add(struct doctor *d, enum dr_level level, const char *subject, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void dr_means(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void dr_remedy(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void dr_free(struct doctor *d);
const char *dr_level_name(enum dr_level level);

void dr_report_text(const struct doctor *d, FILE *f, bool colour);
void dr_report_json(const struct doctor *d, FILE *f);

// Whether the job would use this wire: option transport says it, or leaves it open.
bool dr_wants(const struct doctor *d, const char *wire);
bool dr_insists(const struct doctor *d, const char *wire);

// ---- Options -------------------------------------------------------------------------------------

// Parses argv; returns -1 to go on, else the exit code (help, version, an error that was printed).
int dr_parse(int argc, char **argv, struct dr_request *ask);
int dr_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
// "host", "host:port", "[addr]:port", "addr:with:colons".
bool dr_split_peer(const char *text, char *host, size_t cap, int *port);

// ---- Files ---------------------------------------------------------------------------------------

#define DR_TEXT 8192
// Reads a file below the root, at most cap - 1 bytes, without the newline at its end. False: not there.
bool dr_read(const struct doctor *d, char *buf, size_t cap, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// A number, or "max" = UINT64_MAX, at the start of a file.
bool dr_read_number(const struct doctor *d, uint64_t *out, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool dr_exists(const struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// Calls visit for each entry of a directory, in the order of names; returns how many.
size_t dr_each(struct doctor *d, const char *path,
               void (*visit)(struct doctor *d, const char *name, void *arg), void *arg);
// Soft and hard limit of a line of /proc/self/limits ("Max locked memory"); UINT64_MAX = unlimited.
bool dr_limit(const struct doctor *d, const char *name, uint64_t *soft, uint64_t *hard);
// How many numbers "0-3,8" has; `has` NULL or whether `which` is one of them.
unsigned dr_list_count(const char *list, unsigned which, bool *has);
// "64 KiB"; "no limit".
const char *dr_bytes(uint64_t bytes, char buf[32]);

// ---- Checks --------------------------------------------------------------------------------------

void dr_job_options(struct doctor *d);
void dr_job_variables(struct doctor *d);
void dr_job_launcher(struct doctor *d);
void dr_job_key(struct doctor *d);

void dr_host_container(struct doctor *d);
void dr_host_cpus(struct doctor *d);
void dr_host_numa(struct doctor *d);
void dr_host_ptrace(struct doctor *d);
void dr_host_hugepages(struct doctor *d);
void dr_cgroup_memory(struct doctor *d);
void dr_cgroup_cpu(struct doctor *d);
void dr_cgroup_pids(struct doctor *d);
void dr_cgroup_rdma(struct doctor *d);

void dr_memory_memlock(struct doctor *d);
void dr_memory_shm(struct doctor *d);
void dr_memory_memfd(struct doctor *d);
void dr_memory_files(struct doctor *d);

void dr_network_interfaces(struct doctor *d);
void dr_network_buffers(struct doctor *d);
void dr_network_ports(struct doctor *d);

void dr_rdma_library(struct doctor *d);
void dr_rdma_files(struct doctor *d);
void dr_rdma_ports(struct doctor *d);
void dr_gpu_peer_memory(struct doctor *d);
void dr_gpu_pci(struct doctor *d);

// Both ends of the test with another host.
void dr_peer(struct doctor *d);
void dr_listen(struct doctor *d);

// The number of RDMA devices that the kernel shows.
size_t dr_kernel_devices(struct doctor *d, char *names, size_t cap);

#endif
