# SPDX-License-Identifier: MIT
"""What the tests of the PyTorch backend share: ranks as forked processes of one that has PyTorch loaded."""
from __future__ import annotations

import os
import pickle
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks share the cores
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
try:
    import torch
except ImportError as err:
    print(f"skipped: PyTorch is not there ({err}); on Debian: apt-get install python3-torch")
    sys.exit(77)
import torch.distributed as dist  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ddp" / "torch"))
import rondo_torch  # noqa: E402,F401

_fork = get_context("fork")


class Failed(AssertionError):
    """A rank raised; its traceback is the text."""


def _main(rank: int, size: int, path: str, backend: str, fn: Any, args: Any, seconds: float, pipe: Any, leave: bool) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            backend, init_method=f"file://{path}", rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
        )
        # Not send(), which shares the memory of tensors.
        pipe.send_bytes(pickle.dumps((True, fn(rank, size, *args))))
        if leave:
            dist.destroy_process_group()
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, f"rank {rank}: {traceback.format_exc()}")))
        sys.stderr.flush()
        os._exit(1)


def run(
    size: int,
    fn: Callable[..., Any],
    *args: Any,
    backend: str = "rondo",
    timeout: float = 60.0,
    limit: float = 100.0,
    dies: Optional[Dict[int, int]] = None,
    destroy: bool = True,
) -> List[Any]:
    """fn(rank, size, *args) on each of `size` ranks of a process group; what they return. `dies`: exit codes of ranks that do
    not return."""
    dies = dies or {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "store")
        pipes, children = [], []
        for rank in range(size):
            mine, theirs = _fork.Pipe(duplex=False)
            child = _fork.Process(target=_main, args=(rank, size, path, backend, fn, args, timeout, theirs, destroy))
            child.start()
            theirs.close()
            pipes.append(mine)
            children.append(child)
        return _collect(pipes, children, dies, time.monotonic() + limit)


def _collect(pipes: List[Any], children: List[Any], dies: Dict[int, int], end: float) -> List[Any]:
    results: List[Any] = [None] * len(pipes)
    problems = []
    for rank, (pipe, child) in enumerate(zip(pipes, children)):
        try:
            if not pipe.poll(max(0.0, end - time.monotonic())):
                problems.append(f"rank {rank} hangs")
            else:
                ok, results[rank] = pickle.loads(pipe.recv_bytes())
                if not ok:
                    problems.append(results[rank])
        except EOFError:
            if rank not in dies:
                problems.append(f"rank {rank} ended without a result")
    for rank, child in enumerate(children):
        child.join(max(0.1, end - time.monotonic()))
        if child.exitcode is None:
            problems.append(f"rank {rank} does not end")
            child.kill()
            child.join()
        elif child.exitcode != dies.get(rank, 0):
            problems.append(f"rank {rank} ended with {child.exitcode}, not {dies.get(rank, 0)}")
    if problems:
        raise Failed("\n".join(problems))
    return results


def seeded(rank: int, shape: Any, dtype: torch.dtype = torch.float32, salt: int = 0) -> torch.Tensor:
    """What a rank has, so that every rank can tell."""
    g = torch.Generator().manual_seed(1000 * salt + rank)
    x = torch.randint(-8, 9, shape, generator=g)
    if dtype == torch.bool:
        return x > 0
    if dtype == torch.uint8:
        return x.abs().to(dtype)
    return x.to(dtype)
