// SPDX-License-Identifier: MIT
// The shared-memory transport's encodings: what was written is read again, every truncation and every random
// input is refused or harmless, and packets deliver exactly the descriptors that were sent.
#include "transport/shm/layout.h"
#include "transport/shm/wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

// ---- Round trips ---------------------------------------------------------------------------------

static void test_address(void **state) {
    (void)state;
    struct shm_address a = {.pid = 4711, .uid = 1000, .user_ns = 0x123456789abcdef0u}, b;
    memset(a.host_id, 1, sizeof a.host_id);
    memset(a.name, 2, sizeof a.name);
    uint8_t blob[RDI_BLOB_MAX];
    size_t n = shm_address_write(&a, blob);
    assert_true(shm_address_parse(blob, n, &b));
    assert_memory_equal(a.host_id, b.host_id, sizeof a.host_id);
    assert_memory_equal(a.name, b.name, sizeof a.name);
    assert_int_equal(b.pid, 4711);
    assert_int_equal(b.uid, 1000);
    assert_int_equal(b.user_ns, 0x123456789abcdef0u);
    for (size_t k = 0; k < n; k++) {
        assert_false(shm_address_parse(blob, k, &b));
    }
    assert_false(shm_address_parse(blob, n + 1, &b));
}

static void test_hello(void **state) {
    (void)state;
    struct shm_hello h = {.id = {.comm = 1ull << 60, .from = 3, .to = 4, .channel = 1},
                          .slots = 8,
                          .max_msg = 4096,
                          .pid = 9},
                     out;
    uint8_t bytes[RDI_HS_PAYLOAD];
    size_t n = shm_hello_write(&h, bytes);
    assert_true(shm_hello_parse(bytes, n, &out));
    assert_int_equal(out.id.comm, 1ull << 60);
    assert_int_equal(out.id.from, 3);
    assert_int_equal(out.id.to, 4);
    assert_int_equal(out.id.channel, 1);
    for (size_t k = 0; k < n; k++) {
        assert_false(shm_hello_parse(bytes, k, &out));
    }
    const uint32_t bad[][2] = {{0, 4096}, {SHM_SLOTS_MAX + 1, 4096}, {8, 0},
                               {8, 4095}, {8, SHM_MSG_MAX + 64},     {8, 0xffffffc0u}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        h.slots = bad[i][0];
        h.max_msg = bad[i][1];
        assert_false(shm_hello_parse(bytes, shm_hello_write(&h, bytes), &out));
    }
}

static void test_reply(void **state) {
    (void)state;
    struct shm_reply r = {.status = RONDO_OK, .slots = 8, .max_msg = 64, .pid = 5}, out;
    uint8_t bytes[RDI_HS_PAYLOAD];
    assert_true(shm_reply_parse(bytes, shm_reply_write(&r, bytes), &out));
    assert_int_equal(out.max_msg, 64);
    r.max_msg = 63;
    assert_false(shm_reply_parse(bytes, shm_reply_write(&r, bytes), &out));
    r.status = RONDO_ERR_NOMEM; // a refusal needs no geometry
    memset(r.text, 'x', sizeof r.text);
    r.text[0] = '\n';
    assert_true(shm_reply_parse(bytes, shm_reply_write(&r, bytes), &out));
    assert_int_equal(out.status, RONDO_ERR_NOMEM);
    assert_int_equal(strlen(out.text), SHM_TEXT_MAX - 1); // cut, and ended
    assert_int_equal(out.text[0], ' ');
    r.status = RONDO_AGAIN; // neither success nor a failure
    assert_false(shm_reply_parse(bytes, shm_reply_write(&r, bytes), &out));
    r.status = (rondo_status)-99;
    assert_false(shm_reply_parse(bytes, shm_reply_write(&r, bytes), &out));
}

