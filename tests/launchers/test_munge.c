// SPDX-License-Identifier: MIT
// The job's key by munge, with the mock in place of libmunge.so.2 (mock_munge.c, on LD_LIBRARY_PATH): which credentials
// count, and a herald among strangers.
#include "transport/bootstrap/munge.h"
#include "transport/bootstrap/point.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static struct rdi_env env;

static int setup(void **state) {
    (void)state;
    unsetenv("MOCK_MUNGE_UID");
    unsetenv("MOCK_MUNGE_STATUS");
    unsetenv("MOCK_MUNGE_DEAD");
    rdi_env_system(&env, NULL, NULL);
    return 0;
}

// ---- Credentials --------------------------------------------------------------------------------

static void opens(const char *cred, const char *text) {
    char out[64];
    const char *wrong = rdi_munge_open(cred, out, sizeof out);
    if (wrong != NULL) {
        fail_msg("%s: %s", cred, wrong);
    }
    assert_string_equal(out, text);
}

static void refuses(const char *cred, const char *word) {
    char out[64] = "untouched";
    const char *wrong = rdi_munge_open(cred, out, sizeof out);
    if (wrong == NULL || strstr(wrong, word) == NULL) {
        fail_msg("%s: %s", cred, wrong != NULL ? wrong : out);
    }
    assert_string_equal(out, "untouched");
}

static void test_credentials(void **state) {
    (void)state;
    char cred[RDI_MUNGE_CRED], other[RDI_MUNGE_CRED];
    assert_int_equal(rdi_munge_seal("the text", cred), RONDO_OK);
    snprintf(other, sizeof other, "MUNGE:%d:%d:5:7468652074657874:", (int)geteuid(),
             (int)geteuid());
    assert_string_equal(cred, other); // for this user only, and encrypted
    opens(cred, "the text");
    setenv("MOCK_MUNGE_STATUS", "17", 1); // somebody on this host opened it before
    opens(cred, "the text");
    setenv("MOCK_MUNGE_STATUS", "15", 1); // the hosts' clocks differ
    opens(cred, "the text");
    setenv("MOCK_MUNGE_STATUS", "16", 1);
    opens(cred, "the text");
    setenv("MOCK_MUNGE_STATUS", "14", 1);
    refuses(cred, "MOCK-INVALID");
    unsetenv("MOCK_MUNGE_STATUS");
    refuses("", "MOCK-INVALID");
    refuses("HTTP/1.1 400 Bad Request", "MOCK-INVALID");
    snprintf(other, sizeof other, "MUNGE:%d:%d:5:7400:", (int)geteuid(), (int)geteuid());
    refuses(other, "no text");
    // Another user's, for us; ours for all; ours, but readable; another user's for himself.
    snprintf(other, sizeof other, "MUNGE:%d:%d:5:7468:", (int)geteuid() + 1, (int)geteuid());
    refuses(other, "not of this user");
    snprintf(other, sizeof other, "MUNGE:%d:-1:5:7468:", (int)geteuid());
    refuses(other, "for this user");
    snprintf(other, sizeof other, "MUNGE:%d:%d:0:7468:", (int)geteuid(), (int)geteuid());
    refuses(other, "for this user");
    snprintf(other, sizeof other, "MUNGE:%d:%d:5:7468:", (int)geteuid() + 1, (int)geteuid() + 1);
    refuses(other, "MOCK-UNAUTHORIZED");
}

static void test_no_daemon(void **state) {
    (void)state;
    char cred[RDI_MUNGE_CRED];
    setenv("MOCK_MUNGE_DEAD", "1", 1);
    assert_int_equal(rdi_munge_seal("the text", cred), RONDO_ERR_UNSUPPORTED);
    assert_non_null(strstr(rondo_last_error(), "MOCK-SOCKET"));
}

static void choose(bool works, const char *word) {
    struct rdi_launch l = {.size = 2, .host = "n1", .offered = RDI_VIA_MUNGE};
    char why[RDI_ERROR_TEXT];
    assert_int_equal(rdi_point_choose(&l, getenv, 1000, why, sizeof why), RONDO_OK);
    assert_int_equal(l.via, works ? RDI_VIA_MUNGE : RDI_VIA_NONE);
    if (strstr(why, word) == NULL) {
        fail_msg("%s", why);
    }
}

// It is used only where this host opens what it makes.
static void test_choice(void **state) {
    (void)state;
    char other[16];
    choose(true, "");
    setenv("MOCK_MUNGE_STATUS", "17", 1);
    choose(true, "");
    setenv("MOCK_MUNGE_STATUS", "14", 1);
    choose(false, "munge: munge does not open what it made itself: MOCK-INVALID");
    unsetenv("MOCK_MUNGE_STATUS");
    snprintf(other, sizeof other, "%d", (int)geteuid() + 1);
    setenv("MOCK_MUNGE_UID", other, 1);
    choose(false, "not of this user");
    setenv("MOCK_MUNGE_DEAD", "1", 1);
    choose(false, "MOCK-SOCKET");
}

// ---- The herald ---------------------------------------------------------------------------------

static struct rdi_herald *herald_of(const char *text, int *port) {
    struct rdi_herald *h = NULL;
    char cred[RDI_MUNGE_CRED];
    assert_int_equal(rdi_munge_seal(text, cred), RONDO_OK);
    assert_int_equal(rdi_herald_start("127.0.0.1", 0, 0, cred, &h), RONDO_OK);
    *port = rdi_herald_port(h);
    return h;
}

static rondo_status ask(int port, const char *id, int timeout_ms, char text[64]) {
    const struct rdi_herald_question q = {"127.0.0.1", port, id, 3, timeout_ms};
    return rdi_herald_ask(&q, &env, text, 64);
}

