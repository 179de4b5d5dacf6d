// SPDX-License-Identifier: MIT
// What rank 0 tells through its launcher: the text, and PMI-1 against a server that does everything right or one thing
// wrong.
#include "transport/bootstrap/point.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

// ---- The text -----------------------------------------------------------------------------------

static void same(const struct rdi_point *p) {
    struct rdi_point q;
    char text[RDI_POINT_TEXT];
    rdi_point_encode(p, text);
    // What PMI allows in a value, less what separates words.
    for (const char *c = text; *c != '\0'; c++) {
        assert_true(*c > 32 && *c < 127 && *c != '=' && *c != ';');
    }
    const char *wrong = rdi_point_decode(text, &q);
    if (wrong != NULL) {
        fail_msg("%s: %s", text, wrong);
    }
    assert_int_equal(q.port, p->port);
    assert_int_equal(q.has_key, p->has_key);
    assert_memory_equal(q.key, p->key, sizeof q.key);
    assert_string_equal(q.hosts, p->hosts);
    assert_string_equal(q.reason, p->reason);
}

static void test_text(void **state) {
    (void)state;
    struct rdi_point p = {.port = 65535, .has_key = true, .hosts = "10.0.0.1,fd00::2"};
    memset(p.key, 0xa5, sizeof p.key);
    same(&p);
    same(&(struct rdi_point){.port = 1, .hosts = "127.0.0.1"});
    struct rdi_point failed = {.port = 0, .reason = "port 80 / is = taken; no, really: \xc3\xa4"};
    same(&failed);
    memset(failed.reason, 'r', sizeof failed.reason - 1);
    same(&failed);
    struct rdi_point longest = p;
    memset(longest.hosts, '1', sizeof longest.hosts - 1);
    same(&longest);
}

// Rank 0 with nothing to tell says so, and not an address that leads others to themselves.
static void test_no_addresses(void **state) {
    (void)state;
    struct rdi_options o;
    struct rdi_point p;
    uint8_t key[RDI_KEY_BYTES] = {1};
    struct rdi_launch l = {.size = 2};
    assert_int_equal(rdi_options_load(&o, "interface=nosuch0", getenv), RONDO_OK);
    rdi_point_make(&o, &l, 29400, key, &p);
    assert_int_equal(p.port, 0);
    assert_false(p.has_key);
    assert_non_null(strstr(p.reason, "nosuch0"));
    l.single_host = true;
    rdi_point_make(&o, &l, 29400, key, &p);
    assert_int_equal(p.port, 29400);
    assert_true(p.has_key);
    assert_string_equal(p.hosts, "127.0.0.1");
}

