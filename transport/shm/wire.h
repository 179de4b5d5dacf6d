// SPDX-License-Identifier: MIT
// What travels over the Unix socket of a link: the handshake's payloads, then records with descriptors. And
// the address of a net. Encoding and parsing are pure functions on bytes.
//
// The sockets are of type SOCK_SEQPACKET: a record arrives whole, with its descriptors, or not at all.
//
//   sender                                   receiver
//     handshake, kind SHM, hello        ->
//                                       <-   reply: the geometry, or a refusal with its text
//                                       <-   REGION   {memory file, eventfd, bell page}
//     BELL     {eventfd, bell page}     ->     (the engine's accept(); the receiver's end is UP)
//                                       <-   VERDICT  status, text (the sender's end is UP)
//     then at any time, for payload by reference:
//     OFFER    handle, bytes {memfd}    ->   maps it read-only
//                                       <-   MAPPED   handle, whether it did
//     TAKE_BACK handle                  ->   unmaps it
#ifndef RDI_SHM_WIRE_H
#define RDI_SHM_WIRE_H

#include "transport/internal.h"

#define SHM_NAME_BYTES 16
#define SHM_TEXT_MAX 400

// ---- Address -------------------------------------------------------------------------------------

// The same user in the same user namespace: others could not open our socket, or we not their memory.
struct shm_address {
    uint8_t host_id[16];
    uint8_t name[SHM_NAME_BYTES]; // random; the abstract socket is "rondo-shm-" and 32 hex digits
    uint32_t pid, uid;
    uint64_t user_ns;
};
size_t shm_address_write(const struct shm_address *a, uint8_t blob[RDI_BLOB_MAX]);
bool shm_address_parse(const void *blob, size_t len, struct shm_address *out);

// ---- Handshake payloads --------------------------------------------------------------------------

struct shm_hello {
    struct rdi_link_id id;
    uint32_t slots, max_msg; // proposal
    uint32_t pid;
    uint8_t name[SHM_NAME_BYTES];
};
size_t shm_hello_write(const struct shm_hello *h, uint8_t out[RDI_HS_PAYLOAD]);
// True only for a geometry within SHM_SLOTS_MAX and SHM_MSG_MAX.
bool shm_hello_parse(const void *bytes, size_t n, struct shm_hello *out);

struct shm_reply {
    rondo_status status;
    uint32_t slots, max_msg; // agreed
    uint32_t pid;
    uint8_t name[SHM_NAME_BYTES];
    char text[SHM_TEXT_MAX]; // when refused
};
size_t shm_reply_write(const struct shm_reply *r, uint8_t out[RDI_HS_PAYLOAD]);
bool shm_reply_parse(const void *bytes, size_t n, struct shm_reply *out);

// ---- Records -------------------------------------------------------------------------------------

enum shm_record_type {
    SHM_REGION = 1,
    SHM_BELL,
    SHM_VERDICT,
    SHM_OFFER,
    SHM_MAPPED,
    SHM_TAKE_BACK,
};

#define SHM_FDS_MAX 3
#define SHM_RECORD_MAX (16 + SHM_TEXT_MAX)

struct shm_record {
    enum shm_record_type type;
    uint32_t handle;         // OFFER, MAPPED, TAKE_BACK
    uint64_t value;          // OFFER: bytes; MAPPED: 1 or 0; VERDICT: minus the status
    char text[SHM_TEXT_MAX]; // VERDICT
};
size_t shm_record_write(const struct shm_record *r, uint8_t out[SHM_RECORD_MAX]);
// Also checks that exactly the descriptors came that this record has.
bool shm_record_parse(const void *bytes, size_t n, size_t n_fds, struct shm_record *out);

// ---- Packets -------------------------------------------------------------------------------------

// Sends one packet. 0, or an errno (EAGAIN: no room now). Never blocks.
int shm_packet_send(int fd, const void *bytes, size_t n, const int *fds, size_t n_fds);

// Receives one packet of at most `cap` bytes. 0, or an errno (EAGAIN: none; EPIPE: the other side hung up;
// EMFILE: its bytes are here, but its descriptors did not fit in our table; EMSGSIZE: longer than cap). *fds
// are the caller's to close, on success only.
int shm_packet_receive(int fd, void *bytes, size_t cap, size_t *n, int fds[SHM_FDS_MAX],
                       size_t *n_fds);

#endif
