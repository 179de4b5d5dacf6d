// SPDX-License-Identifier: MIT
// Memory that is locked, memory that is shared, and descriptors.
#include "transport/doctor/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LOCKED_LEAST (UINT64_C(64) << 20) // slots of a few links
#define SHM_PER_RANK (UINT64_C(16) << 20)
#define FILES_SELF 96u    // what a program and Rondo have open anyway
#define FILES_LAUNCHER 8u // rondo-run's for each local rank

// ---- Locked memory -------------------------------------------------------------------------------

// CAP_IPC_LOCK lifts the limit; it has to be one of the first user namespace.
static bool may_lock_all(const struct doctor *d) {
    char text[DR_TEXT];
    if (!dr_read(d, text, sizeof text, "/proc/self/uid_map") ||
        strstr(text, "4294967295") == NULL || !dr_read(d, text, sizeof text, "/proc/self/status")) {
        return false;
    }
    const char *line = strstr(text, "CapEff:");
    return line != NULL && (strtoull(line + 7, NULL, 16) >> 14 & 1) != 0;
}

void dr_memory_memlock(struct doctor *d) {
    uint64_t soft, hard;
    char a[32], b[32], names[256];
    if (!dr_limit(d, "Max locked memory", &soft, &hard)) {
        dr_add(d, DR_INFO, NULL, "/proc/self/limits is not readable: the limit is unknown");
        return;
    }
    if (soft == UINT64_MAX || may_lock_all(d)) {
        dr_add(d, DR_OK, NULL, "memory may be locked without limit%s",
               soft != UINT64_MAX ? " (CAP_IPC_LOCK)" : "");
        return;
    }
    bool matters = dr_wants(d, "verbs") && dr_kernel_devices(d, names, sizeof names) > 0;
    matters = matters || dr_insists(d, "verbs");
    bool little = soft < LOCKED_LEAST;
    enum dr_level level = !matters ? DR_INFO : little ? DR_ERROR : DR_WARNING;
    dr_add(d, level, NULL, "locked memory is limited to %s (hard limit %s)", dr_bytes(soft, a),
           dr_bytes(hard, b));
    dr_means(d,
             "all memory that is registered with an RDMA device is locked; registration %s with"
             " ENOMEM%s",
             little ? "fails" : "beyond the limit fails",
             matters ? "" : " (no RDMA device is used here, so nothing is lost)");
    if (hard > soft) {
        dr_remedy(d, "ulimit -l %s in the shell that starts the job",
                  hard == UINT64_MAX ? "unlimited" : "$(ulimit -H -l)");
    } else {
        dr_remedy(d,
                  "\"* - memlock unlimited\" in /etc/security/limits.d/, LimitMEMLOCK=infinity for"
                  " the service (slurmd, kubelet, containerd), docker run --ulimit memlock=-1");
    }
}

// ---- Shared memory -------------------------------------------------------------------------------

static int sealed_memfd(void) {
    int fd = memfd_create("rondo-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return errno;
    }
    int err = ftruncate(fd, 4096) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0
                  ? errno
                  : 0;
    close(fd);
    return err;
}

static int unnamed_file(void) {
    int fd = open("/dev/shm", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        return errno;
    }
    close(fd);
    return 0;
}

void dr_memory_memfd(struct doctor *d) {
    int err = sealed_memfd();
    if (err == 0) {
        dr_add(d, DR_OK, NULL, "memory files can be made and sealed (memfd_create)");
        return;
    }
    int other = unnamed_file();
    char text[128];
    const char *reason = strerror_r(err, text, sizeof text);
    if (other == 0) {
        dr_add(d, DR_WARNING, NULL, "memfd_create is refused: %s", reason);
        dr_means(d, "ranks of this host share files in /dev/shm instead, within its size");
    } else {
        char second[128];
        dr_add(d, dr_insists(d, "shm") ? DR_ERROR : DR_WARNING, NULL,
               "memfd_create is refused (%s), and so are files in /dev/shm (%s)", reason,
               strerror_r(other, second, sizeof second));
        dr_means(d, "ranks of this host cannot share memory; with transport=auto they talk TCP");
    }
    dr_remedy(d, "permit memfd_create in the container's seccomp profile");
}

