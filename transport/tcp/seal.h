// SPDX-License-Identifier: MIT
// Sealed records: what travels on a connection with encrypt=yes once its handshake is over.
//
//   prefix[24] | length[4] ciphertext[length] | length[4] ciphertext[length] | ...       in each direction
//
// Each direction is a stream of libsodium's secretstream (XChaCha20-Poly1305) under a key of its own, made for this
// connection. A record is encrypted and authenticated, its length too, in its place: one that was changed, left out,
// repeated, swapped with another, sent the other way or recorded on another connection does not open, and neither
// does any after it. `length` is little-endian and bounded before anything is done with it.
//
// Nothing marks the end of the stream. One that is cut between records opens up to there, and what is missing
// shows in the layer above: a connection ends well only after its frame BYE, which counts the messages before it, and
// is a lost path otherwise.
//
// Bytes of the stream are cut into records so that most payload is decrypted to where it belongs: a record has bytes
// of one message's payload only, up to RDI_SEAL_BIG, or anything, up to RDI_SEAL_MIX.
//
// The functions here are pure but for the stream's state: bytes in, bytes out.
#ifndef RDI_TRANSPORT_TCP_SEAL_H
#define RDI_TRANSPORT_TCP_SEAL_H

#include "transport/internal.h"

#define RDI_SEAL_BIG (64u << 10)
#define RDI_SEAL_MIX (8u << 10)
#define RDI_SEAL_PREFIX 24
#define RDI_SEAL_LENGTH 4
#define RDI_SEAL_MORE (RDI_SEAL_LENGTH + 17) // by so much a record is longer than what it holds

// Both directions of a connection, on one of its ends.
struct rdi_seal {
    struct rdi_seal_keys *keys; // in secret memory
    bool sent_prefix, got_prefix;
};

// Keys from a handshake that is DONE. False: no memory.
bool rdi_seal_begin(struct rdi_seal *s, const struct rdi_hs *hs);
// Wipes the keys.
void rdi_seal_end(struct rdi_seal *s);

// Makes a record of 1 to RDI_SEAL_BIG bytes, the first one behind the prefix. The bytes written: at most
// RDI_SEAL_PREFIX + n + RDI_SEAL_MORE.
size_t rdi_seal_write(struct rdi_seal *s, const void *plain, size_t n, uint8_t *out);

// What comes next in n bytes from the stream.
enum rdi_seal_found {
    RDI_SEAL_PART,   // more bytes are needed; *whole is how many at least, counted from the first
    RDI_SEAL_WHOLE,  // a record of *whole bytes that holds *plain
    RDI_SEAL_BROKEN, // no record begins so
};
// Takes the prefix, of which *skip is then the length; otherwise that is 0.
enum rdi_seal_found rdi_seal_look(struct rdi_seal *s, const uint8_t *in, size_t n, size_t *skip,
                                  size_t *whole, size_t *plain);
// Opens a record that rdi_seal_look() found (without what it skipped) into `out`, of which nothing is written if the
// record is not what the other end sealed next. False: so it is, and no further one will open.
bool rdi_seal_read(struct rdi_seal *s, const uint8_t *record, size_t whole, uint8_t *out);

#endif
