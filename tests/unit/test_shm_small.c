// SPDX-License-Identifier: MIT
// Where shared memory is scarce: a /dev/shm of 64 MiB, as containers have it; memfd_create() refused, as some
// seccomp profiles do; and both, with /dev/shm full or not there. Needs a mount namespace of its own: where that
// is not allowed the test is skipped (77).
#include "tests/unit/shm_side.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB ((size_t)1 << 20)

static bool write_to(const char *name, const char *text) {
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return good;
}

// Who is not root becomes it in a user namespace, under the same number.
static bool enter_namespaces(void) {
    uid_t uid = geteuid();
    gid_t gid = getegid();
    char users[64], groups[64];
    snprintf(users, sizeof users, "%u %u 1", uid, uid);
    snprintf(groups, sizeof groups, "%u %u 1", gid, gid);
    if (unshare(CLONE_NEWNS) == 0) {
        return true;
    }
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && write_to("/proc/self/setgroups", "deny") &&
           write_to("/proc/self/uid_map", users) && write_to("/proc/self/gid_map", groups);
}

static bool make_small_shm(void) {
    return enter_namespaces() && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=64m,mode=1777") == 0;
}

static size_t used_shm(void) {
    struct statvfs v;
    return statvfs("/dev/shm", &v) == 0 ? (v.f_blocks - v.f_bfree) * v.f_frsize : SIZE_MAX;
}

// From now on this process gets EPERM from memfd_create().
static bool refuse_memfd(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 && memfd_create("x", 0) < 0 &&
           errno == EPERM;
}

// A test's body in a child: 0, or the number of what failed; 255: the child could not be made as it should.
static void in_child(int (*body)(void)) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(body());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 255) {
        print_message("seccomp filters are not allowed here\n");
        skip();
    }
    assert_int_equal(status, 0);
    assert_int_equal(used_shm(), 0); // nothing is left
}

struct two {
    struct side a, b;
    struct rdi_link *out, *in;
};

// 0: the link is UP.
static int connect_two(struct two *t, const char *options) {
    if (!side_open(&t->a, 0, 2, options) || !side_open(&t->b, 1, 2, options)) {
        return 1;
    }
    t->out = side_connect(&t->a, &t->b, 0);
    if (t->out == NULL || !side_await(&t->a, &t->b, t->out, RDI_LINK_UP)) {
        return 2;
    }
    t->in = t->b.accepted[0];
    return 0;
}

// Sends a message from `data`; 0: it came through.
static int send_one(struct two *t, const uint8_t *data, uint32_t len) {
    struct rdi_put put = {.data = data, .len = len, .flags = RDI_PUT_ACK};
    struct rdi_msg m;
    if (t->out->ops->put(t->out, &put) != RONDO_OK) {
        return 3;
    }
    side_progress(&t->b);
    if (t->in->arrived != t->in->released + 1) {
        return 4;
    }
    t->in->ops->peek(t->in, t->in->released, &m);
    int bad = m.len != len || memcmp(m.data, data, len) != 0 ? 5 : 0;
    t->in->ops->release(t->in, t->in->arrived);
    side_sleep(&t->b, 1000000);
    side_progress(&t->a);
    return bad;
}

static void close_two(struct two *t) {
    t->out->ops->close_link(t->out, true);
    t->in->ops->close_link(t->in, true);
    side_close(&t->a);
    side_close(&t->b);
}

static bool says(const char *text, const char *word) {
    if (strstr(text, word) == NULL) {
        fprintf(stderr, "expected '%s' in: %s\n", word, text);
        return false;
    }
    return true;
}

// ---- Small /dev/shm ------------------------------------------------------------------------------

// Links and blocks larger than /dev/shm, which is not used at all.
static int use_memfd(void) {
    static struct two t;
    void *at;
    int bad = connect_two(&t, "slots=32,chunk=4M");
    if (bad != 0) {
        return bad;
    }
    if (rondo_mem_alloc(100 * MIB, &at) != RONDO_OK) {
        return 10;
    }
    memset(at, 3, 100 * MIB);
    for (int i = 0; i < 100 && bad == 0; i++) {
        bad = send_one(&t, (uint8_t *)at + (size_t)i * MIB, MIB);
    }
    if (bad != 0 || used_shm() != 0) {
        return bad != 0 ? bad : 11;
    }
    close_two(&t);
    return rondo_mem_free(at) == RONDO_OK ? 0 : 12;
}

