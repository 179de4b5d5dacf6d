// SPDX-License-Identifier: MIT
// How gradients travel (--hook): a chain of communication hooks, the outermost first.
//
//   fp16 | bf16          as halves
//   powersgd[:RANK]      matrices as products of two narrow ones, of RANK columns (1)
//   powersgd:4+bf16      these, and all else, as halves
//   none                 as they are
#ifndef GPT_HOOK_H
#define GPT_HOOK_H

#include <rondo/rondo.h>

#include "gpt_model.h"

// Makes the hook. *any = false where it is none; else *hook is the caller's until it is given to DDP. Errors name the
// word that is wrong.
bool gpt_hook_make(const char *text, rondo_ddp_hook *hook, bool *any, struct gpt_error *e);

#endif
