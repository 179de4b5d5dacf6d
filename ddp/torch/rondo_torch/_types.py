# SPDX-License-Identifier: MIT
"""PyTorch's types and reductions as Rondo's."""
from __future__ import annotations

from datetime import timedelta
from typing import Any, Callable, Dict, NamedTuple, Optional

import torch
from torch import Tensor

U8 = 5
SUM, PROD, MIN, MAX, AVG = range(5)  # rondo_op

# rondo_type by torch.dtype. What one of the two does not have is not in the table.
TYPES: Dict[torch.dtype, int] = {
    getattr(torch, name): number
    for name, number in {
        "float32": 0,
        "float64": 1,
        "float16": 2,
        "bfloat16": 3,
        "int8": 4,
        "uint8": 5,
        "int32": 6,
        "uint32": 7,
        "int64": 8,
        "uint64": 9,
        "float8_e4m3fn": 10,
        "float8_e5m2": 11,
    }.items()
    if hasattr(torch, name)
}
# Types that are reduced as a wider one: integer sums and products keep their low bits.
WIDER = {torch.int16: torch.int32}
if hasattr(torch, "uint16"):
    WIDER[torch.uint16] = torch.int32

# c10d's ReduceOp.RedOpType by number, the same in all versions.
_OPS = {0: SUM, 1: AVG, 2: PROD, 3: MIN, 4: MAX}
_NAMES = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM")
_BITWISE: Dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    5: torch.bitwise_and,
    6: torch.bitwise_or,
    7: torch.bitwise_xor,
}


class Reduction(NamedTuple):
    """How to reduce: by Rondo's operation `op` on tensors of type `wire`, or, where it has none, by gathering what
    all ranks have and folding it with `fold`."""

    op: int
    wire: Optional[torch.dtype]
    fold: Optional[Callable[[Tensor, Tensor], Tensor]]


def op_number(op: Any) -> int:
    """c10d.ReduceOp, ReduceOp.RedOpType or an options object: the number of the operation."""
    op = getattr(op, "reduceOp", op)
    return int(getattr(op, "op", op))


def reduction(op: Any, dtype: torch.dtype) -> Reduction:
    """How Rondo does `op` on `dtype`; TypeError names both where it cannot."""
    number = op_number(op)
    name = _NAMES[number] if 0 <= number < len(_NAMES) else f"number {number}"
    if number in _BITWISE:
        if dtype.is_floating_point or dtype.is_complex:
            raise TypeError(f"rondo: ReduceOp.{name} needs integers or bool, not {dtype}")
        return Reduction(SUM, None, _BITWISE[number])
    if number not in _OPS:
        raise TypeError(f"rondo: ReduceOp.{name} is not supported; scale the tensor before a SUM")
    mine = _OPS[number]
    if dtype == torch.bool:
        if mine == AVG:
            raise TypeError("rondo: ReduceOp.AVG of torch.bool has no meaning; use SUM, MIN or MAX")
        # Sum and maximum of truth values are "or", product and minimum "and".
        return Reduction(MAX if mine in (SUM, MAX) else MIN, torch.uint8, None)
    if dtype.is_complex:
        if mine in (SUM, AVG):
            return Reduction(mine, torch.view_as_real(torch.empty(0, dtype=dtype)).dtype, None)
        if mine == PROD:
            return Reduction(SUM, None, torch.mul)
        raise TypeError(f"rondo: ReduceOp.{name} of {dtype} has no meaning: complex numbers have no order")
    wire = WIDER.get(dtype, dtype)
    if wire not in TYPES:
        raise TypeError(f"rondo: {dtype} cannot be reduced; convert the tensor to a type of {sorted(map(str, TYPES))}")
    return Reduction(mine, wire, None)


def milliseconds(time: Any, default: int) -> int:
    """A timeout as PyTorch gives it; unset and zero mean `default`."""
    if isinstance(time, timedelta):
        ms = int(time.total_seconds() * 1000)
        return ms if ms > 0 else default
    return default
