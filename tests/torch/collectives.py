# SPDX-License-Identifier: MIT
"""Each collective against what a rank computes by itself: collectives.py [unittest's arguments]. RONDO_TRANSPORT says over
which wire."""
from __future__ import annotations

import sys
import time
import unittest
from functools import reduce
from typing import Any, List

from ranks import run, seeded  # first: skips where there is no PyTorch

import torch
import torch.distributed as dist

Op = dist.ReduceOp
SHAPES = [(), (1,), (7,), (3, 5), (1000, 31), (0,), (300000,)]
FOLDS = {
    "SUM": lambda a, b: a + b,
    "PRODUCT": lambda a, b: a * b,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
    "BAND": lambda a, b: a & b,
    "BOR": lambda a, b: a | b,
    "BXOR": lambda a, b: a ^ b,
}
NUMBERS = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64,
]  # fmt: skip


def everybody(n: int, shape: Any, dtype: torch.dtype = torch.float32, salt: int = 0) -> List[torch.Tensor]:
    return [seeded(r, shape, dtype, salt) for r in range(n)]


def same(got: torch.Tensor, want: torch.Tensor, what: Any) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape, (what, got.dtype, want.dtype, got.shape, want.shape)
    assert torch.equal(got, want), (what, got, want)


def all_reduce(rank: int, n: int) -> None:
    for dtype in NUMBERS:
        for name in ("SUM", "PRODUCT", "MIN", "MAX"):
            if name == "PRODUCT" and dtype in (torch.float16, torch.bfloat16):
                continue  # rounds differently by order
            for shape in SHAPES if dtype == torch.float32 else [(7,), (1000, 31)]:
                x = seeded(rank, shape, dtype)
                dist.all_reduce(x, op=getattr(Op, name))
                same(x, reduce(FOLDS[name], everybody(n, shape, dtype)), (name, dtype, shape))
    for dtype in (torch.int32, torch.uint8, torch.int64, torch.bool):
        for name in ("BAND", "BOR", "BXOR"):
            x = seeded(rank, (33,), dtype)
            dist.all_reduce(x, op=getattr(Op, name))
            same(x, reduce(FOLDS[name], everybody(n, (33,), dtype)), (name, dtype))
    for name, like in (("SUM", "BOR"), ("MAX", "BOR"), ("PRODUCT", "BAND"), ("MIN", "BAND")):
        x = seeded(rank, (33,), torch.bool)
        dist.all_reduce(x, op=getattr(Op, name))
        same(x, reduce(FOLDS[like], everybody(n, (33,), torch.bool)), (name, "bool"))
    if hasattr(Op, "AVG"):
        x = seeded(rank, (100,), torch.float64)
        dist.all_reduce(x, op=Op.AVG)
        assert torch.allclose(x, sum(everybody(n, (100,), torch.float64)) / n)


def all_reduce_layouts(rank: int, n: int) -> None:
    """Tensors that are no contiguous memory, of complex numbers, that need gradients."""
    x = seeded(rank, (6, 8)).t()[1:, ::2]
    want = sum(y.t()[1:, ::2] for y in everybody(n, (6, 8)))
    dist.all_reduce(x)
    same(x, want, "a view")
    for name in ("SUM", "PRODUCT"):
        c = [torch.complex(seeded(r, (50,)), seeded(r, (50,), salt=1)) for r in range(n)]
        x = c[rank].clone()
        if name == "SUM":
            dist.all_reduce(x)
        else:
            dist.group.WORLD.allreduce([x], options(Op.PRODUCT)).wait()  # dist refuses it
        assert torch.allclose(x, reduce(FOLDS[name], c)), name
    p = torch.nn.Parameter(seeded(rank, (5,)))
    dist.all_reduce(p.data)
    same(p.detach(), sum(everybody(n, (5,))), "a parameter")
    for bad, op in ((torch.zeros(2), Op.BAND), (torch.zeros(2, dtype=torch.complex64), Op.MAX)):
        try:
            dist.group.WORLD.allreduce([bad], options(op))
        except TypeError as err:
            assert str(bad.dtype) in str(err), err
        else:
            raise AssertionError(f"{op} of {bad.dtype} was taken")


