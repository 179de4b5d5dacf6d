# SPDX-License-Identifier: MIT
"""Gradients over Rondo, everything else over the backend that a program has."""
from __future__ import annotations

import torch
import torch.distributed as dist


# Types stay open: DDP compares annotations with classes, and would find names.
def allreduce_hook(state, bucket):  # type: ignore[no-untyped-def]
    """A communication hook of DistributedDataParallel: averages a bucket over a group of backend "rondo", beside another
    default backend.

        ddp.register_comm_hook(torch.distributed.new_group(backend="rondo"), rondo_torch.allreduce_hook)
    """
    opts = dist.AllreduceOptions()
    opts.reduceOp = dist.ReduceOp.AVG
    buffer: torch.Tensor = bucket.buffer()
    return state.allreduce([buffer], opts).get_future().then(lambda f: f.value()[0])
