# SPDX-License-Identifier: MIT
"""Runs torch.testing._internal.distributed.distributed_test: peer_cases.py BACKEND EXCLUDED OUT [TEXT]

With BACKEND rondo, the name "gloo" makes groups of Rondo, so that exactly Gloo's cases run. Writes {case: [outcome, text]}.
"""
from __future__ import annotations

import json
import os
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Dict, List

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

CASE_SECONDS = 60


def replace_gloo() -> None:
    import rondo_torch._group
    from torch.testing._internal.distributed import distributed_test

    def create(store: Any, rank: int, size: int, timeout: Any, **_: Any) -> Any:
        return rondo_torch._group.Group(store, rank, size, timeout)

    def create_by(opts: Any, _: Any) -> Any:
        return create(opts.store, opts.group_rank, opts.group_size, opts.timeout)

    if hasattr(c10d, "_create_gloo_process_group"):
        c10d._create_gloo_process_group = create_by
        if "GLOO" in c10d.Backend._plugins:
            c10d.Backend._plugins["GLOO"] = c10d.Backend._BackendPlugin(create_by, True)
    else:
        c10d.ProcessGroupGloo = create
    # Debug level DETAIL wraps groups that are built in only; Rondo compares calls always.
    c10d._create_process_group_wrapper = lambda wrapped_pg, *_, **__: wrapped_pg
    # Events of a profiler bear the backend's name; for backends that are not built in the tests look for none.
    for name in ("PROFILING_SUPPORTED_BACKENDS", "SEND_RECV_PROFILING_SUPPORTED_BACKENDS"):
        setattr(distributed_test, name, [])


def excluded(path: str) -> Dict[str, str]:
    rows = [line.split(None, 1) for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason.strip() for name, reason in rows}


class Result(unittest.TestResult):
    def __init__(self, out: str) -> None:
        super().__init__()
        self.out, self.cases = out, {}  # type: ignore[var-annotated]

    def name(self, test: Any) -> str:
        return str(test.id().split(".")[-1])

    def note(self, test: Any, outcome: str, text: str) -> None:
        name = self.name(test)
        self.cases[name] = [outcome, text]
        print(f"{outcome:8} {name} {time.monotonic() - self.began:.1f} s", flush=True)
        Path(self.out).write_text(json.dumps(self.cases, indent=1))

    def startTest(self, test: Any) -> None:
        self.began = time.monotonic()

    def addSuccess(self, test: Any) -> None:
        self.note(test, "passed", "")

    def addSkip(self, test: Any, reason: str) -> None:
        self.note(test, "skipped", reason)

    def _failed(self, test: Any, err: Any) -> None:
        self.note(test, "failed", self._exc_info_to_string(err, test)[-3000:])

    addError = _failed
    addFailure = _failed


def cases(names: Dict[str, str], text: str) -> List[Any]:
    from torch.testing._internal import common_distributed
    from torch.testing._internal.distributed import distributed_test

    # Two minutes and more for each case that hangs would be hours.
    common_distributed.TIMEOUT_DEFAULT = CASE_SECONDS
    common_distributed.TIMEOUT_OVERRIDE.clear()

    class Cases(distributed_test.TestDistBackend, distributed_test.DistributedTest._DistTestBase):
        def setUp(self) -> None:
            super().setUp()
            # PyTorch is loaded already: loading it again for each rank would take most of the time.
            self._start_processes(torch.multiprocessing.get_context("fork").Process)

    found = unittest.defaultTestLoader.getTestCaseNames(Cases)
    return [Cases(n) for n in found if n not in names and text in n]


def main() -> None:
    backend, skip, out = sys.argv[1:4]
    if backend == "rondo":
        replace_gloo()
    torch.set_num_threads(1)
    result = Result(out)
    left_out = {n: r for n, r in excluded(skip).items() if "." not in n}
    for name, reason in left_out.items():
        result.cases[name] = ["excluded", reason]
    unittest.TestSuite(cases(left_out, sys.argv[4] if len(sys.argv) > 4 else "")).run(result)


if __name__ == "__main__":
    main()