def options(op: Any) -> Any:
    o = dist.AllreduceOptions()
    o.reduceOp = op
    return o


def coalesced(rank: int, n: int) -> None:
    shapes = [(3,), (1000,), (2, 2)]
    xs = [seeded(rank, s, salt=i) for i, s in enumerate(shapes)]
    o = dist.AllreduceCoalescedOptions()
    o.reduceOp = Op.MAX
    dist.group.WORLD.allreduce_coalesced(xs, o).wait()
    for i, s in enumerate(shapes):
        same(xs[i], reduce(torch.maximum, everybody(n, s, salt=i)), s)
    twice = torch.full((5,), rank + 1.0)
    dist.group.WORLD.allreduce_coalesced([twice, twice]).wait()
    same(twice, torch.full((5,), n * (n + 1) / 2), "the same tensor twice")
    outs = [[torch.zeros(s) for s in shapes] for _ in range(n)]
    ins = [seeded(rank, s, salt=i) for i, s in enumerate(shapes)]
    dist.group.WORLD.allgather_coalesced(outs, ins).wait()
    for r in range(n):
        for i, s in enumerate(shapes):
            same(outs[r][i], seeded(r, s, salt=i), (r, s))
    flat = [torch.zeros(n * 3), torch.zeros(n * 1000)]
    dist.group.WORLD.allgather_into_tensor_coalesced(flat, ins[:2]).wait()
    same(flat[1], torch.cat(everybody(n, (1000,), salt=1)), "into_tensor_coalesced")
    parts = [torch.zeros(2), torch.zeros(5)]
    dist.group.WORLD.reduce_scatter_tensor_coalesced(parts, [seeded(rank, (2 * n,)), seeded(rank, (5 * n,))]).wait()
    same(parts[1], sum(everybody(n, (5 * n,)))[5 * rank : 5 * rank + 5], "reduce_scatter_tensor_coalesced")


def rooted(rank: int, n: int) -> None:
    for bad in (-1, n):
        for call, o in ((dist.group.WORLD.gather, dist.GatherOptions()), (dist.group.WORLD.scatter, dist.ScatterOptions())):
            o.rootRank = bad
            try:
                call([torch.zeros(1)], [torch.zeros(1)], o)
            except ValueError as err:
                assert f"the root is {bad}" in str(err), err
            else:
                raise AssertionError(f"{call} took root {bad}")
    for root in range(n):
        for dtype in (*NUMBERS, torch.bool, torch.complex64):
            x = seeded(rank, (129,), dtype, salt=root)
            dist.broadcast(x, root)
            same(x, seeded(root, (129,), dtype, salt=root), ("broadcast", dtype))
        for shape in SHAPES:
            x = seeded(rank, shape)
            dist.broadcast(x, root)
            same(x, seeded(root, shape), ("broadcast", shape))
            x = seeded(rank, shape)
            dist.reduce(x, root)
            if rank == root:
                same(x, sum(everybody(n, shape)), ("reduce", shape))
            outs = [torch.zeros(shape) for _ in range(n)] if rank == root else None
            dist.gather(seeded(rank, shape), outs, dst=root)
            for r in range(n if outs else 0):
                same(outs[r], seeded(r, shape), ("gather", shape))
            x = torch.zeros(shape)
            dist.scatter(x, everybody(n, shape, salt=5) if rank == root else None, src=root)
            same(x, seeded(rank, shape, salt=5), ("scatter", shape))
        x = seeded(rank, (9,), torch.int32)
        dist.reduce(x, root, op=Op.BXOR)
        if rank == root:
            same(x, reduce(FOLDS["BXOR"], everybody(n, (9,), torch.int32)), "reduce BXOR")


