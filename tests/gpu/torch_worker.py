# SPDX-License-Identifier: MIT
"""One rank of PyTorch's DDP for parts/torch.py: torch_worker.py one|nccl FILE. Writes its losses and checks to FILE."""

import datetime
import json
import os
import sys
import time

import torch
import torch.distributed as dist

STEPS, BATCH = 30, 64


def model():
    torch.manual_seed(1)
    layers = [torch.nn.Linear(64, 512), torch.nn.GELU(), torch.nn.Linear(512, 512), torch.nn.GELU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(512, 10)).cuda()


def data():
    made = torch.Generator().manual_seed(2)
    x = torch.randn(STEPS, BATCH, 64, generator=made)
    return x, (x @ torch.randn(64, 10, generator=made)).argmax(-1)


def losses(rank, ranks):
    net = model()
    if ranks > 1:
        # Small buckets, so that several all_reduces are under way.
        net = torch.nn.parallel.DistributedDataParallel(net, device_ids=[0], bucket_cap_mb=0.25)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    found, (x, y), share = [], data(), BATCH // ranks
    for step in range(STEPS):
        mine = slice(rank * share, (rank + 1) * share)
        loss = torch.nn.functional.cross_entropy(net(x[step, mine].cuda()), y[step, mine].cuda())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        whole = loss.detach().clone()
        if ranks > 1:
            dist.all_reduce(whole)
            whole /= ranks
        found.append(whole.item())
    return found


def all_reduces(rank, ranks):
    """Small whole numbers, whose sums are exact in every type."""
    checked = 0
    types = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.uint8)
    for kind in types:
        for n in (1, 1000, 1 << 20):
            base = torch.arange(n, device="cuda") % 7
            x, want = (base + rank).to(kind), sum(base + r for r in range(ranks)).to(kind)
            dist.all_reduce(x)
            if not torch.equal(x, want):
                raise SystemExit(f"all_reduce of {n} x {kind} is wrong")
            checked += 1
    return checked


def time_4mib():
    x = torch.zeros(1 << 20, device="cuda")
    dist.all_reduce(x)
    torch.cuda.synchronize()
    begin = time.monotonic()
    for _ in range(10):
        dist.all_reduce(x)
    torch.cuda.synchronize()
    return (time.monotonic() - begin) / 10 * 1e3


def main(mode, path):
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.cuda.set_device(0)
    found = {}
    if mode == "nccl":
        dist.init_process_group(
            "nccl", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
        )
        found = {"checked": all_reduces(rank, ranks), "ms_4mib": time_4mib()}
    found["losses"] = losses(rank, ranks)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(found, f)
    if mode == "nccl":
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
