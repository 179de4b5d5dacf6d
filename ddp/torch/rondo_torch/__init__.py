# SPDX-License-Identifier: MIT
"""Rondo as a backend of torch.distributed.

    import rondo_torch
    torch.distributed.init_process_group("rondo")

registers it and makes the default process group; everything else is PyTorch's own interface.
"""
from __future__ import annotations

from typing import Any

import torch.distributed as dist

from ._group import Group
from ._hook import allreduce_hook
from ._lib import RondoError

__all__ = ["RondoError", "allreduce_hook", "register"]
__version__ = "0.1.0"


def _create(store: Any, rank: int, size: int, timeout: Any) -> Group:
    return Group(store, rank, size, timeout)


def register() -> None:
    """Makes "rondo" a name that init_process_group() and new_group() know. Done by the import; again is no harm."""
    if hasattr(dist.Backend, "RONDO"):
        return
    try:
        dist.Backend.register_backend("rondo", _create, devices=["cpu", "cuda"])
    except TypeError:  # before 2.0
        dist.Backend.register_backend("rondo", _create)


register()