static void test_records(void **state) {
    (void)state;
    static const size_t fds[] = {0, 3, 2, 0, 1, 0, 0, 0};
    for (unsigned type = 0; type < 8; type++) {
        struct shm_record r = {.type = (enum shm_record_type)type, .handle = 7, .value = 1}, out;
        uint8_t bytes[SHM_RECORD_MAX];
        size_t n = shm_record_write(&r, bytes);
        bool known = type >= SHM_REGION && type <= SHM_TAKE_BACK;
        for (size_t k = 0; k < 5; k++) {
            assert_int_equal(shm_record_parse(bytes, n, k, &out), known && k == fds[type]);
        }
        assert_false(shm_record_parse(bytes, n - 1, fds[type], &out));
        if (type != SHM_VERDICT) {
            assert_false(shm_record_parse(bytes, n + 1, fds[type], &out));
        }
    }
    struct shm_record verdict = {SHM_VERDICT, .value = 17}, out; // there is no status -17
    uint8_t bytes[SHM_RECORD_MAX];
    assert_false(shm_record_parse(bytes, shm_record_write(&verdict, bytes), 0, &out));
    verdict.value = UINT64_MAX;
    assert_false(shm_record_parse(bytes, shm_record_write(&verdict, bytes), 0, &out));
}

// Random bytes, and valid ones with a few changed; whatever is accepted keeps its promises.
static void test_noise(void **state) {
    (void)state;
    uint64_t random = 99;
    struct shm_hello hello = {.slots = 8, .max_msg = 4096};
    for (unsigned i = 0; i < 200000; i++) {
        uint8_t bytes[RDI_HS_PAYLOAD] = {0};
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t n = (random >> 30) % 64;
        if (i % 2 == 0) {
            n = shm_hello_write(&hello, bytes);
        }
        for (unsigned k = 0; k < (i % 2 == 0 ? 3 : n); k++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            bytes[(random >> 40) % (n + 1)] = (uint8_t)(random >> 50);
        }
        uint8_t exact[64];
        memcpy(exact + sizeof exact - n, bytes, n);
        const uint8_t *at = exact + sizeof exact -
                            n; // the end of the array is the end of the bytes
        struct shm_hello h;
        struct shm_reply r;
        struct shm_record rec;
        struct shm_address a;
        if (shm_hello_parse(at, n, &h)) {
            assert_in_range(h.slots, 1, SHM_SLOTS_MAX);
            assert_in_range(h.max_msg, 64, SHM_MSG_MAX);
            assert_in_range(shm_region_bytes(h.slots, h.max_msg), 1, (size_t)1 << 37);
        }
        if (shm_reply_parse(at, n, &r)) {
            assert_true(strlen(r.text) < SHM_TEXT_MAX);
        }
        if (shm_record_parse(at, n, (random >> 55) % 4, &rec)) {
            assert_in_range(rec.type, SHM_REGION, SHM_TAKE_BACK);
        }
        (void)shm_address_parse(at, n, &a);
    }
}

// The parts of a region do not overlap and fill it.
static void test_layout(void **state) {
    (void)state;
    static const uint32_t slots[] = {1, 2, 7, 64, SHM_SLOTS_MAX};
    for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++) {
        for (uint32_t max_msg = 64; max_msg <= 1u << 20; max_msg *= 4) {
            struct shm_region r;
            uint8_t *base = (uint8_t *)4096; // never touched
            shm_region_set(&r, base, slots[i], max_msg);
            assert_true((uint8_t *)r.slots >= (uint8_t *)(r.head + 1));
            assert_true(r.data >= (uint8_t *)(r.slots + slots[i]));
            assert_int_equal((uintptr_t)r.data % 4096, 0);
            assert_true(r.data_stride >= max_msg);
            assert_ptr_equal(r.data + slots[i] * r.data_stride, base + r.bytes);
        }
    }
}

// ---- Packets -------------------------------------------------------------------------------------

static unsigned count_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;
    while (readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n;
}

