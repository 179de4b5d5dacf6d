// SPDX-License-Identifier: MIT
// A simulated network on a virtual clock, for tests: thousands of ranks in one process, every run the same
// for the same seed.
//
//   test ---- rdi_engine_progress() ----> engine of rank r ---- rdi_sim_ops ----> node r ----+
//     |                                                                                       | events,
//     +------ rdi_sim_advance() --------> clock, messages under way, faults <-----------------+ by time
//
// The transport does whatever its contract (transport/internal.h) allows, at random: it delivers late, reads
// the sender's data at any time until it counts as sent, puts credit off, says RONDO_AGAIN, lands in place or
// not, loses a path with any part of what was under way. What an engine does against the contract is reported
// to `broken`.
#ifndef RDI_TRANSPORT_SIM_H
#define RDI_TRANSPORT_SIM_H

#include "transport/internal.h"

struct rdi_sim;
struct rdi_sim_node; // the simulated process of one rank: give it to the engine as `extra`

struct rdi_sim_config {
    uint64_t seed;
    int nodes;
    uint64_t latency_ns,
        jitter_ns;        // of a link, one way; each link has a latency of its own near it
    uint64_t bytes_per_s; // of a node's sending
    uint64_t spike_ns;    // length of a delay spike, at most
    uint64_t detect_ns;   // until a death or a lost path is noticed, at most
    bool refuse;          // connections to a process that ended are refused, after 3 s
    // A described cluster instead of chance (all chances 0): ranks in order, per_host of them a host. What leaves or
    // enters a host shares its NICs (latency_ns, bytes_per_s of each), which its ranks have as topo/decide.h would give
    // them out where all are as near: one each in turn, more where there are more than ranks. Ranks of a host have inner paths, on which the sender's
    // core moves the bytes. A message costs the sender's and the receiver's core cpu_ns each. Where a host has more
    // ranks than cores, a core that goes from one to another loses switch_ns. cost.c has the whole of it.
    int per_host; // 0: not so
    int nics;     // of a host; 0: one
    uint64_t inner_latency_ns, inner_bytes_per_s, cpu_ns, switch_ns;
    int cores;   // of a host
    bool empty;  // messages have a length and no payload: no buffer is read or written
    bool uneven; // slots and max_msg differ from link to link
    // Ranks call different operations: what one sends may land where another, in place, still sends from. Both fail,
    // and what was sent so is read by nobody: the rule that a source stays unchanged is not checked.
    bool mismatch;
    // Chances out of 1000.
    unsigned spike; // a message, and all behind it, is late by a spike
    unsigned again; // put() and ctrl() say RONDO_AGAIN
    unsigned land;  // land() is asked
    unsigned late;  // a message that is here is counted later
    unsigned early; // data is read at put() instead of on arrival
    unsigned lazy;  // credit and acknowledgement are put off as long as may be
    // The engine broke a rule of the contract: must not return.
    void (*broken)(void *arg, const char *rule, const char *detail);
    void (*trace)(void *arg, const char *line); // may be NULL
    void *arg;
};

// NULL when out of memory. All engines on it must be destroyed before it.
struct rdi_sim *rdi_sim_create(const struct rdi_sim_config *c);
void rdi_sim_destroy(struct rdi_sim *s);

// Virtual time, the simulation's randomness, and its trace as log.
void rdi_sim_env(struct rdi_sim *s, struct rdi_env *env);
uint64_t rdi_sim_now(const struct rdi_sim *s);
struct rdi_sim_node *rdi_sim_node(struct rdi_sim *s, int rank);

// Time of the next event, UINT64_MAX if there is none.
uint64_t rdi_sim_next(const struct rdi_sim *s);
// Moves the clock to `to` and does all events up to then.
void rdi_sim_advance(struct rdi_sim *s, uint64_t to);

// Whether the node may run and something has happened that its progress() would find, or it was poked. The
// answer is given once: it is the caller's part to run the engine until it finds nothing.
bool rdi_sim_take_turn(struct rdi_sim_node *n);
void rdi_sim_poke(struct rdi_sim_node *n);
// In a described cluster: the next node that may take its turn, each given once; NULL if there is none.
struct rdi_sim_node *rdi_sim_next_turn(struct rdi_sim *s);
int rdi_sim_rank(const struct rdi_sim_node *n);
// The same one, that many turns from now, as far as is known: so that it can be fetched from memory. NULL.
struct rdi_sim_node *rdi_sim_turn_ahead(const struct rdi_sim *s, size_t turns);
// Asks for what a turn of that node reads, and for a link of it, or for what comes next on a link that was fetched.
void rdi_sim_fetch_node(const struct rdi_sim_node *n);
void rdi_sim_fetch_link(const struct rdi_link *link, bool next);
// In a described cluster, in the rank's turn: its thread works for so long; and how long it has worked for by now.
void rdi_sim_work(struct rdi_sim_node *n, uint64_t ns);
uint64_t rdi_sim_busy_until(const struct rdi_sim_node *n);
// A rank's NICs, with per_host: `first`, and `count` in all, every `step`.
struct rdi_sim_nics {
    int first, step, count;
};
struct rdi_sim_nics rdi_sim_nics(const struct rdi_sim_node *n);

// ---- Faults --------------------------------------------------------------------------------------

// The process ends: its engine must not run any more (it may be destroyed).
void rdi_sim_kill(struct rdi_sim_node *n);
bool rdi_sim_is_dead(const struct rdi_sim_node *n);
// The same of its whole host: nothing tells the others, nobody answers any more.
void rdi_sim_vanish(struct rdi_sim_node *n);
// Puts a node on a side (0 at the start): nothing passes between nodes of different sides.
void rdi_sim_side(struct rdi_sim_node *n, int side);
// Puts a node at an end (1, 2; 0: at none) of path 0..31: nothing passes between nodes at its different ends.
void rdi_sim_path_end(struct rdi_sim_node *n, unsigned path, int end);
// The process stops until `until`. Its memory can still be read by the network.
void rdi_sim_pause(struct rdi_sim_node *n, uint64_t until);
// Loses the paths of all links that are up from one rank to another; a new path works after `down_ns`.
// Returns how many links that were.
int rdi_sim_lose(struct rdi_sim *s, int from, int to, uint64_t down_ns);

// ---- Figures -------------------------------------------------------------------------------------

struct rdi_sim_stats {
    uint64_t events, messages, losses, landed;
    unsigned links; // ends of links that are not closed
};
void rdi_sim_get_stats(const struct rdi_sim *s, struct rdi_sim_stats *out);

#endif
