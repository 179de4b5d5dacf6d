// SPDX-License-Identifier: MIT
// The job's key: where it comes from, in one order (the table below), and how the key of connections
// is derived from it.
//
// A file that others may read is refused. Secrets are wiped from memory after use, and no text that
// this file writes has a byte of one.
#include "transport/bootstrap/bootstrap.h"
#include "transport/temp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_MIN 16
#define SECRET_MAX 4096

// In the words that a user reads; rdi_key_find_for() goes through them in this order.
static const char *const order[] = {
    "auth=none: no key",
    "a job of one rank: a random key, which nobody else needs",
    "rondo_config.key",
    "the file that option key_file names",
    "the descriptor that a launcher hands down (" RDI_ENV_KEY_FD ")",
    // Rank 0 makes it (see exchange.c); who can read that store can join the job.
    "a random key in the caller's own store",
    // It goes as the launcher's own messages go (see point.c).
    "a random key from rank 0, through PMIx or PMI, where the launcher offers one, or by munge, "
    "under"
    " Slurm",
    // On several hosts the home directory must be shared.
    "~/.config/rondo/key, made at first use",
    // Then any local user can join.
    "none, where all ranks share a host",
};

const char *rdi_key_order(size_t i) { return i < sizeof order / sizeof order[0] ? order[i] : NULL; }

rondo_status rdi_key_set(struct rdi_job *job, const void *secret, size_t len) {
    if (secret == NULL || len < SECRET_MIN || len > SECRET_MAX) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the job's key has %zu bytes; it can have %d..%d random bytes",
                        secret != NULL ? len : 0, SECRET_MIN, SECRET_MAX);
    }
    if (sodium_init() < 0) {
        return rdi_fail(RONDO_ERR_SYSTEM, "libsodium could not be initialised");
    }
    static const char label[] = "rondo job key, version 1";
    crypto_generichash_state h;
    uint8_t key[RDI_KEY_BYTES];
    crypto_generichash_init(&h, (const uint8_t *)label, sizeof label - 1, RDI_KEY_BYTES);
    crypto_generichash_update(&h, secret, len);
    crypto_generichash_final(&h, key, RDI_KEY_BYTES);
    rondo_status s = rdi_job_key(job, key);
    sodium_memzero(key, sizeof key);
    sodium_memzero(&h, sizeof h);
    sodium_stackzero(RDI_STACK_WIPE);
    job->auth = s == RONDO_OK;
    return s;
}

static rondo_status set_random_key(struct rdi_job *job) {
    uint8_t secret[RDI_KEY_BYTES];
    randombytes_buf(secret, sizeof secret);
    rondo_status s = rdi_key_set(job, secret, sizeof secret);
    sodium_memzero(secret, sizeof secret);
    return s;
}

// ---- Files and descriptors ----------------------------------------------------------------------

// Reads what a descriptor holds from offset 0, at most one byte more than a key may have. -1:
// errno.
static ssize_t read_secret(int fd, uint8_t secret[SECRET_MAX + 1]) {
    size_t n = 0;
    while (n < SECRET_MAX + 1) {
        ssize_t got = pread(fd, secret + n, SECRET_MAX + 1 - n, (off_t)n);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -1;
        }
        if (got == 0) {
            break;
        }
        n += (size_t)got;
    }
    return (ssize_t)n;
}

static rondo_status set_from_descriptor(struct rdi_job *job, int fd, const char *what,
                                        bool is_text) {
    uint8_t secret[SECRET_MAX + 1];
    ssize_t n = read_secret(fd, secret);
    rondo_status s;
    if (n < 0) {
        s = rdi_fail_errno(RONDO_ERR_BOOTSTRAP, errno, "cannot read the job's key from %s", what);
    } else {
        // An editor or echo ends a file with a newline, which is no part of the key.
        while (is_text && n > 0 && (secret[n - 1] == '\n' || secret[n - 1] == '\r')) {
            n--;
        }
        s = rdi_key_set(job, secret, (size_t)n);
        if (s != RONDO_OK) {
            s = rdi_fail_prefix(s, "%s", what);
        }
    }
    sodium_memzero(secret, sizeof secret);
    return s;
}

// RONDO_AGAIN: there is no such file.
static rondo_status set_from_file(struct rdi_job *job, const char *path) {
    // Non-blocking, lest a FIFO in its place makes us wait.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        return RONDO_AGAIN;
    }
    if (fd < 0) {
        return rdi_fail_errno(RONDO_ERR_BOOTSTRAP, errno, "cannot open the job's key file %s",
                              path);
    }
    struct stat st;
    rondo_status s;
    if (fstat(fd, &st) != 0) {
        s = rdi_fail_errno(RONDO_ERR_BOOTSTRAP, errno, "cannot examine the job's key file %s",
                           path);
    } else if (!S_ISREG(st.st_mode)) {
        s = rdi_fail(RONDO_ERR_BOOTSTRAP, "the job's key file %s is not a regular file", path);
    } else if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        s = rdi_fail(
            RONDO_ERR_BOOTSTRAP,
            "the job's key file %s is open to others (mode %04o); others may know the key: make a"
            " new one and keep it with chmod 600",
            path, (unsigned)st.st_mode & 07777);
    } else {
        s = set_from_descriptor(job, fd, path, true);
    }
    close(fd);
    return s;
}

