// SPDX-License-Identifier: MIT
// The plugin through its tables, whatever their version.
#include "tests/nccl_net/proxy.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *px_path;

int px_arguments(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s libnccl-net-rondo.so\n", argv[0]);
        return 2;
    }
    px_path = argv[1];
    return 0;
}

// ---- Log -----------------------------------------------------------------------------------------

enum { LINES = 256, LINE = 1400 };
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static char lines[LINES][LINE];
static unsigned nlines;

static void on_log(int level, unsigned long subsystems, const char *file, int line, const char *fmt,
                   ...) {
    (void)subsystems;
    (void)file;
    (void)line;
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&log_mutex);
    char *at = lines[nlines++ % LINES];
    int n = snprintf(at, LINE, "%s ", level == RDI_NCCL_LOG_WARN ? "WARN" : "INFO");
    vsnprintf(at + n, LINE - (size_t)n, fmt, ap);
    pthread_mutex_unlock(&log_mutex);
    va_end(ap);
}

bool px_logged(const char *word, ...) {
    bool found = false;
    pthread_mutex_lock(&log_mutex);
    for (unsigned i = 0; i < nlines && i < LINES && !found; i++) {
        found = true;
        va_list ap;
        va_start(ap, word);
        for (const char *w = word; w != NULL && found; w = va_arg(ap, const char *)) {
            found = strstr(lines[i], w) != NULL;
        }
        va_end(ap);
    }
    pthread_mutex_unlock(&log_mutex);
    return found;
}

static void print_log(void) {
    pthread_mutex_lock(&log_mutex);
    for (unsigned i = 0; i < nlines && i < LINES; i++) {
        printf("%s\n", lines[i]);
    }
    pthread_mutex_unlock(&log_mutex);
}

