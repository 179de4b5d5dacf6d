// SPDX-License-Identifier: MIT
// The one table of checks, and how a user chooses among them.
//
// "contract" is the transport's contract: the comments at struct rdi_net_ops in transport/internal.h.
// IBTA is the InfiniBand Architecture Specification, volume 1.
#include "transport/conform/conform.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#define CHECK(id, title, rule, name, needs, seconds) \
    { id, title, rule, cf_check_##name, needs, seconds }

const struct cf_check cf_checks[] = {
    CHECK("connect.agree", "both ends agree on slots, size, id and counters",
          "contract: connect(), struct rdi_link", connect_agree, 0, 20),
    CHECK("connect.late", "either end may come late",
          "contract: connect(), \"is tried again until then\"", connect_late, 0, 20),
    CHECK("connect.together", "both ends connect to each other at once, eight links each way",
          "contract: connect(), \"one direction of one edge\"", connect_together, 0, 20),
    CHECK("connect.links", "many links between two ranks, each with its own messages",
          "contract: struct rdi_link_id; ibv_create_qp(3)", connect_links, 0, 30),
    CHECK("connect.peers", "every rank is linked to every other", "contract: connect(), accept()",
          connect_peers, CF_ALL | CF_THREE, 30),
    CHECK("connect.again", "links come and go many times and leave nothing",
          "contract: close_link(); ibv_destroy_qp(3)", connect_again, 0, 60),
    CHECK("connect.absent", "a peer that is gone fails the link in time",
          "contract: connect(), \"FAILED after connect_timeout at the latest\"", connect_absent, 0,
          30),
    CHECK("connect.deaf", "a peer that does not answer fails the link in time",
          "contract: connect(), \"FAILED after connect_timeout at the latest\"", connect_deaf, 0,
          30),
    CHECK("connect.refused", "a refusal reaches the other end with its status and reason",
          "contract: accept(); IBTA 12.6.7 (REJ)", connect_refused, 0, 20),
    CHECK("connect.key", "nobody with another key gets a link", "contract: authenticated handshake",
          connect_key, 0, 20),
    CHECK("connect.version-in", "a peer of another version is told so and gets no link",
          "contract: authenticated handshake", connect_version_in, 0, 20),
    CHECK("connect.version-out", "a link to a peer of another version fails with both versions",
          "contract: authenticated handshake", connect_version_out, 0, 20),
    CHECK("connect.address", "addresses are constant, and damaged ones are refused",
          "contract: address(), reach()", connect_address, 0, 20),
    CHECK("stranger.garbage", "garbage at the door is dropped and counted, and disturbs nobody",
          "contract: struct rdi_net, strangers", stranger_garbage, 0, 30),
    CHECK("stranger.many", "300 silent strangers do not keep a rank out", "contract: accept()",
          stranger_many, 0, 30),
    CHECK("message.sizes", "messages of every size arrive whole, with tag and signature",
          "contract: put(), peek(), \"0 .. max_msg\"; ibv_post_send(3)", message_sizes, 0, 30),
    CHECK("message.unaligned", "sources at any address arrive whole",
          "contract: struct rdi_put; ibv_post_send(3), sg_list", message_unaligned, 0, 30),
    CHECK("message.too-long", "a message longer than agreed is refused and harms nothing",
          "contract: put(); RONDO_ERR_INVALID", message_too_long, 0, 20),
    CHECK("message.order", "small messages keep their order",
          "contract: \"messages on a link are numbered\"; IBTA 9.5", message_order, 0, 30),
    CHECK("message.overtake", "an empty message does not overtake a large one",
          "contract: arrived, \"longest prefix that is whole and visible\"; IBTA 9.5; "
          "ibv_query_qp_data_in_order(3)",
          message_overtake, 0, 30),
    CHECK("message.flood", "both directions at once, without a deadlock",
          "contract: put(), progress()", message_flood, 0, 40),
    CHECK("message.links", "several links at once do not mix",
          "contract: struct rdi_link_id; IBTA 9.5", message_links, 0, 40),
    CHECK("message.land", "messages land where the receiver wants them",
          "contract: land(), attr.lands", message_land, 0, 30),
    CHECK("message.sequence", "more than 2^24 messages on one link",
          "contract: struct rdi_link, counters only grow; IBTA 9.7.1 (24-bit PSN)",
          message_sequence, CF_LONGER, 1800),
    CHECK("message.bytes", "more than 4 GiB on one link", "contract: struct rdi_net, counters",
          message_bytes, CF_LONGER, 1800),
    CHECK("credit.again", "without credit put() says RONDO_AGAIN and nothing else",
          "contract: put(); IBTA 9.7.7.2 (end-to-end flow control)", credit_again, 0, 20),
    CHECK("credit.half", "credit comes when half of the slots are free, or the receiver arms",
          "contract: release()", credit_half, 0, 20),
    CHECK("credit.slow", "a slow receiver loses nothing, and nobody stores more than the slots",
          "contract: arrived <= released + slots; IBTA 9.7.7.2", credit_slow, 0, 40),
    CHECK("credit.counters", "both ends count the same, each message once",
          "contract: struct rdi_link; IBTA 9.7.1; ibv_poll_cq(3)", credit_counters, 0, 30),
    CHECK(
        "sent.scribble", "a source may be overwritten when `sent` has passed it",
        "contract: struct rdi_put, data; ibv_post_send(3), \"until the request is fully executed\"",
        sent_scribble, 0, 40),
    CHECK("sent.ack", "RDI_PUT_ACK: `sent` passes although the receiver only polls",
          "contract: put(), RDI_PUT_ACK", sent_ack, 0, 20),
    CHECK("sent.copy", "RDI_PUT_COPY: `sent` does not wait for release()",
          "contract: put(), RDI_PUT_COPY", sent_copy, 0, 20),
    CHECK("sent.lazy", "without RDI_PUT_ACK `sent` passes when the receiver arms",
          "contract: put(); IBTA 10.8.6 (unsignaled completions)", sent_lazy, 0, 20),
    CHECK("ctrl.sizes", "control messages of 0 to 896 bytes pass both ways", "contract: ctrl()",
          ctrl_sizes, 0, 20),
    CHECK("ctrl.order", "control messages keep their order", "contract: ctrl()", ctrl_order, 0, 30),
    CHECK("ctrl.beside", "control messages pass beside a flood", "contract: ctrl()", ctrl_beside, 0,
          40),
    CHECK("ctrl.blocked", "control messages need no credit", "contract: ctrl(), \"outside credit\"",
          ctrl_blocked, 0, 20),
    CHECK("ctrl.connecting", "while a link is being opened all is RONDO_AGAIN",
          "contract: ctrl(), put()", ctrl_connecting, 0, 20),
    CHECK("memory.sources", "messages come from any memory: heap, stack, constant, registered",
          "contract: struct rdi_put; rondo_mem_register(); ibv_reg_mr(3)", memory_sources, 0, 30),
    CHECK("memory.overlap", "registrations may overlap and repeat",
          "rondo_mem_register(); ibv_reg_mr(3)", memory_overlap, 0, 30),
    CHECK("memory.in-flight", "memory in use cannot be unregistered; what was sent can",
          "rondo_mem_unregister(); ibv_dereg_mr(3)", memory_in_flight, 0, 30),
    CHECK("memory.remap", "other memory at the same address is what is sent",
          "rondo_mem_unregister(); ibv_dereg_mr(3); IBTA 10.6", memory_remap, 0, 30),
    CHECK("memory.blocks", "blocks come and go and leave nothing",
          "rondo_mem_free(); contract: rdi_mem_find()", memory_blocks, 0, 30),
    CHECK("sleep.message", "no wake-up is lost: messages to and fro",
          "contract: arm(), disarm(); ibv_req_notify_cq(3); IBTA 11.4.2.2", sleep_message, 0, 60),
    CHECK("sleep.credit", "no wake-up is lost: a stream through two slots",
          "contract: arm(); ibv_req_notify_cq(3), ibv_get_cq_event(3)", sleep_credit, 0, 60),
    CHECK("sleep.ctrl", "no wake-up is lost: control messages", "contract: arm()", sleep_ctrl, 0,
          60),
    CHECK("sleep.armed", "arm() and its descriptor tell of what is there already",
          "contract: arm(), \"RONDO_AGAIN: something is there\", \"level triggered\"; "
          "ibv_req_notify_cq(3)",
          sleep_armed, 0, 30),
    CHECK("sleep.quiet", "a net with nothing to do does not wake", "contract: arm(), timeout_ns",
          sleep_quiet, 0, 20),
    CHECK("sleep.connect", "a sleeper is woken by links that come and say good-bye",
          "contract: arm(), accept()", sleep_connect, 0, 30),
    CHECK("sleep.end", "a sleeper is woken by the death of its peer", "contract: arm()", sleep_end,
          0, 40),
    CHECK("peer.bye", "good-bye comes in order, after the last message",
          "contract: close_link(), RDI_LINK_CLOSED", peer_bye, 0, 30),
    CHECK("peer.bye-back", "a receiver may say good-bye, and put() says so",
          "contract: close_link(), put()", peer_bye_back, 0, 20),
    CHECK("peer.drop", "an end that is dropped without a word fails the other",
          "contract: close_link(), bye", peer_drop, 0, 60),
    CHECK("peer.killed", "a killed receiver is seen and named",
          "contract: RDI_LINK_FAILED; IBTA 9.9.2 (retries exceeded)", peer_killed, 0, 60),
    CHECK("peer.killed-sending", "a killed sender is seen; what arrived is whole",
          "contract: RDI_LINK_FAILED, arrived", peer_killed_sending, 0, 60),
    CHECK("peer.exits", "a peer that ends without a word is seen and named",
          "contract: RDI_LINK_FAILED", peer_exits, 0, 60),
    CHECK("peer.stopped", "a peer that is stopped for a while is not lost",
          "contract: RDI_LINK_LOST, \"peer may live\"", peer_stopped, 0, 40),
    CHECK("peer.both-close", "both ends close at once, under load",
          "contract: close_link(); ibv_destroy_qp(3)", peer_both_close, 0, 40),
    CHECK("connect.close", "a link may be closed at every step of its opening",
          "contract: close_link()", connect_close, 0, 60),
    CHECK("abort.connecting", "a net may go at every step of a link's opening", "contract: close()",
          abort_connecting, 0, 40),
    CHECK("abort.flood", "after close_link() nothing reads the sources any more",
          "contract: close_link(), \"nothing writes into or reads from memory of ours\"; "
          "ibv_modify_qp(3) to error; IBTA 10.3.1",
          abort_flood, 0, 60),
    CHECK("abort.sleeping", "a sleeper is woken by a peer that gives up",
          "contract: arm(), close_link()", abort_sleeping, 0, 60),
    CHECK("path.reset", "a reset keeps what has arrived, on the same link", "contract: reset()",
          path_reset, CF_RESET, 30),
    CHECK("path.epoch", "an epoch only grows, and only by the sender", "contract: reset()",
          path_epoch, CF_RESET, 20),
    CHECK("path.cut", "a path that is cut in a flood comes back; each message arrives once",
          "contract: reset(), \"nothing of the old epoch can be delivered\"; IBTA 9.9.2", path_cut,
          CF_RESET | CF_CUT, 60),
    CHECK("path.grace", "a path that stays cut fails the link after path_grace",
          "contract: reset(); option path_grace", path_grace, CF_RESET | CF_CUT, 60),
    CHECK("resource.leaks", "nets come and go and leave no descriptor, mapping or thread",
          "contract: close(), \"nothing of it is left\"; ibv_close_device(3)", resource_leaks, 0,
          60),
    CHECK("resource.fork", "a forked child harms nothing", "ibv_fork_init(3); fork(2)",
          resource_fork, 0, 40),
    CHECK("resource.open-fds", "open() without descriptors says so and leaks none",
          "contract: open(); getrlimit(2), RLIMIT_NOFILE", resource_open_fds, 0, 30),
    CHECK("resource.connect-fds", "connect() without descriptors says so and leaks none",
          "contract: connect(); getrlimit(2), RLIMIT_NOFILE", resource_connect_fds, 0, 40),
    CHECK("resource.accept-fds", "a receiver without descriptors serves what is up, and later more",
          "contract: accept(); getrlimit(2), RLIMIT_NOFILE", resource_accept_fds, 0, 40),
    CHECK("resource.memlock", "too little lockable memory is an error that says so",
          "ibv_reg_mr(3), ENOMEM; getrlimit(2), RLIMIT_MEMLOCK", resource_memlock, 0, 30),
};
const unsigned cf_nchecks = sizeof cf_checks / sizeof *cf_checks;

// ---- Choosing ------------------------------------------------------------------------------------

// Number of letters to change, add or leave out to get from one id to the other.
static unsigned distance(const char *a, const char *b) {
    unsigned row[64];
    size_t m = strlen(b);
    for (size_t j = 0; j <= m; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            unsigned shorter = row[j] < row[j - 1] ? row[j] : row[j - 1];
            row[j] = change < shorter + 1 ? change : shorter + 1;
        }
    }
    return row[m];
}