static rondo_status set_from_inherited(struct rdi_job *job, const char *number) {
    char *end;
    errno = 0;
    long fd = strtol(number, &end, 10);
    if (number[0] < '0' || number[0] > '9' || *end != '\0' || errno != 0 || fd > INT_MAX) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP,
                        "the environment variable " RDI_ENV_KEY_FD
                        " is '%.20s'; it must be the number of"
                        " a descriptor that holds the job's key",
                        number);
    }
    char what[64];
    snprintf(what, sizeof what, "descriptor %ld (" RDI_ENV_KEY_FD ")", fd);
    rondo_status s = set_from_descriptor(job, (int)fd, what, false);
    if (s == RONDO_ERR_BOOTSTRAP) {
        s = rdi_fail(s, "%s; a wrapper between launcher and program must not close it",
                     rondo_last_error());
    }
    return s;
}

int rdi_key_memfd(void) {
    uint8_t secret[RDI_KEY_BYTES];
    if (sodium_init() < 0) {
        rdi_fail(RONDO_ERR_SYSTEM, "libsodium could not be initialised");
        return -1;
    }
    // Without CLOEXEC, since children shall inherit it.
    int fd = memfd_create("rondo-key", MFD_ALLOW_SEALING);
    if (fd < 0) {
        rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot make a memfd for the job's key");
        return -1;
    }
    randombytes_buf(secret, sizeof secret);
    ssize_t n = pwrite(fd, secret, sizeof secret, 0);
    sodium_memzero(secret, sizeof secret);
    if (n != (ssize_t)sizeof secret ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot put the job's key into a memfd");
        close(fd);
        return -1;
    }
    return fd;
}

// ---- The file in the home directory -------------------------------------------------------------

// mkdir, where it does not matter who made it.
static bool make_directory(const char *path, mode_t mode) {
    return mkdir(path, mode) == 0 || errno == EEXIST;
}

// A file for the key that has no name yet, so that nothing is left where this process is killed; where there is no
// such thing (NFS), one whose name tells who made it. -1: errno.
static int open_new_key(const char *directory, const char *path, char *name, size_t cap) {
    int fd = open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) {
        snprintf(name, cap, "/proc/self/fd/%d", fd);
        if (access(name, F_OK) == 0) {
            return fd;
        }
        close(fd); // without /proc it could not be given a name
    }
    rdi_temp_name(path, name, cap);
    return open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

// Creates the key file unless it is there. It appears whole or not at all, and only the first of
// several processes that try at once wins: link(2) does not replace, also over NFS. -1: errno.
static int create_key_file(const char *directory, const char *path) {
    char name[PATH_MAX + RDI_TEMP_MORE];
    if (!make_directory(directory, 0700)) {
        return -1;
    }
    int fd = open_new_key(directory, path, name, sizeof name);
    if (fd < 0) {
        return -1;
    }
    uint8_t secret[RDI_KEY_BYTES];
    char text[2 * RDI_KEY_BYTES + 1];
    randombytes_buf(secret, sizeof secret);
    sodium_bin2hex(text, sizeof text, secret, sizeof secret);
    sodium_memzero(secret, sizeof secret);
    text[sizeof text - 1] = '\n';
    ssize_t n = write(fd, text, sizeof text);
    sodium_memzero(text, sizeof text);
    int result = -1;
    if (n >= 0 && n != (ssize_t)sizeof text) {
        errno = ENOSPC;
    } else if (n > 0 && fsync(fd) == 0 &&
               (linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 ||
                errno == EEXIST)) {
        result = 0;
    }
    int saved = errno;
    close(fd);
    if (strncmp(name, "/proc/", 6) != 0) {
        unlink(name);
    }
    errno = saved;
    return result;
}

// RONDO_AGAIN: there is none and none can be made (or shall be, without `make`); `path` tells where it
// would be, `error` why not.
static rondo_status set_from_home(struct rdi_job *job, rdi_getenv get, bool make, char *path,
                                  size_t cap, int *error) {
    char config[PATH_MAX], directory[PATH_MAX];
    const char *home = get("HOME");
    snprintf(path, cap, "~/.config/rondo/key");
    *error = ENOENT;
    if (home == NULL || home[0] != '/' || strlen(home) + 32 > cap) {
        return RONDO_AGAIN;
    }
    snprintf(config, sizeof config, "%s/.config", home);
    snprintf(directory, sizeof directory, "%s/.config/rondo", home);
    snprintf(path, cap, "%s/.config/rondo/key", home);
    rdi_temp_sweep(path);
    rondo_status s = set_from_file(job, path);
    if (s != RONDO_AGAIN) {
        return s;
    }
    if (!make || !make_directory(config, 0700) || create_key_file(directory, path) != 0) {
        *error = make ? errno : ENOENT;
        return RONDO_AGAIN;
    }
    return set_from_file(job, path);
}

// ---- The order ----------------------------------------------------------------------------------

