// SPDX-License-Identifier: MIT
// Rondo, the transport layer's public header: status codes, errors, options, memory, bootstrap.
//
// Conventions that hold for every public function of Rondo:
// - A function that can fail returns `rondo_status`; 0 is success. Outputs are written only on success.
// - When a call fails, rondo_last_error() on the same thread tells what failed, where and what to do.
// - Public structs begin with `size`; fill them with their _INIT macro, so that they can grow.
// - Handles are opaque. The library never exits, prints or asserts on input.
// - In a child made by fork() every call on a handle of the parent returns RONDO_ERR_FORKED.
#ifndef RONDO_TRANSPORT_H
#define RONDO_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RONDO_API __attribute__((visibility("default")))

// What a call returns. Values are never reused. Positive values are not failures.
typedef enum rondo_status {
    RONDO_OK = 0,
    RONDO_AGAIN = 1,             // in progress or no resources now: call again
    RONDO_RETRY_STEP = 2,        // elastic training: repeat forward and backward
    RONDO_END_OF_INPUT = 3,      // uneven inputs: a rank has no more, and all stop
    RONDO_ERR_INVALID = -1,      // an argument or option has a value that is not allowed
    RONDO_ERR_USAGE = -2,        // calls in a wrong order, a handle that was closed
    RONDO_ERR_NOMEM = -3,        // memory, memlock or address space ran out
    RONDO_ERR_SYSTEM = -4,       // the operating system refused; the text has the errno
    RONDO_ERR_TIMEOUT = -5,      // a deadline passed
    RONDO_ERR_PEER = -6,         // a peer process ended or closed its side
    RONDO_ERR_PATH = -7,         // the path between two live ranks is lost
    RONDO_ERR_MISMATCH = -8,     // ranks called different collectives
    RONDO_ERR_AUTH = -9,         // somebody without this job's key
    RONDO_ERR_VERSION = -10,     // a peer speaks another version of the protocol
    RONDO_ERR_ABORTED = -11,     // the communicator was aborted
    RONDO_ERR_FORKED = -12,      // called in a forked child
    RONDO_ERR_PARTITIONED = -13, // this side of a partition has no majority
    RONDO_ERR_UNSUPPORTED = -14, // not available in this build or on this machine
    RONDO_ERR_BOOTSTRAP = -15,   // rank, size or the store could not be found
    RONDO_ERR_INTERNAL = -16,    // a bug in Rondo: please report the text
} rondo_status;

// Name of a status ("RONDO_ERR_PEER") and one sentence of meaning. Never NULL; any thread.
RONDO_API const char *rondo_status_name(rondo_status s);
RONDO_API const char *rondo_status_string(rondo_status s);

// Text of the last failure on the calling thread: what failed, on which rank, host and edge, the likely
// cause and the remedy. "" when nothing failed yet. Owned by the library, valid until the next failing
// call on this thread.
RONDO_API const char *rondo_last_error(void);

// Library version, e.g. "0.1.0"; and its number major * 10000 + minor * 100 + patch.
RONDO_API const char *rondo_version(void);
RONDO_API int rondo_version_number(void);

// ---- Logging -------------------------------------------------------------------------------------

typedef enum rondo_log_level {
    RONDO_LOG_ERROR = 0,
    RONDO_LOG_WARN = 1,
    RONDO_LOG_INFO = 2,
    RONDO_LOG_DEBUG = 3,
} rondo_log_level;

// Called by the library, possibly from its own threads, never with a lock of the library held; `line` has
// no newline and is valid during the call only. Must not call back into Rondo.
typedef void (*rondo_log_fn)(void *arg, rondo_log_level level, const char *line);

// ---- Options -------------------------------------------------------------------------------------

// One row of the one table of options. Each can be given as the environment variable RONDO_<NAME in
// capitals> or in rondo_config.options as "name=value,name=value"; the latter wins.
typedef struct rondo_option_info {
    const char *name;
    const char *type; // "int", "size", "ms", "bool", "enum", "string"
    const char *default_value;
    const char *allowed; // range or list of allowed values, human readable
    const char *help;
} rondo_option_info;