def gathered(rank: int, n: int) -> None:
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bool, torch.int16, torch.complex64):
            outs = [torch.zeros(shape, dtype=dtype) for _ in range(n)]
            dist.all_gather(outs, seeded(rank, shape, dtype))
            for r in range(n):
                same(outs[r], seeded(r, shape, dtype), ("all_gather", shape, dtype))
        flat = torch.zeros((n, *shape))
        dist.all_gather(list(flat.unbind()), seeded(rank, shape))  # without a copy
        same(flat, torch.stack(everybody(n, shape)), ("all_gather, one block", shape))
        if shape:
            x = torch.zeros((n * shape[0], *shape[1:]))
            dist.group.WORLD._allgather_base(x, seeded(rank, shape)).wait()
            same(x, torch.cat(everybody(n, shape)), ("all_gather_into_tensor", shape))
            whole = [torch.cat(everybody(n, shape, salt=r)) for r in range(n)]
            x = torch.zeros(shape)
            dist.group.WORLD._reduce_scatter_base(x, whole[rank]).wait()
            want = sum(whole)[rank * shape[0] : (rank + 1) * shape[0]]
            same(x, want, ("reduce_scatter_tensor", shape))
            x = torch.zeros(shape)
            dist.reduce_scatter(x, [t.clone() for t in whole[rank].chunk(n)] if shape[0] else [x.clone()] * n)
            same(x, want, ("reduce_scatter", shape))
    got: List[Any] = [None] * n
    dist.all_gather_object(got, {"rank": rank, "text": "x" * rank})
    assert got == [{"rank": r, "text": "x" * r} for r in range(n)], got
    objects = ["from", rank] if rank == n - 1 else [None, None]
    dist.broadcast_object_list(objects, src=n - 1)
    assert objects == ["from", n - 1]


def to_all(rank: int, n: int) -> None:
    for k in (1, 1000, 100000):
        x = torch.zeros(n * k)
        dist.all_to_all_single(x, torch.cat([seeded(rank, (k,), salt=r) for r in range(n)]))
        same(x, torch.cat([seeded(r, (k,), salt=rank) for r in range(n)]), k)
    # Rank a sends a * 3 + b rows to rank b.
    rows = [[3 * a + b for b in range(n)] for a in range(n)]
    x = torch.zeros(sum(r[rank] for r in rows), 2)
    mine = torch.cat([seeded(rank, (rows[rank][b], 2), salt=b) for b in range(n)])
    dist.all_to_all_single(x, mine, [r[rank] for r in rows], rows[rank])
    same(x, torch.cat([seeded(a, (rows[a][rank], 2), salt=rank) for a in range(n)]), "uneven")
    outs = [torch.zeros(rows[a][rank]) for a in range(n)]
    dist.all_to_all(outs, [seeded(rank, (rows[rank][b],), salt=b) for b in range(n)])
    for a in range(n):
        same(outs[a], seeded(a, (rows[a][rank],), salt=rank), ("all_to_all", a))


def pairs(rank: int, n: int) -> None:
    """Tags in any order, from any rank, both directions at once."""
    right, left = (rank + 1) % n, (rank - 1) % n
    for size in (1, 1000, 500000):
        got = torch.zeros(size)
        works = [dist.isend(seeded(rank, (size,)), right), dist.irecv(got, left)]
        for w in works:
            w.wait()
        same(got, seeded(left, (size,)), size)
    if rank == 0:
        sources = set()
        for _ in range(n - 1):
            x = torch.zeros(3)
            source = dist.recv(x, tag=9)
            same(x, seeded(source, (3,)), "any source")
            sources.add(source)
        assert sources == set(range(1, n))
        big, small = torch.zeros(200000), torch.zeros(3)
        work = dist.irecv(small, 1, tag=2)
        dist.recv(big, 1, tag=1)
        work.wait()
        same(small, seeded(1, (3,), salt=2), "tag 2")
        same(big, seeded(1, (200000,), salt=1), "tag 1")
        dist.recv(small, 1, tag=4)
        dist.recv(small, 1, tag=5)  # not what was put aside
        same(small, seeded(1, (3,), salt=5), "tag 5")
        dist.recv(big, 1, tag=3)
        same(big, seeded(1, (200000,), salt=3), "tag 3, put aside")
        dist.send(torch.zeros(0), 1)
    else:
        time.sleep(0.02 * (n - rank))
        dist.send(seeded(rank, (3,)), 0, tag=9)
        if rank == 1:
            works = [dist.isend(seeded(1, (200000,), salt=1), 0, tag=1), dist.isend(seeded(1, (3,), salt=2), 0, tag=2)]
            works += [dist.isend(seeded(1, (200000,), salt=3), 0, tag=3), dist.isend(seeded(1, (3,), salt=4), 0, tag=4)]
            works.append(dist.isend(seeded(1, (3,), salt=5), 0, tag=5))
            for w in works:
                w.wait()
            dist.recv(torch.zeros(0), 0)
    # A size that does not fit is told of, and harms nothing else.
    if rank == 0:
        dist.send(torch.zeros(4), 1, tag=7)
    elif rank == 1:
        try:
            dist.recv(torch.zeros(5), 0, tag=7)
        except RuntimeError as err:
            assert "16 bytes" in str(err) and "20 bytes" in str(err) and "rank 0" in str(err), err
        else:
            raise AssertionError("a tensor of another size was taken")
    dist.barrier()


