// SPDX-License-Identifier: MIT
// The one table of options, and how values are read.
//
// The column `allowed` is both what a user reads and what a value is checked against, so the two
// cannot differ. Its grammar: alternatives joined by '|', each a word or a range "low..high" (as
// values of that type), the whole optionally followed by " step N".
#include "transport/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// In the order of enum rdi_opt.
static const rondo_option_info table[RDI_OPT_COUNT] = {
    [RDI_OPT_TRANSPORT] =
        {"transport", "enum", "auto", "auto|shm|tcp|verbs",
         "wire between ranks; auto: shared memory within a host, between hosts RDMA (verbs)"
         " where both have it, else TCP"},
    [RDI_OPT_INTERFACE] = {"interface", "string", "", "names or subnets joined by '+'",
                           "network interfaces to use, such as eth0 or 10.0.0.0/8+fd00::/8; empty: "
                           "those decided for the"
                           " rank, and where they do not lead all others except loopback, docker's "
                           "and link-local ones"},
    [RDI_OPT_FAMILY] = {"family", "enum", "auto", "auto|ipv4|ipv6",
                        "address family; auto: IPv4 before IPv6"},
    [RDI_OPT_TOPOLOGY] = {"topology", "string", "", "none|FILE|empty to look at this host",
                          "what NICs, progress thread and ring order are decided from; FILE: saved"
                          " by rondo-topo or lstopo"},
    [RDI_OPT_TCP_SOCKETS] = {"tcp_sockets", "int", "1", "1..8",
                             "TCP connections per link and interface"},
    [RDI_OPT_SLOTS] = {"slots", "int", "8", "2..64",
                       "messages that a receiver has room for on each link"},
    [RDI_OPT_CHUNK] = {"chunk", "size", "0", "0|4K..4M step 64",
                       "bytes per message; 0: what the transport prefers"},
    [RDI_OPT_CONNECT_TIMEOUT] = {"connect_timeout", "ms", "60s", "1ms..168h",
                                 "how long to wait for the other ranks to come and connect"},
    [RDI_OPT_OP_TIMEOUT] = {"op_timeout", "ms", "10m", "1ms..168h",
                            "deadline of an operation; one that expires aborts its communicator"},
    [RDI_OPT_PATH_GRACE] = {"path_grace", "ms", "5s", "0ms..1h",
                            "how long a lost connection to a live rank may take to come back"},
    [RDI_OPT_PEER_TIMEOUT] = {"peer_timeout", "ms", "3s", "200ms..10m",
                              "silence of a host after which its ranks are declared lost"},
    [RDI_OPT_STOP_GRACE] = {"stop_grace", "ms", "10s", "100ms..24h",
                            "how long a process may be stopped before it is declared lost"},
    [RDI_OPT_PROGRESS] =
        {"progress", "enum", "auto", "auto|thread|caller",
         "who moves operations forward: a thread of the library, or the calls that the"
         " program makes"},
    [RDI_OPT_SPIN] =
        {"spin", "int", "auto", "auto|0..1000000",
         "microseconds of polling before a waiting thread sleeps; auto: by the number of"
         " cores and local ranks"},
    [RDI_OPT_ORDER] = {"order", "enum", "default", "default|strict",
                       "order of additions; strict: from rank 0 upwards, whatever the algorithm"},
    [RDI_OPT_ALGORITHM] = {"algorithm", "enum", "auto", "auto|direct|doubling|ring|node",
                           "algorithm of collectives; auto: by size and number of ranks"},
    [RDI_OPT_DIRECT_MAX] =
        {"direct_max", "size", "32K", "0..64M",
         "largest message for which algorithm=auto takes the path for small ones"},
    [RDI_OPT_ZERO_COPY] = {"zero_copy", "bool", "yes", "yes|no",
                           "ranks of a host read memory from rondo_mem_alloc() in place"},
    [RDI_OPT_AUTH] = {"auth", "enum", "key", "key|none",
                      "none: connections prove no key, so anybody who reaches a port can join"},
    [RDI_OPT_KEY_FILE] = {"key_file", "string", "", "path of a file readable by its owner only",
                          "file with the job's key; empty: other sources, see rondo(7)"},
    [RDI_OPT_ENCRYPT] =
        {"encrypt", "bool", "no", "yes|no",
         "all that ranks tell each other over TCP is encrypted; RDMA, which cannot, is"
         " not used then; the same on all ranks"},
    [RDI_OPT_DEVICE] =
        {"device", "string", "", "names of RDMA devices, name or name:port, joined by '+'",
         "RDMA ports to use, such as mlx5_0+mlx5_1:2; empty: those decided for the rank, and"
         " where they do not lead all others that are active"},
    [RDI_OPT_VERBS_MODE] =
        {"verbs_mode", "enum", "auto", "auto|imm|split|send",
         "how a message travels: one write with immediate, a write and an empty write with"
         " immediate (for fabrics with adaptive routing), or a send; auto: imm where both"
         " devices have immediates, else send"},
    [RDI_OPT_VERBS_QPS] = {"verbs_qps", "int", "1", "1..8", "queue pairs per link and RDMA port"},
    [RDI_OPT_VERBS_STRIPE] = {"verbs_stripe", "size", "128K", "4K..4M step 64",
                              "messages are cut over queue pairs and ports into stripes of at"
                              " least this size"},
    [RDI_OPT_VERBS_MTU] = {"verbs_mtu", "int", "auto", "auto|256|512|1024|2048|4096",
                           "path MTU in bytes; auto: the smaller of both ports' active MTUs"},
    [RDI_OPT_VERBS_GID] =
        {"verbs_gid", "int", "auto", "auto|0..1023",
         "index in the port's GID table; auto: by RoCE version, family and subnet of both ends"},
    [RDI_OPT_VERBS_PKEY] = {"verbs_pkey", "int", "0", "0..127",
                            "index in the port's table of partition keys"},
    [RDI_OPT_VERBS_SL] = {"verbs_sl", "int", "0", "0..15", "InfiniBand service level"},
    [RDI_OPT_VERBS_TC] = {"verbs_tc", "int", "0", "0..255",
                          "traffic class; on RoCE its upper six bits are the DSCP"},
    [RDI_OPT_VERBS_TIMEOUT] =
        {"verbs_timeout", "ms", "70ms", "1ms..30s",
         "how long the device waits for an acknowledgement before it sends again (rounded up"
         " to 4.096 us * 2^t)"},
    [RDI_OPT_VERBS_RETRIES] = {"verbs_retries", "int", "6", "0..7",
                               "how often the device sends again before the path counts as lost;"
                               " some devices take 7 for ever"},
    [RDI_OPT_VERBS_INLINE] = {"verbs_inline", "size", "220", "0..1K",
                              "messages up to this size, header included, are copied into the"
                              " work request; less where the device offers less"},
    [RDI_OPT_VERBS_RELAXED] = {"verbs_relaxed", "enum", "auto", "auto|yes|no",
                               "relaxed ordering of PCIe writes into slots; auto: where the"
                               " library offers it"},
    [RDI_OPT_CUDA_DRIVER] = {"cuda_driver", "string", "", "path of a library, or none",
                             "the CUDA driver to load; empty: libcuda.so.1; none: use no GPU"},
    [RDI_OPT_CUDA_REACH] =
        {"cuda_reach", "enum", "auto", "auto|memory|direct|staged",
         "how device memory travels to a neighbour: read in place (same process or CUDA IPC),"
         " GPUDirect RDMA, or through pinned host memory; auto: the first that works, GPUDirect "
         "only where the"
         " topology does not speak against it (rondo-topo --decide)"},
    [RDI_OPT_CUDA_BLOCKS] = {"cuda_blocks", "int", "16", "1..1024",
                             "thread blocks of a reduce kernel: how many multiprocessors a"
                             " collective may take from the computation"},
    [RDI_OPT_RECORD] = {"record", "int", "256", "0..65536",
                        "operations that the flight recorder remembers for each communicator; 0:"
                        " none, and rondo-top cannot look in"},
    [RDI_OPT_DUMP] = {"dump", "string", "", "folder or prefix of files",
                      "where to write a rank's state as JSON when a communicator fails, and on"
                      " SIGUSR1 unless the program handles it; empty: nowhere"},
    [RDI_OPT_TRACE] = {"trace", "string", "", "folder or prefix of files",
                       "where to write a rank's timeline, for ui.perfetto.dev; empty: nowhere"},
    [RDI_OPT_METRICS] = {"metrics", "string", "", "a port, or unix:path with %r for the rank",
                         "counters for Prometheus: on loopback at this port plus the local rank,"
                         " or at a Unix socket; empty: none"},
    [RDI_OPT_DDP_FIRST_BUCKET] = {"ddp_first_bucket", "size", "1M", "4K..4G",
                                  "size of the gradient bucket that is ready first"},
    [RDI_OPT_DDP_BUCKET] = {"ddp_bucket", "size", "25M", "4K..4G",
                            "largest size of the other gradient buckets"},
};