// Number of options, and row i (NULL when out of range). Any thread, never blocks.
RONDO_API size_t rondo_option_count(void);
RONDO_API const rondo_option_info *rondo_option(size_t i);

// ---- Bootstrap -----------------------------------------------------------------------------------

// A key-value store that all ranks of a job share: the caller's own (PyTorch's Store, an MPI wrapper …).
// Keys are NUL-terminated text of at most 255 bytes; values are at most 16 MiB. Each function may block up
// to timeout_ms and returns a rondo_status (RONDO_ERR_TIMEOUT when the key did not appear in time).
// The library calls from the thread that calls rondo_init() or rondo_comm_destroy() only.
typedef struct rondo_store_ops {
    size_t size; // sizeof(struct rondo_store_ops)
    rondo_status (*set)(void *store, const char *key, const void *value, size_t len,
                        int timeout_ms);
    // Waits for the key, then copies its value to a buffer from malloc(3) that the library frees.
    rondo_status (*get)(void *store, const char *key, void **value, size_t *len, int timeout_ms);
} rondo_store_ops;

// What a rank says of itself. Start from RONDO_CONFIG_INIT; every field may stay unset.
typedef struct rondo_config {
    size_t size;
    int rank;                // 0 .. world_size-1; -1 = find it, see rondo-launchers(7)
    int world_size;          // -1 = find it
    int local_rank;          // rank within its host; -1 = find it
    const char *master_addr; // host that keeps the store; NULL = MASTER_ADDR, or found
    int master_port;         // -1 = MASTER_PORT
    const void *key;         // the job's key (secret), key_len bytes (16 .. 4096); NULL = find one,
    size_t key_len;          //   see rondo(7) for the order of sources
    const char *options;     // "name=value,…", see rondo_option()
    const rondo_store_ops *store_ops; // the caller's own store, or NULL for Rondo's TCP store
    void *store;                      // first argument of store_ops' functions
    rondo_log_fn log;                 // NULL = no logging
    void *log_arg;
} rondo_config;

#define RONDO_CONFIG_INIT                                                             \
    {                                                                                 \
        .size = sizeof(rondo_config), .rank = -1, .world_size = -1, .local_rank = -1, \
        .master_port = -1                                                             \
    }

// ---- CUDA ----------------------------------------------------------------------------------------

// One line about the CUDA driver in this process, e.g. "CUDA 13.0, 1 device", or why there is none. Loads the
// driver if it can (option cuda_driver). Static memory; any thread.
RONDO_API const char *rondo_cuda_state(void);

// ---- Memory --------------------------------------------------------------------------------------

// Memory that every transport can use in place: page aligned, zeroed, backed by a sealed memfd so that
// peers on this host can map it (read only) and later registered with the NICs. Where the machine or the
// container permits no shared memory it is ordinary memory, and peers get copies. Free it with
// rondo_mem_free(); not with free(3). Any thread; does not block. `bytes` 0 gives a valid, empty block.
// Errors: RONDO_ERR_NOMEM with the limits that were met.
RONDO_API rondo_status rondo_mem_alloc(size_t bytes, void **ptr);

// Frees memory from rondo_mem_alloc(). RONDO_ERR_USAGE, and nothing is freed, while a request uses it.
// NULL is allowed.
RONDO_API rondo_status rondo_mem_free(void *ptr);

// Registers memory of the caller's own, so that transports need not do so on each operation. The range must
// stay mapped until it is unregistered. Ranges may overlap; each registration is counted and wants its own
// rondo_mem_unregister() with the same start. Any thread; does not block on peers.
RONDO_API rondo_status rondo_mem_register(void *ptr, size_t bytes);

// Undoes one rondo_mem_register(ptr, …). RONDO_ERR_USAGE when there is none, or when it is the last one and
// an operation still uses the range (nothing is changed then).
RONDO_API rondo_status rondo_mem_unregister(void *ptr);

#ifdef __cplusplus
}
#endif
#endif
