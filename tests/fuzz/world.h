// SPDX-License-Identifier: MIT
// What a process gives the product, for targets of connections: a clock that only the input moves, the same random
// numbers for each input, a log whose lines must be clean, the job's key. And a hash instead of libsodium's, by the
// linker's --wrap (see CMakeLists.txt: world_calls): who has not got the key does not find it, which is all that these
// targets need of it, and it takes no time. fuzz_auth has the real one.
#ifndef RDI_TESTS_FUZZ_WORLD_H
#define RDI_TESTS_FUZZ_WORLD_H

#include "fuzz.h"
#include "transport/internal.h"

#define MS UINT64_C(1000000)

extern uint64_t clock_ns;
extern const uint8_t world_key[RDI_KEY_BYTES]; // which all ranks have
extern const struct rdi_env world_env;

// Before each input.
void world_begin(void);
// Alters up to three of n bytes, as the input says.
void world_change(void *bytes, size_t n, struct input *in);

#endif