static void test_wrong_texts(void **state) {
    (void)state;
    struct rdi_point p;
    static const struct {
        const char *text, *wrong;
    } bad[] = {
        {"", "the version"},
        {"rondo2/1/-/1.2.3.4/-", "the version"},
        {"rondo1/", "the port"},
        {"rondo1/x/-/1.2.3.4/-", "the port"},
        {"rondo1/65536/-/1.2.3.4/-", "the port"},
        {"rondo1/123456/-/1.2.3.4/-", "the port"},
        {"rondo1/1", "the key"},
        {"rondo1/1/00/1.2.3.4/-", "the key"},
        {"rondo1/1/xx00000000000000000000000000000000000000000000000000000000000000/1/-",
         "the key"},
        {"rondo1/1/-", "the addresses"},
        {"rondo1/1/-/-/-", "the addresses"},
        {"rondo1/0/-/1.2.3.4/-", "the addresses"},
        {"rondo1/1/-/host name/-", "the addresses"},
        {"rondo1/1/-/1.2.3.4", "the reason"},
        {"rondo1/1/-/1.2.3.4/0", "the reason"},
        {"rondo1/1/-/1.2.3.4/-/", "the reason"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *wrong = rdi_point_decode(bad[i].text, &p);
        if (wrong == NULL || strcmp(wrong, bad[i].wrong) != 0) {
            fail_msg("'%s': %s", bad[i].text, wrong != NULL ? wrong : "accepted");
        }
    }
}

static void test_words(void **state) {
    (void)state;
    char out[8];
    const char *line = "cmd=get_result rc=0 value=abc empty= key=value=x long=12345678\n";
    assert_true(rdi_pmi_word(line, "rc", out, sizeof out));
    assert_string_equal(out, "0");
    assert_true(rdi_pmi_word(line, "value", out, sizeof out));
    assert_string_equal(out, "abc");
    assert_true(rdi_pmi_word(line, "empty", out, sizeof out));
    assert_string_equal(out, "");
    assert_true(rdi_pmi_word(line, "key", out, sizeof out));
    assert_string_equal(out, "value=x");
    assert_false(rdi_pmi_word(line, "long", out, sizeof out));
    assert_false(rdi_pmi_word(line, "ke", out, sizeof out));
    assert_false(rdi_pmi_word("", "cmd", out, sizeof out));
}

// ---- A server -----------------------------------------------------------------------------------

#define RANKS 3

static struct {
    int fd[RANKS]; // the server's ends
    const char *from,
        *instead; // an answer that begins so, and what is said instead; "" hang up, NULL nothing
    bool deaf;    // says nothing in its place
    char value[RDI_POINT_TEXT + 64];
    int waiting;
    bool finalized[RANKS];
} server;

static void answer(int r, const char *text) {
    char line[RDI_POINT_TEXT + 128];
    snprintf(line, sizeof line, "%s\n", text);
    if (server.from != NULL && strncmp(text, server.from, strlen(server.from)) == 0) {
        if (server.deaf) {
            return;
        }
        if (server.instead[0] == '\0') {
            shutdown(server.fd[r], SHUT_RDWR);
            return;
        }
        snprintf(line, sizeof line, "%s\n", server.instead);
    }
    for (size_t i = 0, n = strlen(line); i < n; i++) {
        (void)!send(server.fd[r], line + i, 1, MSG_NOSIGNAL);
    }
}

static void serve_line(int r, const char *line) {
    char name[64] = "", text[RDI_POINT_TEXT + 128];
    assert_true(rdi_pmi_word(line, "cmd", name, sizeof name));
    if (strcmp(name, "init") == 0) {
        answer(r, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0");
    } else if (strcmp(name, "get_my_kvsname") == 0) {
        answer(r, "cmd=my_kvsname kvsname=kvs_7_0");
    } else if (strcmp(name, "put") == 0) {
        assert_true(rdi_pmi_word(line, "value", server.value, sizeof server.value));
        answer(r, "cmd=put_result rc=0 msg=success");
    } else if (strcmp(name, "barrier_in") == 0) {
        if (++server.waiting == RANKS) {
            for (int i = 0; i < RANKS; i++) {
                answer(i, "cmd=barrier_out");
            }
        }
    } else if (strcmp(name, "get") == 0) {
        snprintf(text, sizeof text,
                 server.value[0] != '\0' ? "cmd=get_result rc=0 msg=success value=%s"
                                         : "cmd=get_result rc=-1 msg=key_not_found value=unknown",
                 server.value);
        answer(r, text);
    } else if (strcmp(name, "finalize") == 0) {
        server.finalized[r] = true;
        answer(r, "cmd=finalize_ack");
    }
}

static void *serve(void *arg) {
    (void)arg;
    static char lines[RANKS][2048];
    size_t used[RANKS] = {0};
    int open = RANKS;
    while (open > 0) {
        struct pollfd p[RANKS];
        for (int r = 0; r < RANKS; r++) {
            p[r] = (struct pollfd){.fd = server.fd[r], .events = POLLIN};
        }
        poll(p, RANKS, -1);
        for (int r = 0; r < RANKS; r++) {
            if (p[r].revents == 0) {
                continue;
            }
            if (recv(server.fd[r], lines[r] + used[r], 1, 0) != 1) {
                close(server.fd[r]);
                server.fd[r] = -1;
                open--;
            } else if (lines[r][used[r]++] == '\n') {
                lines[r][used[r]] = '\0';
                used[r] = 0;
                serve_line(r, lines[r]);
            }
        }
    }
    return NULL;
}

static struct rank {
    int fd, number, timeout_ms;
    rondo_status status;
    char text[RDI_POINT_TEXT], error[RDI_ERROR_TEXT];
} ranks[RANKS];

static void *run_rank(void *arg) {
    struct rank *r = arg;
    struct rdi_env env;
    rdi_env_system(&env, NULL, NULL);
    r->status = rdi_pmi_share(r->fd, r->number, &env, r->timeout_ms,
                              r->number == 0 ? "rondo1/7/-/10.0.0.1/-" : NULL, r->text,
                              sizeof r->text);
    snprintf(r->error, sizeof r->error, "%s", rondo_last_error());
    close(r->fd);
    return NULL;
}

static void run_all(int timeout_ms) {
    pthread_t threads[RANKS], serving;
    server.waiting = 0;
    server.value[0] = '\0';
    for (int r = 0; r < RANKS; r++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        server.fd[r] = pair[0];
        server.finalized[r] = false;
        ranks[r] = (struct rank){.fd = pair[1], .number = r, .timeout_ms = timeout_ms};
    }
    assert_int_equal(pthread_create(&serving, NULL, serve, NULL), 0);
    for (int r = 0; r < RANKS; r++) {
        assert_int_equal(pthread_create(&threads[r], NULL, run_rank, &ranks[r]), 0);
    }
    for (int r = 0; r < RANKS; r++) {
        pthread_join(threads[r], NULL);
    }
    pthread_join(serving, NULL);
}

static void test_pmi(void **state) {
    (void)state;
    server.from = NULL;
    run_all(60000);
    for (int r = 0; r < RANKS; r++) {
        if (ranks[r].status != RONDO_OK) {
            fail_msg("%s", ranks[r].error);
        }
        assert_string_equal(ranks[r].text, "rondo1/7/-/10.0.0.1/-");
        assert_true(server.finalized[r]);
    }
}

static void test_wrong_servers(void **state) {
    (void)state;
    static const struct {
        const char *from, *instead, *word1, *word2;
    } cases[] = {
        {"cmd=response_to_init", "cmd=response_to_init rc=-1", "code -1", "introducing"},
        {"cmd=response_to_init", "HTTP/1.1 400 Bad Request", "the answer is ''", "introducing"},
        {"cmd=response_to_init", "", "the connection ended", "introducing"},
        {"cmd=my_kvsname", "cmd=my_kvsname", "no name for its PMI store", ""},
        {"cmd=barrier_out", "cmd=barrier_out rc=1", "code 1", "waiting for the other ranks"},
        {"cmd=get_result", "cmd=get_result rc=0", "told nothing by rank 0", ""},
        {"cmd=get_result", "cmd=get_result rc=-1 value=unknown", "code -1", "where to meet"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        server.from = cases[i].from;
        server.instead = cases[i].instead;
        run_all(60000);
        for (int r = 0; r < RANKS; r++) {
            assert_int_equal(ranks[r].status, RONDO_ERR_BOOTSTRAP);
            if (strstr(ranks[r].error, cases[i].word1) == NULL ||
                strstr(ranks[r].error, cases[i].word2) == NULL) {
                fail_msg("case %zu: %s", i, ranks[r].error);
            }
        }
    }
}

static void test_silence(void **state) {
    (void)state;
    server.from = "cmd=barrier_out"; // as if a rank had not come
    server.instead = "";
    server.deaf = true;
    run_all(200);
    server.deaf = false;
    for (int r = 0; r < RANKS; r++) {
        assert_int_equal(ranks[r].status, RONDO_ERR_TIMEOUT);
        assert_non_null(strstr(ranks[r].error, "waiting for the other ranks"));
    }
}

// ---- What may be used ---------------------------------------------------------------------------

static const char *pmi_fd;
static char *fake_getenv(const char *name) {
    return strcmp(name, "PMI_FD") == 0 && pmi_fd != NULL ? (char *)(uintptr_t)pmi_fd : NULL;
}

static void test_usable(void **state) {
    (void)state;
    const char *why = NULL;
    char number[16];
    int fd, pair[2], pipes[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(pipe(pipes), 0);
    static const char *const none[] = {NULL, "", "-1", "x", "1234567890"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        pmi_fd = none[i];
        assert_false(rdi_pmi_usable(fake_getenv, &fd, &why));
        assert_non_null(strstr(why, "not the number"));
    }
    pmi_fd = number;
    snprintf(number, sizeof number, "%d", pair[0]);
    assert_true(rdi_pmi_usable(fake_getenv, &fd, &why));
    assert_int_equal(fd, pair[0]);
    snprintf(number, sizeof number, "%d", pipes[0]); // somebody else's
    assert_false(rdi_pmi_usable(fake_getenv, &fd, &why));
    assert_non_null(strstr(why, "no open socket"));
    close(pair[0]);
    snprintf(number, sizeof number, "%d", pair[0]);
    assert_false(rdi_pmi_usable(fake_getenv, &fd, &why));
    close(pair[1]);
    close(pipes[0]);
    close(pipes[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),          cmocka_unit_test(test_wrong_texts),
        cmocka_unit_test(test_words),         cmocka_unit_test(test_pmi),
        cmocka_unit_test(test_wrong_servers), cmocka_unit_test(test_silence),
        cmocka_unit_test(test_usable),        cmocka_unit_test(test_no_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
