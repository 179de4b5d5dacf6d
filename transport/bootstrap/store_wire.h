// SPDX-License-Identifier: MIT
// The bytes of the key-value store: its messages, and the values that the bootstrap keeps in it.
// Pure functions; a decoder returns NULL, or what is wrong with the bytes.
//
//   request    length:4  op:1  key_len:1  zero:2  timeout_ms:4  key  value  length: all after itself
//   response   length:4  status:1  zero:3  value                            status: minus rondo_status
//   pulse      255                                                          a sign of life, either way
//
// A failure has a value only if somebody is lost (RONDO_ERR_PEER): its words. Pulses pass between messages, on
// connections of members.
// Numbers are in network byte order. They travel on a connection that has passed the handshake, one
// request at a time; they are checked all the same.
#ifndef RDI_BOOTSTRAP_STORE_WIRE_H
#define RDI_BOOTSTRAP_STORE_WIRE_H

#include "transport/internal.h"

#define RDI_STORE_KEY_MAX 255
#define RDI_STORE_VALUE_MAX (16u << 20)
#define RDI_STORE_REQUEST_HEAD 12
#define RDI_STORE_RESPONSE_HEAD 8

// WILL is a SET that the server performs when this connection ends, for whatever reason; a later
// one of the same connection replaces it, an empty value takes it back.
// COME puts the client on the roll of those who meet (its value is a struct rdi_store_come, the answer's one a
// struct rdi_store_host; the key says nothing; RONDO_ERR_BOOTSTRAP: not yet, RONDO_ERR_MISMATCH: of another job). LEAVE takes it off, gives a reason, and has no answer, as the server
// may be the reason.
enum {
    RDI_STORE_SET = 1,
    RDI_STORE_GET = 2,
    RDI_STORE_WILL = 3,
    RDI_STORE_COME = 4,
    RDI_STORE_LEAVE = 5
};
#define RDI_STORE_WILL_MAX 4096
#define RDI_STORE_PULSE 255 // no message begins with it, as none is so long

struct rdi_store_request {
    unsigned op;
    uint32_t timeout_ms;
    size_t key_len, value_len;
};
void rdi_store_encode_request(uint8_t head[RDI_STORE_REQUEST_HEAD],
                              const struct rdi_store_request *r);
const char *rdi_store_decode_request(const uint8_t head[RDI_STORE_REQUEST_HEAD],
                                     struct rdi_store_request *out);

struct rdi_store_response {
    rondo_status status;
    size_t value_len;
};
void rdi_store_encode_response(uint8_t head[RDI_STORE_RESPONSE_HEAD],
                               const struct rdi_store_response *r);
const char *rdi_store_decode_response(const uint8_t head[RDI_STORE_RESPONSE_HEAD],
                                      struct rdi_store_response *out);

// Who comes: rank:4  size:4  pid:4  grace_ms:4  silence_ms:4  launch:8  host
struct rdi_store_come {
    uint64_t launch; // see rdi_job
    int rank, size, pid;
    unsigned grace_ms;   // option stop_grace; 0: it gives no signs of life, and expects none
    unsigned silence_ms; // option peer_timeout
    char host[RDI_HOST_MAX];
};
#define RDI_STORE_COME_BYTES (28 + RDI_HOST_MAX)
#define RDI_STORE_RANKS (1 << 20)
#define RDI_STORE_GRACE_MAX (24u * 3600 * 1000) // ms
void rdi_store_encode_come(uint8_t out[RDI_STORE_COME_BYTES], const struct rdi_store_come *c);
const char *rdi_store_decode_come(const uint8_t in[RDI_STORE_COME_BYTES],
                                  struct rdi_store_come *out);

// Who serves the store: pid:4  rank_0:1  zero:3  host
struct rdi_store_host {
    int pid;
    bool rank_0; // otherwise a launcher
    char host[RDI_HOST_MAX];
};
#define RDI_STORE_HOST_BYTES (8 + RDI_HOST_MAX)
void rdi_store_encode_host(uint8_t out[RDI_STORE_HOST_BYTES], const struct rdi_store_host *h);
const char *rdi_store_decode_host(const uint8_t *in, size_t len, struct rdi_store_host *out);

// A key is 1..255 bytes without NUL.
const char *rdi_store_check_key(const void *key, size_t len);

// What rank 0 publishes at the end of an exchange: either one record per rank, or why there are
// none.
//
//   table    version:1 (1)  kind:1 (0)  zero:2  count:4  count x length:4  count x record
//   failure  version:1 (1)  kind:1 (minus status)  zero:2  length:4  text
#define RDI_EXCHANGE_MAX (8u << 10)
#define RDI_TABLE_HEAD 8

// Bytes of a table of n records with these lengths.
size_t rdi_table_size(const size_t *lens, size_t n);
// Writes it to out, which has rdi_table_size() bytes.
void rdi_table_encode(uint8_t *out, void *const *records, const size_t *lens, size_t n);
// Looks at a table that must have n records. On success *failure is RONDO_OK and lens[0..n-1] and
// *records, where the first one begins (the others follow without gaps), are set; or *failure is
// the status, and *text, *text_len the explanation that rank 0 gave.
const char *rdi_table_decode(const uint8_t *bytes, size_t len, size_t n, size_t *lens,
                             const uint8_t **records, rondo_status *failure, const char **text,
                             size_t *text_len);
// Writes a failure to out[0..cap-1], its text cut if need be; returns the length. cap >=
// RDI_TABLE_HEAD.
size_t rdi_table_encode_failure(uint8_t *out, size_t cap, rondo_status status, const char *text);

#endif
