# SPDX-License-Identifier: MIT
"""DistributedDataParallel and FSDP over Rondo, beside Gloo: training.py [unittest's arguments]."""
from __future__ import annotations

import os
import sys
import time
import unittest
from typing import Any, Dict, List

from ranks import run  # first: skips where there is no PyTorch

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel as DDP

import rondo_torch


def model() -> nn.Module:
    torch.manual_seed(1)
    layers: List[nn.Module] = [nn.Linear(32, 96), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(96, 96), nn.LayerNorm(96), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(96, 1))


def batch(rank: int, step: int) -> "tuple[torch.Tensor, torch.Tensor]":
    g = torch.Generator().manual_seed(100 * step + rank)
    x = torch.randn(16, 32, generator=g)
    return x, x.sum(1, keepdim=True)


def train(rank: int, n: int, kind: str) -> Dict[str, Any]:
    """A few steps; gradients of the first and parameters after the last."""
    net = model()
    if rank > 0:
        for p in net.parameters():  # DDP has to broadcast rank 0's
            nn.init.zeros_(p)
    extra: Dict[str, Any] = {"find_unused_parameters": True} if kind == "unused" else {}
    ddp = DDP(net, bucket_cap_mb=0.02, gradient_as_bucket_view=kind == "view", **extra)
    if kind == "hook":
        ddp.register_comm_hook(dist.new_group(backend="rondo"), rondo_torch.allreduce_hook)
    opt = torch.optim.SGD(ddp.parameters(), lr=0.01)
    first: List[torch.Tensor] = []
    for step in range(4):
        opt.zero_grad()
        if kind == "no_sync":
            with ddp.no_sync():
                x, y = batch(rank, 50 + step)
                ((ddp(x) - y) ** 2).mean().backward()
        x, y = batch(rank, step)
        ((ddp(x) - y) ** 2).mean().backward()
        if not first:
            first = [p.grad.clone() for p in ddp.parameters()]
        opt.step()
    return {"grads": first, "params": [p.detach().clone() for p in ddp.parameters()]}


class Slow(torch.autograd.Function):
    """A layer whose backward takes time, but no processor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return g


class SlowLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Slow.apply(self.linear(x))


def overlap(rank: int, n: int) -> bool:
    """Most buckets are reduced while backward still sleeps in earlier layers."""
    net = DDP(nn.Sequential(*[SlowLinear() for _ in range(10)]), bucket_cap_mb=0.001)
    done: List[float] = []

    def hook(group, bucket):  # type: ignore[no-untyped-def]
        future = group.allreduce([bucket.buffer()]).get_future()
        future.add_done_callback(lambda _: done.append(time.monotonic()))
        return future.then(lambda f: f.value()[0])

    net.register_comm_hook(dist.group.WORLD, hook)
    for _ in range(3):
        done.clear()
        net(torch.randn(4, 64)).sum().backward()
        end = time.monotonic()
    return sum(t < end - 0.02 for t in done) >= len(done) // 2


def fsdp(rank: int, n: int) -> float:
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

    net = FSDP(model(), device_id=torch.device("cpu"))
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(4):
        opt.zero_grad()
        x, y = batch(rank, step)
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        opt.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item()


class Training(unittest.TestCase):
    def same(self, n: int, kind: str) -> None:
        gloo = run(n, train, "plain" if kind == "hook" else kind, backend="gloo")
        mine = run(n, train, kind, backend="gloo" if kind == "hook" else "rondo")
        for rank in range(n):
            for what in ("grads", "params"):
                for a, b, c in zip(gloo[0][what], mine[rank][what], mine[0][what]):
                    self.assertTrue(torch.equal(b, c), f"ranks 0 and {rank} differ in {what}")
                    self.assertTrue(torch.allclose(a, b, rtol=1e-4, atol=1e-6), f"{kind}: {what} differ from Gloo's")

    def test_ddp_two_ranks(self) -> None:
        self.same(2, "plain")

    def test_ddp_four_ranks(self) -> None:
        self.same(4, "plain")

    def test_bucket_views(self) -> None:
        self.same(2, "view")

    def test_no_sync(self) -> None:
        self.same(2, "no_sync")

    def test_unused_parameters(self) -> None:
        self.same(2, "unused")

    def test_hook_beside_gloo(self) -> None:
        self.same(2, "hook")

    def test_overlap(self) -> None:
        self.assertEqual(run(2, overlap), [True, True])

    @unittest.skipIf(int(torch.__version__.split(".")[0]) < 2, "FSDP of PyTorch 1 needs CUDA")
    def test_fsdp(self) -> None:
        mine, gloo = run(2, fsdp), run(2, fsdp, backend="gloo")
        self.assertAlmostEqual(mine[0], gloo[0], places=4)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
