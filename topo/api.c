// SPDX-License-Identifier: MIT
// The public functions of topo/ but distances.
#include "topo/internal.h"
#include "transport/temp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- Files ---------------------------------------------------------------------------------------

// All of a regular file of at most RDI_XML_BYTES.
static rondo_status read_file(const char *path, char **text, size_t *len) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO without a writer must not hang
    if (fd < 0 || fstat(fd, &st) != 0) {
        rondo_status s =
            rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot read the topology %s", path);
        if (fd >= 0) {
            close(fd);
        }
        return s;
    }
    if (!S_ISREG(st.st_mode) || st.st_size > (off_t)RDI_XML_BYTES) {
        close(fd);
        return rdi_fail(RONDO_ERR_INVALID, "%s is no topology that can be used: %s", path,
                        S_ISREG(st.st_mode) ? "it is larger than 64 MiB" : "it is no regular file");
    }
    size_t cap = (size_t)st.st_size;
    char *buf = malloc(cap + 1);
    ssize_t n = 0;
    *len = 0;
    while (buf && *len < cap && (n = read(fd, buf + *len, cap - *len)) != 0) {
        if (n < 0 && errno != EINTR) {
            break;
        }
        *len += n > 0 ? (size_t)n : 0;
    }
    int err = errno;
    close(fd);
    if (buf && n >= 0) {
        *text = buf;
        return RONDO_OK;
    }
    free(buf);
    return buf ? rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot read the topology %s", path)
               : rdi_fail(RONDO_ERR_NOMEM, "out of memory to read the topology %s", path);
}

rondo_status rondo_topo_save(const rondo_topo *t, const char *path) {
    if (!t || !path || *path == '\0') {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_topo_save() without a topology or a path");
    }
    return rdi_temp_replace(path, t->text, t->len, 0644);
}

// ---- Loading -------------------------------------------------------------------------------------

static rondo_status load_file(const char *path, bool this_cpuset, rondo_topo **topo) {
    char *text = NULL;
    size_t len = 0;
    struct rdi_set sets[2];
    rondo_status s = this_cpuset ? rdi_topo_host_allowed(&sets[0], &sets[1]) : RONDO_OK;
    s = s == RONDO_OK ? read_file(path, &text, &len) : s;
    if (s != RONDO_OK) {
        return s;
    }
    s = rdi_topo_parse(text, len, path, this_cpuset ? &sets[0] : NULL,
                       this_cpuset ? &sets[1] : NULL, topo);
    free(text);
    return s;
}

rondo_status rondo_topo_load(const rondo_topo_config *config, rondo_topo **topo) {
    const rondo_topo_config none = RONDO_TOPO_CONFIG_INIT;
    const rondo_topo_config *c = config ? config : &none;
    if (!topo || c->size < sizeof none || (c->file && c->synthetic)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        !topo || c->size < sizeof none
                            ? "rondo_topo_load(): begin with RONDO_TOPO_CONFIG_INIT, and give a "
                              "place for the topology"
                            : "rondo_topo_load(): a file and a synthetic topology: give one");
    }
    if (c->this_cpuset && !c->file) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "this_cpuset is for a topology from a file; of this host it is always told what "
            "this process may use, and of a synthetic one never");
    }
    if (c->file) {
        return load_file(c->file, c->this_cpuset != 0, topo);
    }
    char *text;
    size_t len;
    rondo_status s = rdi_topo_host_text(c->synthetic, &text, &len);
    if (s == RONDO_OK) {
        s = rdi_topo_parse(text, len, c->synthetic ? c->synthetic : "this host", NULL, NULL, topo);
        free(text);
    }
    return s;
}

rondo_status rondo_topo_parse(const char *text, size_t len, const char *name, rondo_topo **topo) {
    if (!text || !topo) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_topo_parse() without a text or a place");
    }
    return rdi_topo_parse(text, len, name ? name : "the text", NULL, NULL, topo);
}

void rondo_topo_free(rondo_topo *t) {
    if (!t) {
        return;
    }
    for (int i = 0; i < t->machine.devices; i++) {
        rdi_text_free(&t->devices[i].rdma);
        rdi_text_free(&t->devices[i].net);
        rdi_text_free(&t->devices[i].runtimes);
    }
    for (size_t i = 0; i < t->nstrings; i++) {
        free(t->strings[i]);
    }
    free(t->strings);
    free(t->numas);
    free(t->devices);
    free(t->between);
    free(t->to_numa);
    free(t->text);
    free(t);
}

// ---- Looking -------------------------------------------------------------------------------------

const rondo_topo_machine_info *rondo_topo_machine(const rondo_topo *t) { return &t->machine; }

const rondo_topo_numa_info *rondo_topo_numa(const rondo_topo *t, int i) {
    return i >= 0 && i < t->machine.numas ? &t->numas[i].info : NULL;
}

const rondo_topo_device_info *rondo_topo_device(const rondo_topo *t, int i) {
    return i >= 0 && i < t->machine.devices ? &t->devices[i].info : NULL;
}