size_t rondo_option_count(void) { return RDI_OPT_COUNT; }

const rondo_option_info *rondo_option(size_t i) { return i < RDI_OPT_COUNT ? &table[i] : NULL; }

// ---- Values -------------------------------------------------------------------------------------

static bool equals(const char *text, size_t n, const char *word) {
    return strlen(word) == n && memcmp(text, word, n) == 0;
}

// Digits and a suffix out of `units`, as a number in the base unit. Nothing else is accepted: no
// sign, no space, no fraction.
struct unit {
    const char *suffix;
    int64_t factor;
};
static bool parse_number(const char *text, size_t n, const struct unit *units, int64_t *value) {
    int64_t v = 0;
    size_t i = 0;
    while (i < n && text[i] >= '0' && text[i] <= '9') {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, text[i] - '0', &v)) {
            return false;
        }
        i++;
    }
    if (i == 0) {
        return false;
    }
    for (; units->suffix != NULL; units++) {
        if (equals(text + i, n - i, units->suffix)) {
            return !__builtin_mul_overflow(v, units->factor, value);
        }
    }
    return false;
}

static bool parse_scalar(const char *type, const char *text, size_t n, int64_t *value) {
    static const struct unit none[] = {{"", 1}, {NULL, 0}};
    static const struct unit sizes[] = {{"", 1},          {"K", 1 << 10}, {"k", 1 << 10},
                                        {"KiB", 1 << 10}, {"M", 1 << 20}, {"m", 1 << 20},
                                        {"MiB", 1 << 20}, {"G", 1 << 30}, {"g", 1 << 30},
                                        {"GiB", 1 << 30}, {NULL, 0}};
    static const struct unit times[] = {
        {"", 1},  {"ms", 1}, {"s", 1000}, {"m", INT64_C(60) * 1000}, {"h", INT64_C(3600) * 1000},
        {NULL, 0}};
    if (strcmp(type, "size") == 0) {
        return parse_number(text, n, sizes, value);
    }
    return parse_number(text, n, strcmp(type, "ms") == 0 ? times : none, value);
}

