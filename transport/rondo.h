// SPDX-License-Identifier: MIT
// All of Rondo in one include. Each layer's header also stands alone: a program that only needs
// collectives includes <rondo/ring.h>.
#ifndef RONDO_RONDO_H
#define RONDO_RONDO_H

#include <rondo/ddp.h>
#include <rondo/dp.h>
#include <rondo/ring.h>
#include <rondo/topo.h>
#include <rondo/transport.h>

#endif