// Without memfds the same code runs on files in /dev/shm, as long as they fit.
static int use_dev_shm(void) {
    static struct two t;
    void *at;
    if (!refuse_memfd()) {
        return 255;
    }
    int bad = connect_two(&t, "slots=8,chunk=64K");
    if (bad != 0) {
        return bad;
    }
    if (rondo_mem_alloc(MIB, &at) != RONDO_OK || used_shm() < MIB) {
        return 20;
    }
    memset(at, 3, MIB);
    for (int i = 0; i < 20 && bad == 0; i++) {
        bad = send_one(&t, (uint8_t *)at + 1000 * i, 65536);
    }
    if (bad != 0) {
        return bad;
    }
    if (shm_link_of(t.out)->lent[0].state != SHM_LENT_MAPPED) {
        return 21; // by reference too
    }
    // More than there is room for is ordinary memory, of which peers get copies.
    void *much = NULL;
    int fd;
    uint64_t id, offset, bytes, used = used_shm();
    if (rondo_mem_alloc(100 * MIB, &much) != RONDO_OK || used_shm() != used ||
        rdi_mem_find(much, 1, &fd, &id, &offset, &bytes)) {
        return 22;
    }
    memset(much, 4, 100 * MIB);
    bad = send_one(&t, (uint8_t *)much + 99 * MIB, 65536);
    if (bad != 0 || rondo_mem_free(much) != RONDO_OK) {
        return bad != 0 ? bad : 25;
    }
    // The other rank is told, too.
    struct side c, d;
    if (!side_open(&c, 0, 2, "slots=64,chunk=4M") || !side_open(&d, 1, 2, "slots=64,chunk=4M")) {
        return 23;
    }
    struct rdi_link *large = side_connect(&c, &d, 0);
    if (!side_await(&c, &d, large, RDI_LINK_FAILED) || large->status != RONDO_ERR_NOMEM ||
        !says(large->why, "rank 1") || !says(large->why, "/dev/shm has only")) {
        return 24;
    }
    large->ops->close_link(large, false);
    side_close(&c);
    side_close(&d);
    close_two(&t);
    return rondo_mem_free(at) == RONDO_OK && used_shm() == 0 ? 0 : 25;
}

// Ends as by kill -9, with files in /dev/shm.
static int die_with_dev_shm(void) {
    static struct two t;
    void *at;
    if (!refuse_memfd()) {
        return 255;
    }
    pid_t child = fork();
    if (child == 0) {
        if (connect_two(&t, "slots=8,chunk=64K") == 0 && rondo_mem_alloc(MIB, &at) == RONDO_OK &&
            used_shm() > MIB) {
            raise(SIGKILL);
        }
        _exit(1);
    }
    int status;
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status) ? 0 : 30;
}

// Neither memfds nor a /dev/shm that takes files: this transport says why it does not serve.
static int use_nothing(void) {
    struct side a;
    if (!refuse_memfd()) {
        return 255;
    }
    if (mount(NULL, "/dev/shm", NULL, MS_REMOUNT | MS_RDONLY, NULL) != 0) {
        return 40;
    }
    int bad = 0;
    if (!side_init(&a, 0, 2, NULL) || side_open_net(&a) != RONDO_ERR_UNSUPPORTED) {
        bad = 41;
    } else if (!says(rondo_last_error(), "shared memory cannot be used here") ||
               !says(rondo_last_error(), "memfd_create() is refused") ||
               !says(rondo_last_error(), "RONDO_TRANSPORT=tcp")) {
        bad = 42;
    }
    return mount(NULL, "/dev/shm", NULL, MS_REMOUNT, "size=64m") == 0 ? bad : 43;
}

static void test_memfd(void **state) {
    (void)state;
    in_child(use_memfd);
}

static void test_dev_shm(void **state) {
    (void)state;
    in_child(use_dev_shm);
}

static void test_killed(void **state) {
    (void)state;
    in_child(die_with_dev_shm);
}

static void test_nothing(void **state) {
    (void)state;
    in_child(use_nothing);
}

int main(void) {
    if (!make_small_shm()) {
        fprintf(stderr, "skipped: a mount namespace is not allowed here: %s\n", strerror(errno));
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memfd),
        cmocka_unit_test(test_dev_shm),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests_name("shm_small", tests, NULL, NULL);
}
