// SPDX-License-Identifier: MIT
// The test with another host.
//
//   --peer                                                  --listen
//     control connection to the port of --listen, authenticated with the job's key
//     CARD: release, addresses with a listener on each    ->
//                                                         <-  CARD
//     CLOCK                                               ->  CLOCK   (some times)
//     a probe of each pair of addresses, from here        ->  takes it
//     DIAL: a pair of addresses                           ->  probes it from there
//                                                         <-  OUTCOME
//     NET: a transport's address                         <->  NET     (a link each way, messages)
//     NET_DONE                                           <->  NET_DONE
//     BYE: how many paths failed                          ->
//
// Probes go to ports that the kernel chose, as a job's connections do: a firewall that knows only one port
// shows.
// A probe is a connection with a handshake of its own, then small steps:
//
//     'B' size, `size` bytes at once  ->            do large packets get through
//                                     <-  'B' size
//     'S' and bytes until the end     ->            how fast
//                                     <-  bytes, ns
//
// Every step has a deadline. What does not prove the key is dropped and counted.
#ifndef RDI_DOCTOR_PEER_H
#define RDI_DOCTOR_PEER_H

#include "transport/doctor/doctor.h"
#include "transport/tcp/tcp.h"

#define DR_TOKEN 16
#define DR_MESSAGE 4096 // longest control message
#define DR_BURST (256u << 10)
#define DR_STREAM_NS UINT64_C(1000000000)
#define DR_STRANGER_NS UINT64_C(2000000000) // to prove the key
#define DR_SECOND UINT64_C(1000000000)

enum dr_message {
    DR_MSG_CARD = 1,
    DR_MSG_CLOCK,
    DR_MSG_DIAL,
    DR_MSG_OUTCOME,
    DR_MSG_NET,
    DR_MSG_NET_DONE,
    DR_MSG_BYE,
};

enum dr_stage { DR_CONNECT, DR_HANDSHAKE, DR_LARGE, DR_STREAM, DR_DONE };

// How a connection went.
struct dr_outcome {
    enum dr_stage stage; // where it ended; DR_DONE = well
    int err;             // errno; 0 = closed by the other end, or `status` says why
    rondo_status status; // of the handshake
    char why[192];
    uint64_t connect_ns, bytes, ns; // stream: bytes in ns
    uint32_t mss, pmtu;
};

struct dr_card {
    int version;
    struct rdi_tcp_blob where;
    uint32_t mtu[RDI_TCP_ADDRS]; // of the interfaces
};

struct dr_session {
    struct doctor *d;
    struct rdi_job job;
    int control;
    char peer[RDI_HOST_MAX + 8]; // for messages
    uint8_t token[DR_TOKEN];
    struct dr_card mine, theirs;
    int listeners[RDI_TCP_ADDRS];
    uint64_t answer_ns; // patience with each answer
    unsigned strangers;
};

// ---- wire.c --------------------------------------------------------------------------------------

// False: the deadline passed.
bool dr_wait(const struct rdi_env *env, int fd, short events, uint64_t deadline);
// Moves n bytes: 0, ETIMEDOUT, another errno, or -1 when the other end closed.
int dr_move(const struct rdi_env *env, int fd, bool out, void *buf, size_t n, uint64_t deadline);
// The handshake on a connected socket. `hello` goes out from the connector and is filled in on the acceptor
// (*len: its room, then its length). False: *o has stage DR_HANDSHAKE and the reason.
bool dr_shake(struct dr_session *s, int fd, bool connector, uint8_t hello[RDI_HS_PAYLOAD],
              size_t *len, uint64_t deadline, struct dr_outcome *o);

// Control messages; both set the last error.
rondo_status dr_send(struct dr_session *s, enum dr_message type, const void *payload, size_t len);
// Any message; *len is its length, payload has room for DR_MESSAGE bytes.
rondo_status dr_receive(struct dr_session *s, enum dr_message *type, uint8_t *payload, size_t *len,
                        uint64_t deadline);
// The message `want`; meanwhile probes of the peer are taken.
rondo_status dr_await(struct dr_session *s, enum dr_message want, uint8_t *payload, size_t *len,
                      uint64_t deadline);
// The same for whatever message comes next.
rondo_status dr_serve(struct dr_session *s, enum dr_message *type, uint8_t *payload, size_t *len,
                      uint64_t deadline);

// Key, token, listeners on all usable addresses. The error is a finding.
bool dr_session_open(struct dr_session *s, struct doctor *d);
void dr_session_close(struct dr_session *s);
rondo_status dr_send_card(struct dr_session *s);
bool dr_read_card(struct dr_session *s, const uint8_t *payload, size_t len);

// ---- probe.c -------------------------------------------------------------------------------------

// What a connector says first: who it is, and for what it comes.
enum { DR_FOR_CONTROL = 'C', DR_FOR_PROBE = 'P' };
size_t dr_hello(const struct dr_session *s, uint8_t purpose, uint8_t out[RDI_HS_PAYLOAD]);
// Connects; -1: *o has stage DR_CONNECT and the reason.
int dr_dial(struct dr_session *s, const struct sockaddr_storage *from,
            const struct sockaddr_storage *to, struct dr_outcome *o);
void dr_probe(struct dr_session *s, const struct rdi_tcp_addr *from, const struct rdi_tcp_addr *to,
              bool stream, struct dr_outcome *o);
// Takes one connection from a listener and serves it to its end.
void dr_take_probe(struct dr_session *s, int listener);
size_t dr_outcome_write(const struct dr_outcome *o, uint8_t out[DR_MESSAGE]);
bool dr_outcome_read(struct dr_outcome *o, const uint8_t *in, size_t len);

// ---- explain.c -----------------------------------------------------------------------------------

// A finding for a connection that failed; `port` that of --listen, or 0 for a probe.
void dr_explain(struct dr_session *s, enum dr_level level, const char *subject,
                const struct dr_outcome *o, int port);

// ---- link.c --------------------------------------------------------------------------------------

// Messages in both directions over a link of a transport; both ends call it at the same time. True: it went
// well, or neither could have it. Findings only where `tell`.
bool dr_link_test(struct dr_session *s, const struct rdi_net_ops *ops, bool tell);

#endif