static void test_packets(void **state) {
    (void)state;
    unsigned before = count_fds();
    int wire[2], fds[8] = {0, 1, 2, 0, 1, 2, 0, 1}, got[SHM_FDS_MAX];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, wire),
                     0);
    uint8_t bytes[64];
    size_t n, n_fds;
    assert_int_equal(shm_packet_receive(wire[1], bytes, sizeof bytes, &n, got, &n_fds), EAGAIN);
    assert_int_equal(shm_packet_send(wire[0], "one", 3, NULL, 0), 0);
    assert_int_equal(shm_packet_send(wire[0], "three", 5, fds, 3), 0);
    assert_int_equal(shm_packet_receive(wire[1], bytes, sizeof bytes, &n, got, &n_fds), 0);
    assert_int_equal(n, 3);
    assert_int_equal(n_fds, 0);
    assert_int_equal(shm_packet_receive(wire[1], bytes, sizeof bytes, &n, got, &n_fds), 0);
    assert_int_equal(n, 5);
    assert_int_equal(n_fds, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(fcntl(got[i], F_GETFD), FD_CLOEXEC);
        close(got[i]);
    }
    // More bytes than there is room for; more descriptors than a record has.
    assert_int_equal(shm_packet_send(wire[0], "a long packet", 13, fds, 1), 0);
    assert_int_equal(shm_packet_receive(wire[1], bytes, 5, &n, got, &n_fds), EMSGSIZE);
    union {
        char room[CMSG_SPACE(sizeof fds)];
        struct cmsghdr align;
    } control;
    for (size_t many = 4; many <= 8; many++) {
        memset(&control, 0, sizeof control);
        struct iovec iov = {bytes, 4};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.room,
                           .msg_controllen = CMSG_SPACE(sizeof(int) * many)};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS,
                              .cmsg_len = CMSG_LEN(sizeof(int) * many)};
        memcpy(CMSG_DATA(c), fds, sizeof(int) * many);
        assert_int_equal(sendmsg(wire[0], &m, 0), 4);
        int err = shm_packet_receive(wire[1], bytes, sizeof bytes, &n, got, &n_fds);
        assert_int_equal(err, many == 4 ? 0 : EMSGSIZE);
        while (n_fds > 0) {
            close(got[--n_fds]);
        }
    }
    close(wire[0]);
    assert_int_equal(shm_packet_receive(wire[1], bytes, sizeof bytes, &n, got, &n_fds), EPIPE);
    assert_int_equal(shm_packet_send(wire[1], "x", 1, NULL, 0), EPIPE); // and no SIGPIPE
    close(wire[1]);
    assert_int_equal(count_fds(), before);
}

// No room for the descriptors: the bytes arrive nevertheless, and nothing leaks.
static int receive_without_room(void) {
    int wire[2], fds[2] = {0, 1}, got[SHM_FDS_MAX];
    uint8_t bytes[64];
    size_t n, n_fds;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, wire) != 0) {
        return 1;
    }
    unsigned before = count_fds();
    struct rlimit r = {(rlim_t)wire[1] + 2, (rlim_t)wire[1] + 2}; // room for one
    if (setrlimit(RLIMIT_NOFILE, &r) != 0 || shm_packet_send(wire[0], "abc", 3, fds, 2) != 0) {
        return 2;
    }
    if (shm_packet_receive(wire[1], bytes, sizeof bytes, &n, got, &n_fds) != EMFILE || n != 3 ||
        memcmp(bytes, "abc", 3) != 0 || n_fds != 0) {
        return 3;
    }
    return count_fds() == before ? 0 : 4;
}

static void test_no_room(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        _exit(receive_without_room());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_address), cmocka_unit_test(test_hello),
        cmocka_unit_test(test_reply),   cmocka_unit_test(test_records),
        cmocka_unit_test(test_noise),   cmocka_unit_test(test_layout),
        cmocka_unit_test(test_packets), cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests_name("shm_wire", tests, NULL, NULL);
}
