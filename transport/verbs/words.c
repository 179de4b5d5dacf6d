// SPDX-License-Identifier: MIT
// Completion statuses in words, and the units of the InfiniBand specification.
#include "transport/verbs/device.h"

#define CABLE "see the port's state and error counters (rondo-doctor, rdma statistic)"

struct words {
    const char *text, *remedy;
};

// By number, so that a status which only newer headers name has its words here too.
static const struct words statuses[] = {
    [0] = {"success", "nothing is wrong"},
    [1] = {"local length error: a message and the buffer that it was posted with do not agree",
           "run the same release of Rondo on all ranks; if they do, report this"},
    [2] = {"local queue pair error: the device found a work request that it cannot do, or its port"
           " went down while it worked",
           "see whether the port is up (rondo-doctor) and the kernel log for the device"},
    [3] = {"local end-to-end context error: of a transport that Rondo does not use",
           "see the kernel log for the device; update its driver and firmware"},
    [4] = {"local protection error: a work request names memory that is not registered",
           "do not free, unmap or unregister memory while a request uses it"},
    [5] = {"flushed: the queue pair had failed before this request was worked on",
           "look at the error before this one; with none, the port or the device went away"},
    [6] = {"memory window bind error: of an operation that Rondo does not use",
           "see the kernel log for the device; update its driver and firmware"},
    [7] = {"bad response: the peer's device answered what the protocol does not allow here",
           "update firmware and drivers of both devices to releases that fit each other"},
    [8] = {"local access error: data that arrived does not fit the rights of the memory it is for",
           "do not change or unmap registered memory; if nobody does, report this"},
    [9] = {"invalid request: the peer's device refused the kind of request, or its length",
           "compare both ends' modes and MTUs (options verbs_mode, verbs_mtu); update firmware"},
    [10] = {"remote access error: the peer's device refused the address or key of its memory",
            "the peer has closed or begun anew: see its log; if it has not, report this"},
    [11] = {"remote operation error: the peer's device could not finish the request",
            "see the peer's log and its kernel log for the device"},
    [12] = {"transport retries exceeded: no acknowledgement from the peer's device",
            "the peer is gone, or packets do not get through: compare GIDs, VLANs, MTUs and routes"
            " of both ports (rondo-doctor --peer), or choose by the options device and verbs_gid;"
            " on a lossy fabric raise verbs_timeout"},
    [13] = {"receiver-not-ready retries exceeded: the peer had no receive request posted",
            "the peer is stopped or overloaded: see whether it runs; if it does, report this"},
    [14] = {"local domain violation: of a transport that Rondo does not use",
            "see the kernel log for the device; update its driver and firmware"},
    [15] = {"invalid read request: of a transport that Rondo does not use",
            "see the kernel log for the device; update its driver and firmware"},
    [16] = {"aborted by the peer: its device gave up the request",
            "see the peer's log and its kernel log for the device"},
    [17] = {"invalid end-to-end context number: of a transport that Rondo does not use",
            "see the kernel log for the device; update its driver and firmware"},
    [18] = {"invalid end-to-end context state: of a transport that Rondo does not use",
            "see the kernel log for the device; update its driver and firmware"},
    [19] = {"fatal error: the device has failed or was taken away",
            "see the kernel log for the device; reset it, or leave it out (option device)"},
    [20] = {"response timeout: the peer's device did not answer in time",
            "see whether the peer and its port are up; " CABLE},
    [21] = {"general error: the device gives no nearer cause",
            "see the kernel log for the device and the vendor's code; " CABLE},
    [22] = {"tag matching error: of an operation that Rondo does not use",
            "see the kernel log for the device; update its driver and firmware"},
    [23] = {"tag matching rendezvous incomplete: of an operation that Rondo does not use",
            "see the kernel log for the device; update its driver and firmware"},
};

static const struct words *words_of(enum ibv_wc_status s) {
    static const struct words unknown = {
        "a status that this release of Rondo does not know",
        "see the kernel log for the device; a newer release of Rondo may know it"};
    unsigned i = (unsigned)s;
    return i < sizeof statuses / sizeof statuses[0] ? &statuses[i] : &unknown;
}

const char *rdi_verbs_status_text(enum ibv_wc_status s) { return words_of(s)->text; }
const char *rdi_verbs_status_remedy(enum ibv_wc_status s) { return words_of(s)->remedy; }

// ---- Units ---------------------------------------------------------------------------------------

#define TICK_NS 4096u // of the local ACK timeout

uint8_t rdi_verbs_timeout_code(uint64_t ms) {
    uint8_t code = 1; // 0 would be for ever
    while (code < 31 && ((uint64_t)TICK_NS << code) / 1000000 < ms) {
        code++;
    }
    return code;
}

uint64_t rdi_verbs_timeout_us(uint8_t code) {
    return code == 0 ? UINT64_MAX : ((uint64_t)TICK_NS << (code & 31)) / 1000;
}

uint64_t rdi_verbs_giveup_ms(uint8_t timeout_code, unsigned retries) {
    uint64_t us = rdi_verbs_timeout_us(timeout_code);
    return us == UINT64_MAX ? UINT64_MAX : us * (retries + 1) / 1000;
}

uint8_t rdi_verbs_rnr_code(uint64_t us) {
    // Code 0 stands behind the others: it is the longest of all, 655.36 ms.
    static const uint32_t table[32] = {0,     10,    20,    30,     40,     60,     80,     120,
                                       160,   240,   320,   480,    640,    960,    1280,   1920,
                                       2560,  3840,  5120,  7680,   10240,  15360,  20480,  30720,
                                       40960, 61440, 81920, 122880, 163840, 245760, 327680, 491520};
    uint8_t code = 1;
    while (code < 31 && table[code] < us) {
        code++;
    }
    return code;
}