// Whether `text` is one of the alternatives; *index is which one, *value its number (0 for a word).
static bool is_allowed(const rondo_option_info *row, const char *text, size_t n, int *index,
                       int64_t *value) {
    int64_t number, step = 1;
    bool is_number = parse_scalar(row->type, text, n, &number);
    const char *end = strstr(row->allowed, " step ");
    if (end != NULL) {
        step = strtoll(end + 6, NULL, 10);
    } else {
        end = row->allowed + strlen(row->allowed);
    }

    const char *at = row->allowed;
    for (int i = 0; at < end; i++) {
        const char *stop = memchr(at, '|', (size_t)(end - at));
        size_t length = (size_t)((stop != NULL ? stop : end) - at);
        const char *dots = memmem(at, length, "..", 2);
        if (dots == NULL && length == n && memcmp(at, text, n) == 0) {
            *index = i;
            *value = is_number ? number : 0;
            return true;
        }
        int64_t low, high;
        if (dots != NULL && is_number && parse_scalar(row->type, at, (size_t)(dots - at), &low) &&
            parse_scalar(row->type, dots + 2, length - (size_t)(dots + 2 - at), &high) &&
            low <= number && number <= high && number % step == 0) {
            *index = i;
            *value = number;
            return true;
        }
        at += length + (stop != NULL);
    }
    return false;
}

static bool parse_bool(const char *text, size_t n, int64_t *value) {
    static const char *const yes[] = {"yes", "true", "on", "1"};
    static const char *const no[] = {"no", "false", "off", "0"};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        if (equals(text, n, yes[i]) || equals(text, n, no[i])) {
            *value = equals(text, n, yes[i]);
            return true;
        }
    }
    return false;
}

static rondo_status set_value(struct rdi_options *o, enum rdi_opt id, const char *text, size_t n,
                              const char *source) {
    const rondo_option_info *row = &table[id];
    int shown = n > 80 ? 80 : (int)n;
    int index = 0;
    int64_t value = 0;
    if (strcmp(row->type, "string") == 0) {
        if (n >= RDI_OPT_STRING_MAX) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "option %s has a value of %zu bytes (from %s); at most %d are allowed",
                            row->name, n, source, RDI_OPT_STRING_MAX - 1);
        }
    } else if (!(strcmp(row->type, "bool") == 0 ? parse_bool(text, n, &value)
                                                : is_allowed(row, text, n, &index, &value))) {
        return rdi_fail(RONDO_ERR_INVALID, "option %s=%.*s (from %s) is not allowed; it can be %s",
                        row->name, shown, text, source, row->allowed);
    }
    bool is_enum = strcmp(row->type, "enum") == 0;
    o->num[id] = is_enum ? index : value;
    o->is_auto[id] = equals(text, n, "auto");
    o->str[id][0] = '\0';
    if (is_enum || strcmp(row->type, "string") == 0) {
        memcpy(o->str[id], text, n);
        o->str[id][n] = '\0';
    }
    return RONDO_OK;
}

