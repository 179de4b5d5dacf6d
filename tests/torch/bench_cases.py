# SPDX-License-Identifier: MIT
"""The measurements of tests/torch/bench."""
from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import time
from typing import Any, Dict, List

from ranks import run  # first: skips where there is no PyTorch

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel as DDP

SECONDS = 1.5  # for each size and backend, about
BACKENDS = ("gloo", "rondo")
Row = Dict[str, Any]


def both() -> Dict[str, Any]:
    """A group of each backend over the same ranks."""
    return {"gloo": dist.group.WORLD, "rondo": dist.new_group(backend="rondo")}


def agree(value: int) -> int:
    """Rank 0's number."""
    t = torch.tensor([value])
    dist.broadcast(t, 0)
    return int(t)


def timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def all_reduce(rank: int, n: int, most: int) -> List[Row]:
    groups, rows = both(), []
    size = 1024
    while size <= most:
        x = torch.ones(size // 4)
        times: Dict[str, List[float]] = {b: [] for b in BACKENDS}
        for b in BACKENDS:
            for _ in range(3):
                dist.all_reduce(x, group=groups[b])
        once = sum(timed(lambda: dist.all_reduce(x, group=groups[b])) for b in BACKENDS)
        rounds = agree(max(3, min(10, int(SECONDS / once / 5))))
        for _ in range(rounds):
            for b in BACKENDS:
                dist.barrier()
                for _ in range(5):
                    times[b].append(timed(lambda: dist.all_reduce(x, group=groups[b])))
        row: Row = {"what": "all_reduce", "ranks": n, "bytes": size}
        row.update({b: statistics.median(times[b]) for b in BACKENDS})
        rows.append(row)
        size *= 4
    return rows


def net(width: int) -> nn.Module:
    torch.manual_seed(1)
    layers: List[nn.Module] = []
    for _ in range(8):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def ddp_step(rank: int, n: int) -> List[Row]:
    """A step of a perceptron with 8.4 million parameters (33.6 MB of gradients)."""
    groups, width = both(), 1024
    nets = {b: DDP(net(width), process_group=groups[b]) for b in BACKENDS}
    x = torch.randn(16, width)
    times: Dict[str, List[float]] = {b: [] for b in BACKENDS}

    def step(b: str) -> None:
        nets[b](x).pow(2).mean().backward()

    for k in range(8):
        for b in BACKENDS:
            dist.barrier()
            took = timed(lambda: step(b))
            if k >= 2:
                times[b].append(took)
    row: Row = {"what": "DDP step", "ranks": n, "bytes": 4 * sum(p.numel() for p in nets["gloo"].parameters())}
    row.update({b: statistics.median(times[b]) for b in BACKENDS})
    return [row]


def death(rank: int, n: int) -> Any:
    """The last rank is killed in the middle; what another one is told and when."""
    x = torch.ones(1 << 20)
    dist.all_reduce(x)
    if rank == n - 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        while True:
            dist.all_reduce(x)
    except RuntimeError as err:
        return time.monotonic() - start - 0.5, str(err).splitlines()[0]


def deaths(n: int) -> Row:
    return {b: run(n, death, backend=b, dies={n - 1: -signal.SIGKILL}, destroy=False)[0] for b in BACKENDS}


def show(rows: List[Row]) -> None:
    print(f"{'what':<12}{'ranks':>6}{'bytes':>12}{'gloo ms':>11}{'rondo ms':>11}{'ratio':>8}")
    for r in rows:
        ms = [1000 * r[b] for b in BACKENDS]
        print(f"{r['what']:<12}{r['ranks']:>6}{r['bytes']:>12}{ms[0]:>11.3f}{ms[1]:>11.3f}{ms[0] / ms[1]:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", default="2 4")
    parser.add_argument("--max", type=int, default=64 << 20)
    parser.add_argument("--json")
    parser.add_argument("--csv")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    rows: List[Row] = []
    for n in map(int, args.ranks.split()):
        rows += run(n, all_reduce, args.max, backend="gloo", limit=500)[0]
        rows += run(n, ddp_step, backend="gloo", limit=500)[0]
    print(f"PyTorch {torch.__version__}, {os.cpu_count()} processors, load {load:.1f} before")
    show(rows)
    told = deaths(3)
    for b in BACKENDS:
        print(f"rank 2 of 3 killed, {b}: after {told[b][0]:.3f} s: {told[b][1]}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"torch": torch.__version__, "load": load, "rows": rows, "death": told}, f, indent=1)
    if args.csv:
        with open(args.csv, "w", newline="") as f:
            writer = csv.DictWriter(f, ["what", "ranks", "bytes", *BACKENDS])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
