# SPDX-License-Identifier: MIT
"""Which cases are run: every collective, type and operation, on data of every kind that says something about
them. programs/cases.h describes the file, programs/data.h the data."""

from dataclasses import dataclass

FLOATS = ("f32", "f64", "f16", "bf16", "f8e4m3", "f8e5m2")
INTEGERS = ("i8", "u8", "i32", "u32", "i64", "u64")
TYPES = FLOATS + INTEGERS
BYTES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "f8e4m3": 1, "f8e5m2": 1}
BYTES |= {"i8": 1, "u8": 1, "i32": 4, "u32": 4, "i64": 8, "u64": 8}
OPS = ("sum", "prod", "min", "max", "avg")
REDUCING = ("all_reduce", "reduce_scatter", "reduce")
MOVING = ("all_gather", "broadcast", "all_to_all", "send_recv")
COLLECTIVES = REDUCING + MOVING
IN_PLACE = ("all_reduce", "reduce_scatter", "reduce", "all_gather", "broadcast")
ROOTED = ("reduce", "broadcast")
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    collective: str
    type: str
    op: str
    count: int
    root: int
    in_place: bool
    data: str
    repeat: int = 0


def kinds(type_, op):
    """The data that a type and an operation are tried on. What is selected is exact on any data; what cancels
    concerns sums."""
    if type_ in INTEGERS:
        return ("small", "bits")
    if op in ("min", "max"):
        return ("uniform", "wide", "denormal", "special")
    if op == "prod":
        return ("small", "uniform", "wide", "denormal", "special")
    return ("small", "uniform", "wide", "cancel", "denormal", "special")


class _Maker:
    """Hands out roots and places in turn, so that every collective meets each root, in place and not."""

    def __init__(self, ranks):
        self.ranks, self.made, self.turn = ranks, [], dict.fromkeys(COLLECTIVES, 0)

    def add(self, collective, type_, op, count, data, repeat=0):
        turn = self.turn[collective]
        if repeat == 0:
            self.turn[collective] += 1
        root = turn // 2 % self.ranks if collective in ROOTED else 0
        in_place = collective in IN_PLACE and turn % 2 == 1 and repeat == 0
        self.made.append(Case(collective, type_, op, count, root, in_place, data, repeat))


def _semantics(make, count):
    """Everything once at a small size: a number that no number of ranks divides."""
    for type_ in TYPES:
        for op in OPS:
            for data in kinds(type_, op):
                for collective in REDUCING:
                    make.add(collective, type_, op, count, data)
        for collective in MOVING:
            make.add(collective, type_, "sum", count, "bits")
            make.add(collective, type_, "sum", count + 1, "bits")


def _sizes(make, counts):
    """Empty, one element, odd, and sizes on either side of where algorithms change."""
    for count in counts:
        for collective in COLLECTIVES:
            data = "uniform" if collective in REDUCING else "bits"
            for type_ in ("f32", "bf16", "u8"):
                kind = "bits" if type_ == "u8" else data
                make.add(collective, type_, "sum", count, kind)
                make.add(collective, type_, "sum", count, kind)


def _large(make, types, nbytes):
    """Not divisible by anything that matters, out of place and in place."""
    for type_ in types:
        data = "wide" if type_ in FLOATS else "bits"
        for collective in COLLECTIVES:
            per_block = collective not in ("all_reduce", "reduce", "broadcast", "send_recv")
            count = nbytes // BYTES[type_] // (make.ranks if per_block else 1) + 3
            make.add(collective, type_, "sum", count, data)
            make.add(collective, type_, "sum", count, data)


def _timed(make, sizes, repeat):
    for nbytes in sizes:
        for collective in COLLECTIVES:
            for type_ in ("f32", "bf16"):
                if type_ == "bf16" and collective not in REDUCING:
                    continue
                make.add(
                    collective, type_, "sum", nbytes // BYTES[type_], "uniform", repeat
                )


def cases(ranks, quick):
    make = _Maker(ranks)
    _semantics(make, 61 if quick else 997)
    _sizes(make, (0, 1, 7, 4099) if quick else (0, 1, 2, 7, 255, 4099, 32771, 65537))
    _large(make, ("f32",) if quick else ("f32", "f64", "bf16", "f8e4m3", "i8", "i64"), MIB)
    if quick:
        _timed(make, (1024, MIB // 4), 9)
    else:
        _timed(make, (8, 1024, 65536, MIB, 8 * MIB), 21)
    return make.made


def text(made, ranks, seed):
    lines = [f"plan 1 {ranks} {len(made)}"]
    for i, c in enumerate(made):
        # Cases on the same kind of data have different data: a result of the case before would be found out.
        lines.append(
            f"{i} {c.collective} {c.type} {c.op} {c.count} {c.root} {int(c.in_place)} "
            f"{c.data} {seed * 1000003 + i} {c.repeat}"
        )
    return "\n".join(lines) + "\n"