static void ask_in_vain(int port, const char *id, const char *word) {
    char text[64];
    assert_int_equal(ask(port, id, 300, text), RONDO_ERR_TIMEOUT);
    if (strstr(rondo_last_error(), word) == NULL ||
        strstr(rondo_last_error(), "rank 3 could not get the job's key") == NULL) {
        fail_msg("%s", rondo_last_error());
    }
}

static int connect_to(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void test_herald(void **state) {
    (void)state;
    int port, strangers[50];
    char text[64];
    struct rdi_herald *h = herald_of("12.0/4 where and what", &port);
    assert_int_equal(ask(port, "12.0/4", 60000, text), RONDO_OK);
    assert_string_equal(text, "where and what");
    // Strangers that stay, that talk, and that go hold nobody up.
    for (int i = 0; i < 50; i++) {
        strangers[i] = connect_to(port);
        if (i % 3 == 1) {
            (void)!send(strangers[i], "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
        } else if (i % 3 == 2) {
            close(strangers[i]);
        }
    }
    assert_int_equal(ask(port, "12.0/4", 60000, text), RONDO_OK);
    ask_in_vain(port, "12.1/4", "another job of yours");
    ask_in_vain(port, "12.0", "another job of yours");
    rdi_herald_stop(h);
    for (int i = 0; i < 50; i++) {
        if (i % 3 != 2) {
            close(strangers[i]);
        }
    }
    ask_in_vain(port, "12.0/4", "no connection: Connection refused");
}

static volatile sig_atomic_t handled;
static void handle(int number) { handled = number; }

// A signal that no thread of the program takes just now waits, and is not the herald's.
static void test_signals(void **state) {
    (void)state;
    int port;
    sigset_t one, before;
    struct sigaction action = {.sa_handler = handle}, was;
    struct rdi_herald *h = herald_of("1 where", &port);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigaction(SIGUSR1, &action, &was);
    pthread_sigmask(SIG_BLOCK, &one, &before);
    kill(getpid(), SIGUSR1);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); // for a thread that would take it
    assert_int_equal(sigtimedwait(&one, NULL, &(struct timespec){.tv_sec = 1}), SIGUSR1);
    assert_int_equal(handled, 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sigaction(SIGUSR1, &was, NULL);
    rdi_herald_stop(h);
}

// Another job's ranks meet at this port, and have met soon.
static void *stop_soon(void *arg) {
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    rdi_herald_stop(arg);
    return NULL;
}

static void test_busy_port(void **state) {
    (void)state;
    int port;
    char text[64];
    pthread_t thread;
    struct rdi_herald *h = herald_of("1 first", &port), *next = NULL;
    assert_int_equal(rdi_herald_start("127.0.0.1", port, 0, "text", &next), RONDO_ERR_BOOTSTRAP);
    assert_non_null(strstr(rondo_last_error(), "in use"));
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, h), 0);
    char cred[RDI_MUNGE_CRED];
    assert_int_equal(rdi_munge_seal("2 second", cred), RONDO_OK);
    assert_int_equal(rdi_herald_start("127.0.0.1", port, 60000, cred, &next), RONDO_OK);
    pthread_join(thread, NULL);
    assert_int_equal(ask(port, "2", 60000, text), RONDO_OK);
    assert_string_equal(text, "second");
    rdi_herald_stop(next);
}

static void test_name(void **state) {
    (void)state;
    char text[64];
    const struct rdi_herald_question q = {"no-such-host.invalid", 7, "1", 3, 300};
    assert_int_equal(rdi_herald_ask(&q, &env, text, sizeof text), RONDO_ERR_TIMEOUT);
    assert_non_null(strstr(rondo_last_error(), "cannot be resolved"));
    assert_non_null(strstr(rondo_last_error(), "MASTER_ADDR"));
}

// A port on which something else answers: with so many bytes, then the end, or nothing more.
struct impostor {
    int listener, port;
    size_t bytes;
    bool stays;
    pthread_t thread;
};

static void *pretend(void *arg) {
    struct impostor *m = arg;
    int last = -1;
    for (;;) {
        int fd = accept(m->listener, NULL, NULL);
        if (last >= 0) {
            close(last);
        }
        last = fd;
        if (fd < 0) {
            return NULL;
        }
        for (size_t i = 0; i < m->bytes; i++) {
            (void)!send(fd, "x", 1, MSG_NOSIGNAL);
        }
        if (!m->stays) {
            shutdown(fd, SHUT_RDWR);
        }
    }
}

static void against(size_t bytes, bool stays, const char *word) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct impostor m = {.bytes = bytes, .stays = stays};
    socklen_t len = sizeof a;
    m.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(m.listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(m.listener, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(listen(m.listener, 16), 0);
    assert_int_equal(pthread_create(&m.thread, NULL, pretend, &m), 0);
    ask_in_vain(ntohs(a.sin_port), "12.0/4", word);
    shutdown(m.listener, SHUT_RDWR);
    pthread_join(m.thread, NULL);
    close(m.listener);
}

static void test_impostors(void **state) {
    (void)state;
    against(0, false, "MOCK-INVALID");
    against(100, false, "munge does not accept what is said there");
    against(0, true, "the connection broke: Connection timed out");
    against(RDI_MUNGE_CRED, true, "something else answers there");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_credentials, setup),
        cmocka_unit_test_setup(test_no_daemon, setup),
        cmocka_unit_test_setup(test_choice, setup),
        cmocka_unit_test_setup(test_herald, setup),
        cmocka_unit_test_setup(test_signals, setup),
        cmocka_unit_test_setup(test_busy_port, setup),
        cmocka_unit_test_setup(test_name, setup),
        cmocka_unit_test_setup(test_impostors, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