static int unknown(const char *word) {
    unsigned best = 0;
    for (unsigned i = 1; i < cf_nchecks; i++) {
        if (distance(word, cf_checks[i].id) < distance(word, cf_checks[best].id)) {
            best = i;
        }
    }
    return cf_complain("--only %s: there is no such check; the nearest is %s (--list shows all)",
                       word, cf_checks[best].id);
}

// Marks what one word of --only names; 0 or an exit code.
static int mark(const char *word, size_t n, bool *marks) {
    char text[64];
    bool any = false;
    snprintf(text, sizeof text, "%.*s", (int)(n < sizeof text ? n : sizeof text - 1), word);
    for (unsigned i = 0; i < cf_nchecks; i++) {
        if (fnmatch(text, cf_checks[i].id, 0) == 0) {
            marks[i] = any = true;
        }
    }
    return any ? 0 : unknown(text);
}

int cf_choose(const struct cf_options *o, const struct cf_check **chosen) {
    bool marks[256] = {false};
    _Static_assert(sizeof cf_checks / sizeof *cf_checks < 256, "marks");
    for (const char *at = o->only; at != NULL && *at != '\0';) {
        size_t n = strcspn(at, ",");
        if (n > 0 && mark(at, n, marks) != 0) {
            return -1;
        }
        at += n + (at[n] == ',');
    }
    int count = 0;
    for (unsigned i = 0; i < cf_nchecks; i++) {
        bool longer = (cf_checks[i].needs & CF_LONGER) != 0;
        if ((o->only == NULL || marks[i]) && (!longer || o->longer || o->list)) {
            chosen[count++] = &cf_checks[i];
        }
    }
    if (count == 0) {
        (void)cf_complain("--only %s: these checks take minutes; add --long", o->only);
        return -1;
    }
    return count;
}

void cf_list(const struct cf_check *const *chosen, int n) {
    for (int i = 0; i < n; i++) {
        printf("%-22s %s%s\n%-22s   %s\n", chosen[i]->id, chosen[i]->title,
               (chosen[i]->needs & CF_LONGER) != 0 ? " (--long)" : "", "", chosen[i]->rule);
    }
}
