// SPDX-License-Identifier: MIT
// What rondo-doctor decodes: the other host's card and its outcomes, names of peers, and lists of processors.
//
//   input[0]  what the rest is: 0 card, 1 outcome, 2 HOST:PORT, 3 list
#include "fuzz.h"
#include "transport/doctor/peer.h"

static void card(const uint8_t *in, size_t n) {
    static struct dr_session s;
    // As it comes: dr_receive() admits no longer one.
    if (n <= DR_MESSAGE && dr_read_card(&s, in, n)) {
        MUST(s.theirs.where.count <= RDI_TCP_ADDRS);
        MUST(memchr(s.peer, '\0', sizeof s.peer) != NULL && is_clean(s.peer));
    }
}

static void outcome(const uint8_t *in, size_t n) {
    struct dr_outcome o, again;
    uint8_t out[DR_MESSAGE];
    if (n > DR_MESSAGE || !dr_outcome_read(&o, in, n)) {
        return;
    }
    MUST(o.stage <= DR_DONE && o.err >= 0 && o.err <= 0xffff && o.status <= 0);
    MUST(memchr(o.why, '\0', sizeof o.why) != NULL && is_clean(o.why));
    MUST(rondo_status_name(o.status)[0] == 'R');
    size_t len = dr_outcome_write(&o, out);
    MUST(len == n && dr_outcome_read(&again, out, len));
    MUST(again.stage == o.stage && again.err == o.err && again.bytes == o.bytes &&
         again.ns == o.ns && strcmp(again.why, o.why) == 0);
}

static void peer(const char *text) {
    char host[64] = "";
    int port = 7;
    if (dr_split_peer(text, host, sizeof host, &port)) {
        MUST(host[0] != '\0' && strlen(host) < sizeof host && strstr(text, host) != NULL);
        MUST(port >= 1 && port <= 65535);
    }
}

static void numbers(const char *text) {
    bool has = false;
    unsigned count = dr_list_count(text, 5, &has);
    MUST(count > 0 || !has);
    MUST(dr_list_count(text, 5, NULL) == count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    unsigned kind = take_byte(&in) % 4;
    if (kind < 2) {
        uint8_t *bytes = own_copy(in.at, in.left);
        (kind == 0 ? card : outcome)(bytes, in.left);
        free(bytes);
        return 0;
    }
    char *text = take_text(&in);
    (kind == 2 ? peer : numbers)(text);
    free(text);
    return 0;
}
