// SPDX-License-Identifier: MIT
// A tcp net on a machine that gives it less than it wants: no descriptors, no such interface.
#include "tests/unit/tcp_pair.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LO "interface=lo"

// ---- Out of descriptors --------------------------------------------------------------------------

// Leaves room for `more` descriptors beyond those that are open; -1: as many as may be.
static void limit_descriptors(int more) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        abort();
    }
    if (more < 0) {
        return;
    }
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    limit.rlim_cur = (rlim_t)(fd + more);
    close(fd);
    if (fd < 0 || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        abort();
    }
}

static void in_child(void (*body)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        body();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void need(bool ok, int code) {
    if (!ok) {
        fprintf(stderr, "child: check %d failed: %s\n", code, rondo_last_error());
        _exit(code);
    }
}

static bool names_the_remedy(const char *text) {
    return strstr(text, "file descriptors") != NULL && strstr(text, "ulimit -n") != NULL;
}

static void open_without_descriptors(void) {
    // The interfaces are listed through a descriptor too, so the limit comes in several places.
    for (int more = 0; more < 4; more++) {
        struct side s;
        side_prepare(&s, 0, LO ",family=ipv4");
        limit_descriptors(more);
        rondo_status status = rdi_tcp_ops.open(&s.params, &s.net);
        limit_descriptors(-1);
        if (status == RONDO_OK) {
            s.net->ops->close(s.net);
            need(more == 3, 1);
            return;
        }
        need(status == RONDO_ERR_SYSTEM, 2);
        need(more == 0 || names_the_remedy(rondo_last_error()), 3);
    }
    need(false, 4);
}

static void connect_without_descriptors(void) {
    struct side a, b;
    side_prepare(&a, 0, LO ",tcp_sockets=2");
    side_prepare(&b, 1, LO);
    side_open(&a);
    side_open(&b);
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    b.net->ops->address(b.net, blob, &len);
    struct rdi_link_id id = {.comm = 1, .from = 0, .to = 1};
    struct rdi_link *link = NULL;
    for (int more = 0; more < 2; more++) {
        limit_descriptors(more);
        need(a.net->ops->connect(a.net, &id, blob, len, &link) == RONDO_ERR_SYSTEM, 1);
        need(names_the_remedy(rondo_last_error()), 2);
        need(strstr(rondo_last_error(), "rank 1 on host hostb") != NULL, 3);
    }
    // Nothing was leaked, so two sockets are enough.
    limit_descriptors(2);
    need(a.net->ops->connect(a.net, &id, blob, len, &link) == RONDO_OK, 4);
    link->ops->close_link(link, false);
    a.net->ops->close(a.net);
    b.net->ops->close(b.net);
}

static void test_no_descriptor_to_open(void **state) {
    (void)state;
    in_child(open_without_descriptors);
}

static void test_no_descriptor_to_connect(void **state) {
    (void)state;
    in_child(connect_without_descriptors);
}

// The acceptor runs out: the peer is told why, within seconds; when descriptors come back, so do connections.
static void child_accepts(int fd) {
    struct side s;
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    side_prepare(&s, 1, LO);
    side_open(&s);
    s.net->ops->address(s.net, blob, &len);
    limit_descriptors(0);
    need(send(fd, blob, len, 0) == (ssize_t)len, 1);
    bool lines = false;
    for (;;) {
        char word;
        ssize_t k = recv(fd, &word, 1, MSG_DONTWAIT);
        if (k == 0) {
            _exit(lines ? 0 : 2);
        }
        if (k == 1) {
            limit_descriptors(-1);
        }
        s.net->ops->progress(s.net, false);
        lines = lines || names_the_remedy(s.last_line);
        usleep(500);
    }
}

static void test_no_descriptor_to_accept(void **state) {
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(fds[0]);
        child_accepts(fds[1]);
    }
    close(fds[1]);
    struct pair p = {0};
    side_prepare(&p.side[0], 0, LO ",connect_timeout=60s");
    side_open(&p.side[0]);
    uint8_t blob[RDI_BLOB_MAX];
    ssize_t len = recv(fds[0], blob, sizeof blob, 0);
    assert_true(len > 0);
    struct rdi_link_id id = {.comm = 1, .from = 0, .to = 1};
    struct rdi_net *net = p.side[0].net;
    assert_int_equal(net->ops->connect(net, &id, blob, (size_t)len, &p.link), RONDO_OK);
    uint64_t start = pair_now();
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_true(pair_now() - start < 30000 * RDI_MS);
    assert_int_equal(p.link->status, RONDO_ERR_SYSTEM);
    assert_true(names_the_remedy(p.link->why));
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb"));
    p.link->ops->close_link(p.link, false);

    // A link that begins while there are none, and gets one before patience ends.
    id.comm = 2;
    assert_int_equal(net->ops->connect(net, &id, blob, (size_t)len, &p.link), RONDO_OK);
    start = pair_now();
    pair_drive_until(&p, pair_now() - start > 300 * RDI_MS);
    assert_int_equal(p.link->state, RDI_LINK_CONNECTING);
    assert_int_equal(send(fds[0], "+", 1, 0), 1);
    pair_drive_until(&p, p.link->state != RDI_LINK_CONNECTING);
    assert_int_equal(p.link->state, RDI_LINK_UP);
    close(fds[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    pair_close(&p);
}

// ---- Options -------------------------------------------------------------------------------------

static void test_wrong_interface(void **state) {
    (void)state;
    struct side s;
    side_prepare(&s, 0, "interface=nosuch0");
    assert_int_equal(rdi_tcp_ops.open(&s.params, &s.net), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "nosuch0"));
    assert_non_null(strstr(rondo_last_error(), "lo"));
    assert_null(s.net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_descriptor_to_open),
        cmocka_unit_test(test_no_descriptor_to_connect),
        cmocka_unit_test(test_no_descriptor_to_accept),
        cmocka_unit_test(test_wrong_interface),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