// ---- Names --------------------------------------------------------------------------------------

// Number of letters to change, add or leave out to get from one name to the other.
static size_t distance(const char *a, size_t n, const char *b) {
    size_t row[64];
    size_t m = strlen(b);
    for (size_t j = 0; j <= m; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t change = diagonal + (tolower((unsigned char)a[i - 1]) != b[j - 1]);
            diagonal = row[j];
            size_t shorter = row[j] < row[j - 1] ? row[j] : row[j - 1];
            row[j] = change < shorter + 1 ? change : shorter + 1;
        }
    }
    return row[m];
}

static rondo_status unknown_name(const char *name, size_t n) {
    size_t shown = n < 40 ? n : 40, best = 0, best_distance = SIZE_MAX;
    for (size_t i = 0; i < RDI_OPT_COUNT; i++) {
        size_t d = distance(name, shown, table[i].name);
        if (d < best_distance) {
            best_distance = d;
            best = i;
        }
    }
    return rdi_fail(
        RONDO_ERR_INVALID,
        "there is no option '%.*s' (from the configuration's options); the nearest is '%s'",
        (int)shown, name, table[best].name);
}

static void trim(const char **text, size_t *n) {
    while (*n > 0 && isspace((unsigned char)(*text)[0])) {
        (*text)++;
        (*n)--;
    }
    while (*n > 0 && isspace((unsigned char)(*text)[*n - 1])) {
        (*n)--;
    }
}

// One "name=value".
static rondo_status set_item(struct rdi_options *o, const char *item, size_t n) {
    trim(&item, &n);
    if (n == 0) {
        return RONDO_OK;
    }
    const char *sign = memchr(item, '=', n);
    size_t name_len = sign != NULL ? (size_t)(sign - item) : n;
    const char *name = item;
    trim(&name, &name_len);
    for (size_t i = 0; i < RDI_OPT_COUNT; i++) {
        if (equals(name, name_len, table[i].name)) {
            if (sign == NULL) {
                return rdi_fail(
                    RONDO_ERR_INVALID,
                    "option %s has no value (from the configuration's options); write %s=%s",
                    table[i].name, table[i].name, table[i].default_value);
            }
            const char *value = sign + 1;
            size_t value_len = n - (size_t)(value - item);
            trim(&value, &value_len);
            return set_value(o, (enum rdi_opt)i, value, value_len, "the configuration's options");
        }
    }
    return unknown_name(name, name_len);
}

static rondo_status set_from_environment(struct rdi_options *o, enum rdi_opt id,
                                         char *(*get)(const char *name)) {
    char name[64] = "RONDO_", source[96];
    for (size_t i = 0; table[id].name[i] != '\0'; i++) {
        name[6 + i] = (char)toupper((unsigned char)table[id].name[i]);
    }
    const char *value = get(name);
    if (value == NULL || value[0] == '\0') {
        return RONDO_OK;
    }
    snprintf(source, sizeof source, "the environment, %s", name);
    size_t n = strlen(value);
    trim(&value, &n);
    return set_value(o, id, value, n, source);
}

rondo_status rdi_options_load(struct rdi_options *o, const char *text,
                              char *(*get)(const char *name)) {
    struct rdi_options loaded;
    memset(&loaded, 0, sizeof loaded);
    for (int id = 0; id < RDI_OPT_COUNT; id++) {
        const char *value = table[id].default_value;
        rondo_status s = set_value(&loaded, (enum rdi_opt)id, value, strlen(value), "the default");
        if (s == RONDO_OK) {
            s = set_from_environment(&loaded, (enum rdi_opt)id, get);
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    while (text != NULL) {
        const char *comma = strchr(text, ',');
        rondo_status s =
            set_item(&loaded, text, comma != NULL ? (size_t)(comma - text) : strlen(text));
        if (s != RONDO_OK) {
            return s;
        }
        text = comma != NULL ? comma + 1 : NULL;
    }
    *o = loaded;
    return RONDO_OK;
}
