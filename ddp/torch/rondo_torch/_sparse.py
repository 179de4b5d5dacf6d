# SPDX-License-Identifier: MIT
"""all_reduce of sparse tensors: everybody gathers everybody's entries and adds them up, as Gloo does."""
from __future__ import annotations

from typing import Any, List

import torch
from torch import Tensor


def sum_sparse(group: Any, t: Tensor) -> None:
    """Sums `t`, COO in host memory, over the ranks of the group, in place. Blocks."""
    size = group.size()
    mine = t.detach().coalesce()
    indices, values = mine.indices(), mine.values()
    shape = torch.tensor([mine.sparse_dim(), mine.dense_dim(), *mine.shape, values.size(0)], dtype=torch.int64)
    shapes = [torch.empty_like(shape) for _ in range(size)]
    group.allgather([shapes], [shape]).wait()
    for r, other in enumerate(shapes):
        if not torch.equal(other[:-1], shape[:-1]):
            raise ValueError(
                f"all_reduce of sparse tensors: rank {r} has sparse and dense dimensions and shape {other[:-1].tolist()}, rank "
                f"{group.rank()} {shape[:-1].tolist()}"
            )
    counts = [int(s[-1]) for s in shapes]
    most = max(counts)
    all_indices = _gather(group, indices.t().contiguous(), most)
    all_values = _gather(group, values.contiguous(), most)
    total = torch.sparse_coo_tensor(
        torch.cat([x[:n] for x, n in zip(all_indices, counts)]).t(),
        torch.cat([x[:n] for x, n in zip(all_values, counts)]),
        mine.shape,
    )
    with torch.no_grad():
        t.copy_(total.coalesce())  # not detach(): its entries would be its own


def _gather(group: Any, rows: Tensor, most: int) -> List[Tensor]:
    """Everybody's rows, of which each rank has up to `most`."""
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded[: rows.size(0)] = rows
    outs = [torch.empty_like(padded) for _ in range(group.size())]
    group.allgather([outs], [padded]).wait()
    return outs