void rdi_key_spare_munge(const rondo_config *config, const struct rdi_options *options,
                         rdi_getenv get, struct rdi_launch *launch) {
    const char *inherited = get(RDI_ENV_KEY_FD);
    if (strcmp(options->str[RDI_OPT_AUTH], "none") == 0 || config->key != NULL ||
        options->str[RDI_OPT_KEY_FILE][0] != '\0' || (inherited != NULL && inherited[0] != '\0')) {
        launch->offered &= ~(unsigned)RDI_VIA_MUNGE;
    }
}

static rondo_status set_from_home_or_none(const struct rdi_launch *launch, rdi_getenv get,
                                          bool make, struct rdi_job *job,
                                          char source[RDI_KEY_SOURCE]) {
    char path[PATH_MAX];
    int error;
    rondo_status s = set_from_home(job, get, make, path, sizeof path, &error);
    snprintf(source, RDI_KEY_SOURCE, "the file %.*s", RDI_KEY_SOURCE - 16, path);
    if (s != RONDO_AGAIN) {
        return s;
    }
    if (launch->single_host) {
        snprintf(source, RDI_KEY_SOURCE, "none");
        return RONDO_OK;
    }
    if (!make) {
        return rdi_fail(RONDO_ERR_AUTH,
                        "there is no key for ranks on several hosts: no key file, no launcher's"
                        " descriptor, and %s is not there",
                        path);
    }
    return rdi_fail_errno(
        RONDO_ERR_AUTH, error,
        "this job has no key, and its ranks are on several hosts: start it with"
        " rondo-run, or give all ranks the same secret file with RONDO_KEY_FILE (mode"
        " 600), or say auth=none where nobody else reaches the network; %s cannot be"
        " made",
        path);
}

static rondo_status find_key(const rondo_config *config, const struct rdi_options *options,
                             const struct rdi_launch *launch, rdi_getenv get, bool make,
                             struct rdi_job *job, char source[RDI_KEY_SOURCE]) {
    rdi_job_clear(job);
    if (sodium_init() < 0) {
        return rdi_fail(RONDO_ERR_SYSTEM, "libsodium could not be initialised");
    }
    const char *file = options->str[RDI_OPT_KEY_FILE], *inherited = get(RDI_ENV_KEY_FD);
    if (strcmp(options->str[RDI_OPT_AUTH], "none") == 0) {
        snprintf(source, RDI_KEY_SOURCE, "none (auth=none)");
        return RONDO_OK;
    }
    if (job->size == 1) {
        snprintf(source, RDI_KEY_SOURCE, "random");
        return set_random_key(job);
    }
    if (config->key != NULL) {
        snprintf(source, RDI_KEY_SOURCE, "rondo_config.key");
        return rdi_key_set(job, config->key, config->key_len);
    }
    if (file[0] != '\0') {
        snprintf(source, RDI_KEY_SOURCE, "the file %.*s", RDI_KEY_SOURCE - 16, file);
        rondo_status s = set_from_file(job, file);
        return s != RONDO_AGAIN
                   ? s
                   : rdi_fail(RONDO_ERR_BOOTSTRAP, "the job's key file %s does not exist", file);
    }
    if (inherited != NULL && inherited[0] != '\0') {
        snprintf(source, RDI_KEY_SOURCE, "the launcher's descriptor %.10s", inherited);
        return set_from_inherited(job, inherited);
    }
    if (config->store_ops != NULL) {
        snprintf(source, RDI_KEY_SOURCE, "the caller's store");
        return RONDO_AGAIN;
    }
    if (launch->via != RDI_VIA_NONE) {
        snprintf(source, RDI_KEY_SOURCE, "rank 0, through %s",
                 launch->via == RDI_VIA_PMIX  ? "PMIx"
                 : launch->via == RDI_VIA_PMI ? "PMI"
                                              : "munge");
        return RONDO_AGAIN;
    }
    return set_from_home_or_none(launch, get, make, job, source);
}

rondo_status rdi_key_find_for(const rondo_config *config, const struct rdi_options *options,
                              const struct rdi_launch *launch, rdi_getenv get, struct rdi_job *job,
                              char source[RDI_KEY_SOURCE]) {
    return find_key(config, options, launch, get, true, job, source);
}

rondo_status rdi_key_look_for(const rondo_config *config, const struct rdi_options *options,
                              const struct rdi_launch *launch, rdi_getenv get, struct rdi_job *job,
                              char source[RDI_KEY_SOURCE]) {
    return find_key(config, options, launch, get, false, job, source);
}

rondo_status rdi_key_find(const rondo_config *config, const struct rdi_options *options,
                          struct rdi_job *job) {
    struct rdi_launch launch;
    char source[RDI_KEY_SOURCE];
    rondo_status s = rdi_discover(config, getenv, &launch);
    if (s == RONDO_OK) {
        job->rank = launch.rank;
        job->size = launch.size;
        s = rdi_key_find_for(config, options, &launch, getenv, job, source);
    }
    return s != RONDO_AGAIN
               ? s
               : rdi_fail(RONDO_ERR_USAGE,
                          "the key comes from rank 0 when the ranks join; it cannot be found"
                          " without them");
}
