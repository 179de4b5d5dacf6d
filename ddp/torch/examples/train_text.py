# SPDX-License-Identifier: MIT
"""A small transformer learns English, letter by letter, on every rank of a job; the backend is a word on the command line.

    python3 train_text.py --backend rondo -n 2                  # starts its ranks by itself
    torchrun --nproc-per-node 2 train_text.py --backend rondo   # or is one of torchrun's

The text is that of Debian's package fortunes, unless --text names a file.
"""
from __future__ import annotations

import argparse
import glob
import os
import time
from typing import Tuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

CONTEXT = 64
FORTUNES = "/usr/share/games/fortunes"


def read_text(path: str) -> bytes:
    """The file, or all of fortunes."""
    if path:
        files = [path]
    else:
        files = sorted(f for f in glob.glob(f"{FORTUNES}/*") if "." not in os.path.basename(f))
        if not files:
            raise SystemExit(f"{FORTUNES} has no text: apt-get install fortunes, or give --text FILE")
    return b"".join(open(f, "rb").read() for f in files)


class Text(Dataset):  # type: ignore[type-arg]
    """Pieces of CONTEXT bytes, and the bytes that follow each."""

    def __init__(self, text: bytes) -> None:
        self.bytes = torch.tensor(bytearray(text), dtype=torch.uint8)

    def __len__(self) -> int:
        return (len(self.bytes) - 1) // CONTEXT

    def __getitem__(self, i: int) -> Tuple[Tensor, Tensor]:
        piece = self.bytes[i * CONTEXT : (i + 1) * CONTEXT + 1].long()
        return piece[:-1], piece[1:]


class Transformer(nn.Module):
    def __init__(self, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.place = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, 256)
        self.register_buffer("mask", torch.triu(torch.full((CONTEXT, CONTEXT), float("-inf")), 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.place.weight
        return self.head(self.body(h, mask=self.mask))


def train(args: argparse.Namespace) -> None:
    """One rank; who it is stands in the environment."""
    if args.backend == "rondo":
        import rondo_torch  # noqa: F401  the one line that a program needs
    dist.init_process_group(args.backend)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank = dist.get_rank()
    data = Text(read_text(args.text))
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=args.batch, sampler=sampler, drop_last=True)
    model = DistributedDataParallel(Transformer())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step, began, epoch = 0, time.monotonic(), 0
    while step < args.steps:
        sampler.set_epoch(epoch)
        epoch += 1
        for x, y in loader:
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % args.every == 0 or step == args.steps:
                mean = loss.detach().clone()
                dist.all_reduce(mean)
                if rank == 0:
                    took = (time.monotonic() - began) / step
                    print(f"step {step:4}  loss {mean.item() / dist.get_world_size():.4f}  {1000 * took:.0f} ms a step", flush=True)
            if step == args.steps:
                break
    dist.destroy_process_group()


def one_of(rank: int, args: argparse.Namespace, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(args.n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train(args)


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="rondo", help="gloo or rondo")
    parser.add_argument("-n", type=int, default=2, help="ranks to start, where no launcher did")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=20, help="steps between two lines")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--text", default="", help="a file to learn from")
    args = parser.parse_args()
    if "RANK" in os.environ:
        train(args)
    else:
        mp.spawn(one_of, args=(args, free_port()), nprocs=args.n)


if __name__ == "__main__":
    main()
