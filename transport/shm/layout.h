// SPDX-License-Identifier: MIT
// What lies in the memory that the two ends of a link share. One memory file a link, made by the receiver:
//
//   head        sender's line | receiver's line | control ring to the receiver | control ring to the sender
//   slots       a header each: seq, tag, len, flags, signature, payload of small messages
//   data        max_msg bytes a slot, page aligned, for payload that does not fit the header
//
// Every word has one writer. The sender publishes message q by storing q + 1 into `seq` of slot q % slots,
// after all the rest of it: the receiver polls that word, so a small message crosses between the cores with
// the one or two cache lines that it fills, and no separate counter has to follow.
//
// The other process may be broken. So words that steer anything are atomics, read once into a local variable
// and checked there; payload is the only thing that is used in place.
#ifndef RDI_SHM_LAYOUT_H
#define RDI_SHM_LAYOUT_H

#include "transport/internal.h"

#include <stdatomic.h>

#define SHM_LINE 64
#define SHM_INLINE \
    1024u // payload that travels with the header; at this size either place is as fast
#define SHM_CTRL_RING 8u

enum shm_bye {
    SHM_BYE_NONE,
    SHM_BYE_CLOSED,  // no failure
    SHM_BYE_ABORTED, // closed by a process that lives
};

// What one end says to the other, on two lines of its own (processors fetch lines in pairs).
struct shm_side {
    _Alignas(2 *
             SHM_LINE) _Atomic uint64_t released; // receiver only: messages below it are consumed
    _Atomic uint64_t ctrl_posted;                 // control messages written
    _Atomic uint64_t ctrl_taken;                  // control messages of the other end consumed
    _Atomic uint32_t bye;                         // enum shm_bye, the last word
};

struct shm_ctrl {
    _Alignas(SHM_LINE) _Atomic uint32_t type;
    _Atomic uint32_t len;
    uint8_t bytes[RDI_CTRL_MAX];
};

struct shm_head {
    struct shm_side sender, receiver;
    struct shm_ctrl to_receiver[SHM_CTRL_RING], to_sender[SHM_CTRL_RING];
};

// Where a slot's payload is, in flags; and what comes with it.
enum {
    SHM_IN_HEADER = 0,
    SHM_IN_DATA = 1,
    SHM_BY_REFERENCE =
        2, // in a block of the sender's; the header has a struct shm_reference instead
    SHM_WHERE = 3,
    SHM_HAS_SIG = 4,
    SHM_WANTS_ACK = 8,
    SHM_FLAGS = 15,
};

struct shm_slot {
    _Alignas(SHM_LINE) _Atomic uint64_t seq;
    _Atomic uint64_t tag;
    _Atomic uint32_t len, flags;
    uint8_t
        body[RDI_SIG_BYTES + SHM_INLINE]; // signature if there is one, then payload or reference
};

struct shm_reference {
    uint64_t handle, offset;
};

// The word that tells whether a rank sleeps, on a page of its own that peers can only read: odd = asleep.
// It grows with every change, so that a peer can tell one sleep from the next.
struct shm_bell {
    _Atomic uint64_t word;
};

// A link's memory as one end has mapped it.
struct shm_region {
    struct shm_head *head;
    struct shm_slot *slots;
    uint8_t *data;
    size_t data_stride, bytes;
};

// Bytes of a region for this geometry; slots <= SHM_SLOTS_MAX and max_msg <= SHM_MSG_MAX, so no overflow.
#define SHM_SLOTS_MAX 1024u
#define SHM_MSG_MAX (64u << 20)
size_t shm_region_bytes(uint32_t slots, uint32_t max_msg);

// Sets the pointers for memory of shm_region_bytes(slots, max_msg) bytes at `map`.
void shm_region_set(struct shm_region *r, void *map, uint32_t slots, uint32_t max_msg);

// Orders a store before a load of another word, on all processors (the sleeper stores `asleep` and then looks
// for messages; the waker stores a message and then looks for `asleep`; one of them sees the other).
static inline void shm_fence(void) {
#ifdef __SANITIZE_THREAD__
// The sanitizer cannot model fences and warns; the instruction is there nevertheless.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
    atomic_thread_fence(memory_order_seq_cst);
#pragma GCC diagnostic pop
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

#define shm_load(word) atomic_load_explicit(word, memory_order_acquire)
#define shm_peek_word(word) atomic_load_explicit(word, memory_order_relaxed)
#define shm_store(word, value) atomic_store_explicit(word, value, memory_order_release)
#define shm_write(word, value) atomic_store_explicit(word, value, memory_order_relaxed)

#endif