def crowd(rank: int, n: int) -> None:
    """Each rank in turn takes from whoever comes, while those that come are ahead of it."""
    for _ in range(15):
        for to in range(n):
            for _ in range(n - 1 if to == rank else 0):
                x = torch.zeros(1000)
                source = dist.recv(x)
                same(x, seeded(source, (1000,)), "crowd")
                work = dist.irecv(x)
                work.wait()
                same(x, seeded(work._source_rank(), (1000,)), "crowd")
            if to != rank:
                dist.send(seeded(rank, (1000,)), to)
                dist.send(seeded(rank, (1000,)), to)
    dist.barrier()


def sparse(rank: int, n: int) -> None:
    dense = [seeded(r, (10, 3)) * (torch.arange(10) % (r + 2) == 0).float()[:, None] for r in range(n)]
    x = dense[rank].to_sparse(1)
    dist.all_reduce(x)
    same(x.to_dense(), sum(dense), "sparse")


def works(rank: int, n: int) -> None:
    """Many at once, completed in another order; futures; what a work tells."""
    xs = [seeded(rank, (i * i + 1,), salt=i) for i in range(40)]
    ws = [dist.all_reduce(x, async_op=True) for x in xs]
    fs = [w.get_future() for w in ws[::2]]
    end = time.monotonic() + 20
    while not ws[7].is_completed():
        assert time.monotonic() < end
        time.sleep(0.001)
    for w in reversed(ws):
        assert w.wait() and w.is_completed() and w.is_success() and w.exception() is None
    for i, x in enumerate(xs):
        same(x, sum(everybody(n, (i * i + 1,), salt=i)), i)
    for i, f in enumerate(fs):
        same(f.wait()[0], xs[2 * i], "a future's value")
    x = seeded(rank, (1000,))
    doubled = dist.all_reduce(x, async_op=True).get_future().then(lambda f: f.value()[0] * 2)
    same(doubled.wait(), 2 * sum(everybody(n, (1000,))), "then")
    dist.barrier(async_op=True).wait()
    before = dist.group.WORLD._get_sequence_number_for_group()
    dist.barrier()
    assert dist.group.WORLD._get_sequence_number_for_group() == before + 1


PARTS = [all_reduce, all_reduce_layouts, coalesced, rooted, gathered, to_all, pairs, sparse, works]


def every(rank: int, n: int) -> None:
    for part in PARTS:
        try:
            part(rank, n)
        except Exception as err:
            raise AssertionError(f"{part.__name__}: {err!r}") from err


class Collectives(unittest.TestCase):
    def test_two_ranks(self) -> None:
        run(2, every)

    def test_three_ranks(self) -> None:
        run(3, every)

    def test_crowd(self) -> None:
        run(4, crowd)

    def test_one_rank(self) -> None:
        run(1, lambda rank, n: [part(rank, n) for part in PARTS if part is not pairs] and None)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