void px_die(const char *file, int line, const char *fmt, ...) {
    va_list ap;
    print_log();
    printf("%s:%d: ", file, line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

// ---- Tables --------------------------------------------------------------------------------------

// The functions that look alike in all versions.
#define SAME(p, fn, ...)                                                                   \
    ((p)->version == 8    ? ((const struct rdi_nccl_net_v8 *)(p)->table)->fn(__VA_ARGS__)  \
     : (p)->version == 9  ? ((const struct rdi_nccl_net_v9 *)(p)->table)->fn(__VA_ARGS__)  \
     : (p)->version == 10 ? ((const struct rdi_nccl_net_v10 *)(p)->table)->fn(__VA_ARGS__) \
     : (p)->version == 11 ? ((const struct rdi_nccl_net_v11 *)(p)->table)->fn(__VA_ARGS__) \
                          : ((const struct rdi_nccl_net_v12 *)(p)->table)->fn(__VA_ARGS__))
#define T(p, v) ((const struct rdi_nccl_net_v##v *)(p)->table)

int px_try_init(struct px *p, int version) {
    char symbol[40];
    memset(p, 0, sizeof *p);
    p->version = version;
    pthread_mutex_lock(&log_mutex);
    nlines = 0;
    pthread_mutex_unlock(&log_mutex);
    p->lib = dlopen(px_path, RTLD_NOW | RTLD_LOCAL);
    if (p->lib == NULL) {
        px_die(__FILE__, __LINE__, "%s", dlerror());
    }
    snprintf(symbol, sizeof symbol, "ncclNetPlugin_v%d", version);
    p->table = dlsym(p->lib, symbol);
    px_check(p->table != NULL);
    struct rdi_nccl_config config = {.traffic_class = RDI_NCCL_UNDEFINED};
    switch (version) {
    case 8:
        return T(p, 8)->init(on_log);
    case 9:
        return T(p, 9)->init(on_log);
    case 10:
        return T(p, 10)->init(on_log, NULL);
    case 11:
        return T(p, 11)->init(&p->context, 42, &config, on_log, NULL);
    default:
        return T(p, 12)->init(&p->context, 42, &config, on_log, NULL);
    }
}

void px_load(struct px *p, int version) {
    if (px_try_init(p, version) != RDI_NCCL_SUCCESS) {
        px_die(__FILE__, __LINE__, "init() of version %d", version);
    }
}

void px_unload(struct px *p) {
    if (p->version >= 11) {
        int r = p->version == 11 ? T(p, 11)->finalize(p->context) : T(p, 12)->finalize(p->context);
        px_check(r == RDI_NCCL_SUCCESS);
    }
    dlclose(p->lib);
}

int px_devices(const struct px *p) {
    int n = -1;
    px_check(SAME(p, devices, &n) == RDI_NCCL_SUCCESS);
    return n;
}

void px_listen(const struct px *p, int dev, void *handle, void **listen) {
    int r = p->version == 8    ? T(p, 8)->listen(dev, handle, listen)
            : p->version == 9  ? T(p, 9)->listen(dev, handle, listen)
            : p->version == 10 ? T(p, 10)->listen(dev, handle, listen)
            : p->version == 11 ? T(p, 11)->listen(p->context, dev, handle, listen)
                               : T(p, 12)->listen(p->context, dev, handle, listen);
    px_check(r == RDI_NCCL_SUCCESS);
    px_check(*listen != NULL);
}

int px_connect(const struct px *p, int dev, void *handle, void **comm) {
    void *offload = NULL;
    struct rdi_nccl_config config = {.traffic_class = RDI_NCCL_UNDEFINED};
    switch (p->version) {
    case 8:
        return T(p, 8)->connect(dev, handle, comm, &offload);
    case 9:
        return T(p, 9)->connect(dev, handle, comm, &offload);
    case 10:
        return T(p, 10)->connect(dev, &config, handle, comm, &offload);
    case 11:
        return T(p, 11)->connect(p->context, dev, handle, comm, &offload);
    default:
        return T(p, 12)->connect(p->context, dev, handle, comm, &offload);
    }
}

int px_accept(const struct px *p, void *listen, void **comm) {
    void *offload = NULL;
    return SAME(p, accept, listen, comm, &offload);
}

int px_isend(const struct px *p, void *comm, void *data, size_t size, void *mh, void **request) {
    switch (p->version) {
    case 8:
        return T(p, 8)->isend(comm, data, (int)size, 7, mh, request);
    case 9:
        return T(p, 9)->isend(comm, data, size, 7, mh, request);
    case 10:
        return T(p, 10)->isend(comm, data, size, 7, mh, NULL, request);
    case 11:
        return T(p, 11)->isend(comm, data, size, 7, mh, NULL, request);
    default:
        return T(p, 12)->isend(comm, data, size, 7, mh, NULL, request);
    }
}

// NCCL may leave a mark where the request goes; it must not be there afterwards.
#define MARK ((void *)(uintptr_t)1)

int px_irecv(const struct px *p, void *comm, void *data, size_t size, void *mh, void **request) {
    int tag = 7, size8 = (int)size, r;
    *request = MARK;
    switch (p->version) {
    case 8:
        r = T(p, 8)->irecv(comm, 1, &data, &size8, &tag, &mh, request);
        break;
    case 9:
        r = T(p, 9)->irecv(comm, 1, &data, &size, &tag, &mh, request);
        break;
    case 10:
        r = T(p, 10)->irecv(comm, 1, &data, &size, &tag, &mh, NULL, request);
        break;
    case 11:
        r = T(p, 11)->irecv(comm, 1, &data, &size, &tag, &mh, NULL, request);
        break;
    default:
        r = T(p, 12)->irecv(comm, 1, &data, &size, &tag, &mh, NULL, request);
        break;
    }
    px_check(*request != MARK);
    return r;
}

int px_test(const struct px *p, void *request, int *done, int *size) {
    return SAME(p, test, request, done, size);
}

int px_reg_type(const struct px *p, void *comm, void *data, size_t size, int type) {
    void *mh = NULL;
    return SAME(p, reg_mr, comm, data, size, type, &mh);
}

void *px_reg(const struct px *p, void *comm, void *data, size_t size) {
    void *mh = NULL;
    int r = SAME(p, reg_mr, comm, data, size, RDI_NCCL_PTR_HOST, &mh);
    px_check(r == RDI_NCCL_SUCCESS);
    return mh;
}

void px_dereg(const struct px *p, void *comm, void *mh) {
    px_check(SAME(p, dereg_mr, comm, mh) == RDI_NCCL_SUCCESS);
}

void px_close_send(const struct px *p, void *comm) {
    px_check(SAME(p, close_send, comm) == RDI_NCCL_SUCCESS);
}

void px_close_recv(const struct px *p, void *comm) {
    px_check(SAME(p, close_recv, comm) == RDI_NCCL_SUCCESS);
}

void px_close_listen(const struct px *p, void *listen) {
    px_check(SAME(p, close_listen, listen) == RDI_NCCL_SUCCESS);
}
