# SPDX-License-Identifier: MIT
"""Runs cases of PyTorch's test_c10d_*.py: peer_c10d.py FOLDER BACKEND EXCLUDED OUT [TEXT]

FOLDER is test/distributed of a checkout of PyTorch, of the version that is installed. What its classes leave to backends runs with
BACKEND; with rondo, Gloo's own cases get Rondo's group where they make Gloo's. Writes {case: [outcome, text]}.
"""
from __future__ import annotations

import os
import sys
import unittest
from datetime import timedelta
from pathlib import Path
from typing import Any, Dict, Iterator, List

import torch
import torch.distributed as dist

import peer_cases

# Cases that every backend makes of helpers `_test_NAME(backend)`; older versions have some of them only.
OF_COMM = [
    "sequence_num_set_default_pg",
    "sequence_num_set_new_group",
    "sequence_num_incremented_default_group",
    "sequence_num_incremented_subgroup",
    "warn_not_in_group",
    "rank_membership",
    "tensor_dtype_mismatch",
    "tensor_dtype_complex",
    "bool_tensors",
]
OF_COMPILER = ["allreduce_work_wait", "allgather_work_wait", "broadcast_work_wait", "scatter_work_wait", "reduce_scatter_work_wait",
               "nested_comm_tensor_wrapping", "consecutive_comm_work_wait"]  # fmt: skip
# Classes of Gloo's own file.
OF_GLOO = ["ProcessGroupGlooTest", "DistributedDataParallelTest", "ReducerTest", "CommTest"]


class Forked:
    """Ranks are forked: classes made here cannot be found by name, and loading PyTorch again takes long."""

    def _spawn_processes(self) -> None:
        self._start_processes(torch.multiprocessing.get_context("fork").Process)  # type: ignore[attr-defined]


class InGloosPlace:
    """Takes what ProcessGroupGloo takes, and makes Rondo's group."""

    class _Options:
        def __init__(self) -> None:
            self._timeout = timedelta(minutes=30)
            self._threads, self._devices = 2, []  # type: ignore[var-annotated]

    @staticmethod
    def create_device(**_: Any) -> None:
        """Rondo finds its interfaces itself."""

    create_default_device = create_device

    def __new__(cls, store: Any, rank: int, size: int, opts: Any = None, timeout: Any = None) -> Any:
        from rondo_torch._group import Group

        return Group(store, rank, size, timeout or getattr(opts, "_timeout", opts))


def need_no_gpu() -> None:
    """Cases that only compare sequence numbers and the like ask for the current GPU; a CPU backend's tensors lie in host memory."""
    torch.cuda.set_device = lambda _: None  # type: ignore[assignment]
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment]


def add(body: Dict[str, Any], base: type, names: List[str], argument: Any) -> Dict[str, Any]:
    def case(helper: str) -> Any:
        return lambda self: getattr(self, helper)(argument(self))

    for name in names:
        if hasattr(base, "_test_" + name):
            body["test_" + name] = case("_test_" + name)
    return body


def of_common(common: Any, backend: str) -> Iterator[type]:
    from torch.testing._internal.common_distributed import MultiProcessTestCase
    from torch.testing._internal.common_utils import TestCase

    def set_up(self: Any) -> None:
        MultiProcessTestCase.setUp(self)
        self._spawn_processes()

    def by_name(_: Any) -> str:
        return backend

    def default_group(self: Any) -> Any:
        store = dist.FileStore(self.file_name, self.world_size)
        dist.init_process_group(backend, rank=self.rank, world_size=self.world_size, store=store)
        return dist.distributed_c10d._get_default_group()

    for ranks in (2, 4):
        body = {"setUp": set_up, "device": "cpu", "world_size": property(lambda _, n=ranks: n)}
        names = [n for n in OF_COMM if ranks == 4 or not n.endswith("_subgroup")]
        yield type(f"Comm{ranks}", (Forked, common.AbstractCommTest, MultiProcessTestCase), add(body, common.AbstractCommTest, names, by_name))
    if hasattr(common, "AbstractLargeCommTest"):
        large = common.AbstractLargeCommTest
        names = [n[6:] for n in dir(large) if n.startswith("_test_new_group_local_sync")]
        yield type("LargeComm", (Forked, large, MultiProcessTestCase), add({"setUp": set_up, "device": "cpu"}, large, names, by_name))
    dispatched = common.ProcessGroupWithDispatchedCollectivesTests
    yield type("Dispatched", (Forked, dispatched), add({}, dispatched, ["collectives", "allreduce_coalesced", "all_to_all_single"], by_name))
    if hasattr(common, "CompilerTest"):
        body = {"_get_default_group": default_group, "world_size": 2}
        yield type("Compiler", (Forked, common.CompilerTest), add(body, common.CompilerTest, OF_COMPILER, lambda self: torch.ones(2, 2) * self.rank))
    # Last: it leaves stores in this process whose threads a forked rank would not have.
    yield type("Timeout", (common.AbstractTimeoutTest, TestCase), add({}, common.AbstractTimeoutTest, ["default_store_timeout"], by_name))


def of_gloo(gloo: Any, backend: str) -> Iterator[type]:
    if backend == "rondo":
        for module in (dist, dist.distributed_c10d):
            setattr(module, "ProcessGroupGloo", InGloosPlace)
    for name in OF_GLOO:
        if hasattr(gloo, name):
            yield type("Gloo" + name, (Forked, getattr(gloo, name)), {})


class Result(peer_cases.Result):
    def name(self, test: Any) -> str:
        return f"{type(test).__name__}.{test._testMethodName}"


def cases(folder: str, backend: str, names: Dict[str, str], text: str) -> List[Any]:
    from torch.testing._internal import common_distributed

    common_distributed.TIMEOUT_DEFAULT = peer_cases.CASE_SECONDS
    common_distributed.TIMEOUT_OVERRIDE.clear()
    sys.path.insert(0, folder)
    import test_c10d_common as common
    import test_c10d_gloo as gloo

    found = []
    for kind in [*of_gloo(gloo, backend), *of_common(common, backend)]:
        for case in unittest.defaultTestLoader.getTestCaseNames(kind):
            name = f"{kind.__name__}.{case}"
            if name not in names and text in name:
                found.append(kind(case))
    return found


def main() -> None:
    folder, backend, skip, out = sys.argv[1:5]
    if not (Path(folder) / "test_c10d_common.py").is_file():
        sys.exit(f"--c10d {folder}: no test_c10d_common.py there; it must be test/distributed of a checkout of PyTorch {torch.__version__}")
    if backend == "rondo":
        import rondo_torch  # noqa: F401
    if not torch.cuda.is_available():
        need_no_gpu()
    torch.set_num_threads(1)
    result = Result(out)
    left_out = {n: r for n, r in peer_cases.excluded(skip).items() if "." in n}
    for name, reason in left_out.items():
        result.cases[name] = ["excluded", reason]
    unittest.TestSuite(cases(os.path.abspath(folder), backend, left_out, sys.argv[5] if len(sys.argv) > 5 else "")).run(result)


if __name__ == "__main__":
    main()