// The size that a tmpfs was mounted with, from /proc/self/mounts: "tmpfs /dev/shm tmpfs rw,size=65536k 0 0".
static bool mounted_size(const struct doctor *d, uint64_t *bytes) {
    char text[DR_TEXT];
    dr_read(d, text, sizeof text, "/proc/self/mounts");
    const char *line = strstr(text, " /dev/shm ");
    const char *end = line != NULL ? line + strcspn(line, "\n") : NULL;
    const char *size = line != NULL ? strstr(line, "size=") : NULL;
    if (size == NULL || size > end) {
        return false;
    }
    char *unit;
    *bytes = strtoull(size + 5, &unit, 10);
    *bytes <<= *unit == 'k' ? 10 : *unit == 'm' ? 20 : *unit == 'g' ? 30 : 0;
    return true;
}

void dr_memory_shm(struct doctor *d) {
    struct statvfs v;
    uint64_t bytes = 0, room = 0, need = (uint64_t)d->per_node * SHM_PER_RANK;
    bool known = false;
    if (d->root[0] != '\0') {
        known = mounted_size(d, &bytes); // system calls cannot be asked about another root
        room = bytes;
    } else if (statvfs("/dev/shm", &v) == 0) {
        known = true;
        bytes = (uint64_t)v.f_blocks * v.f_frsize;
        room = (uint64_t)v.f_bavail * v.f_frsize;
    }
    bool memfd = sealed_memfd() == 0;
    char a[32], b[32];
    if (!known) {
        dr_add(d, memfd ? DR_INFO : DR_WARNING, NULL, "/dev/shm is not there");
    } else {
        dr_add(d, room < need && !memfd ? DR_WARNING : DR_OK, NULL,
               "/dev/shm has %s, %s of it free", dr_bytes(bytes, a), dr_bytes(room, b));
    }
    if (memfd && room < need) {
        dr_means(d, "nothing: Rondo uses memory files (memfd), which it does not bound; other"
                    " programs may need it");
    } else if (room < need) {
        dr_means(
            d, "shared memory between ranks has to fit in there: making it fails when it is full");
        dr_remedy(d,
                  "docker run --shm-size=%lluM, or a Kubernetes emptyDir of medium Memory at"
                  " /dev/shm, or permit memfd_create",
                  (unsigned long long)(need >> 20));
    }
}

// ---- Descriptors ---------------------------------------------------------------------------------

void dr_memory_files(struct doctor *d) {
    uint64_t soft, hard;
    if (!dr_limit(d, "Max open files", &soft, &hard)) {
        dr_add(d, DR_INFO, NULL, "/proc/self/limits is not readable: the limit is unknown");
        return;
    }
    // At the worst a rank has a link in each direction with every other one (all_to_all), over each
    // interface; rank 0 serves the store to all; the launcher has pipes of its ranks.
    uint64_t sockets = (uint64_t)d->options.num[RDI_OPT_TCP_SOCKETS];
    uint64_t others = (uint64_t)d->ranks - 1;
    uint64_t need = FILES_SELF + others * (2 * sockets + 1) + others +
                    FILES_LAUNCHER * (uint64_t)d->per_node;
    bool few = soft < need;
    dr_add(d, few ? DR_ERROR : DR_OK, NULL,
           "%llu open files for each process (hard limit %llu); a job of %d ranks needs up to %llu",
           (unsigned long long)soft, (unsigned long long)hard, d->ranks, (unsigned long long)need);
    if (few) {
        dr_means(d, "connecting the ranks fails when the limit is reached (EMFILE)");
        if (hard >= need) {
            dr_remedy(d, "ulimit -n %llu in the shell that starts the job",
                      (unsigned long long)need);
        } else {
            dr_remedy(d,
                      "\"* - nofile %llu\" in /etc/security/limits.d/, LimitNOFILE= of the service,"
                      " docker run --ulimit nofile=%llu",
                      (unsigned long long)need, (unsigned long long)need);
        }
    }
}
