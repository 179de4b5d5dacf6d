# SPDX-License-Identifier: MIT
"""What happens when something goes wrong, and at the end: failing.py [unittest's arguments]."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from datetime import timedelta
from pathlib import Path
from typing import Any, List

from ranks import run, seeded  # first: skips where there is no PyTorch

import torch
import torch.distributed as dist

import rondo_torch

PACKAGE = str(Path(rondo_torch.__file__).parents[1])


def killed(rank: int, n: int, call: str) -> Any:
    """Rank n - 1 is killed while the others wait for it; what they are told, and how soon."""
    x = torch.ones(1000)
    dist.all_reduce(x)
    if rank == n - 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        if call == "future":
            dist.all_reduce(x, async_op=True).get_future().wait()
        elif call == "recv":
            dist.recv(x, n - 1)
        elif call == "any":
            dist.recv(x)
        else:
            dist.all_reduce(x)
    except RuntimeError as err:
        took = time.monotonic() - start
        try:
            dist.all_reduce(x)
        except RuntimeError as again:
            return took, str(err), str(again)
    raise AssertionError("the death of a rank went unnoticed")


def late(rank: int, n: int, way: str) -> Any:
    """Rank 1 comes too late for a deadline; the others' errors."""
    x = torch.ones(10)
    dist.barrier()
    start = time.monotonic()
    group = dist.group.WORLD
    opts = dist.AllreduceOptions()
    if way == "group":
        sub = dist.new_group(timeout=timedelta(seconds=1.5))
        start = time.monotonic()
    if rank == 1:
        time.sleep(3 if way == "group" else 1.5)
    try:
        if way == "call":
            opts.timeout = timedelta(milliseconds=300)
            group.allreduce([x], opts).wait()
        elif way == "group":
            dist.all_reduce(x, group=sub)
        elif way == "wait" and rank != 1:
            work = group.allreduce([x])
            try:
                work.wait(timedelta(milliseconds=300))
            except RuntimeError as err:
                took = time.monotonic() - start
                assert work.wait() and x[0] == n  # it was only late
                return took, str(err)
        else:
            group.allreduce([x]).wait()
    except RuntimeError as err:
        return time.monotonic() - start, str(err)
    return None


def receives_nothing(rank: int, n: int) -> Any:
    """A receive that times out leaves the group as it is."""
    x = torch.zeros(3)
    if rank == 0:
        dist.group.WORLD.set_timeout(timedelta(milliseconds=300))
        start = time.monotonic()
        try:
            dist.recv(x, 1, tag=5)
        except RuntimeError as err:
            assert "Timed out waiting 300ms for recv" in str(err) and "rank 1" in str(err), err
            assert 0.25 < time.monotonic() - start < 2
        else:
            raise AssertionError("received what nobody sent")
        dist.group.WORLD.set_timeout(timedelta(seconds=60))
    dist.barrier()
    if rank == 0:
        dist.recv(x, 1, tag=6)
    elif rank == 1:
        dist.send(torch.ones(3), 0, tag=6)
    dist.barrier()
    return float(x[0])


def mismatch(rank: int, n: int) -> str:
    try:
        dist.all_reduce(torch.zeros(10 + rank))
    except RuntimeError as err:
        return str(err)
    raise AssertionError("different counts were taken")


def monitored(rank: int, n: int) -> str:
    group = dist.group.WORLD
    group.monitored_barrier(timedelta(seconds=20))
    text = ""
    if rank in (0, n - 1):
        try:
            group.monitored_barrier(timedelta(milliseconds=300), wait_all_ranks=True)
        except RuntimeError as err:
            text = str(err)
        else:
            raise AssertionError("ranks that did not come were not missed")
    x = torch.ones(1)
    dist.all_reduce(x)
    assert x[0] == n  # the group goes on
    return text


def groups(rank: int, n: int) -> None:
    """Several at once, of some ranks each."""
    members = [[0, 1], [1, 2], [0, 2], list(range(n)), [2]]
    made = [dist.new_group(m) for m in members]
    xs = {}
    works = []
    for i, m in enumerate(members):
        if rank in m:
            xs[i] = seeded(rank, (1000,), salt=i)
            works.append(dist.all_reduce(xs[i], group=made[i], async_op=True))
    for w in works:
        w.wait()
    for i, x in xs.items():
        assert torch.equal(x, sum(seeded(r, (1000,), salt=i) for r in members[i])), i
    if rank in members[1]:
        x = seeded(rank, (5,))
        dist.broadcast(x, 2, group=made[1])  # by its number in the world
        assert torch.equal(x, seeded(2, (5,)))
        assert dist.get_rank(made[1]) == members[1].index(rank)
    for g in made:
        if g != dist.GroupMember.NON_GROUP_MEMBER:
            dist.destroy_process_group(g)
    dist.barrier()


def at_once(rank: int, n: int) -> None:
    """Threads, each with a group of its own."""
    made = [dist.new_group(list(range(n))) for _ in range(4)]
    errors: List[BaseException] = []

    def use(i: int) -> None:
        try:
            for k in range(50):
                x = seeded(rank, (100 + k,), salt=i)
                dist.all_reduce(x, group=made[i])
                assert torch.equal(x, sum(seeded(r, (100 + k,), salt=i) for r in range(n)))
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors


def in_child(rank: int, n: int) -> str:
    """A forked child is told that the group is not its own."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            dist.all_reduce(torch.ones(1))
            os.write(into, b"taken")
        except RuntimeError as err:
            os.write(into, str(err).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    text = os.read(out, 1000).decode()
    dist.barrier()
    return text


SCRIPT = """
import os, sys, torch, torch.distributed as dist
import rondo_torch
rank = int(sys.argv[1])
os.environ.update(RANK=sys.argv[1], WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[2])
dist.init_process_group("rondo", init_method="env://")
x = torch.ones(100000)
work = dist.all_reduce(x, async_op=True)
future = work.get_future()
{before}
print("sum", float(x[0]))
{end}
"""


def port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Failing(unittest.TestCase):
    def dies(self, n: int, call: str) -> None:
        for result in run(n, killed, call, dies={n - 1: -signal.SIGKILL}, destroy=False)[:-1]:
            took, first, again = result
            self.assertLess(took, 2.5 if call != "any" else 3.0)
            self.assertIn(f"rank {n - 1} (", first)
            self.assertIn(f"rank {n - 1} (", again)

    def test_killed_two_ranks(self) -> None:
        self.dies(2, "all_reduce")

    def test_killed_three_ranks(self) -> None:
        self.dies(3, "all_reduce")

    def test_killed_future(self) -> None:
        self.dies(3, "future")

    def test_killed_sender(self) -> None:
        self.dies(2, "recv")
        self.dies(3, "any")

    def test_timeout_of_a_call(self) -> None:
        results = run(2, late, "call", destroy=False)
        self.assertLess(results[0][0], 1.4)
        self.assertIn("rank 1", results[0][1])

    def test_timeout_of_a_group(self) -> None:
        results = run(2, late, "group", destroy=False)
        self.assertTrue(1.4 < results[0][0] < 2.8, results)
        self.assertIn("rank 1", results[0][1])

    def test_timeout_of_a_wait(self) -> None:
        took, text = run(2, late, "wait")[0]
        self.assertTrue(0.25 < took < 1.4, took)
        self.assertIn("Timed out waiting 300ms", text)

    def test_timeout_of_a_receive(self) -> None:
        self.assertEqual(run(2, receives_nothing), [1.0, 0.0])

    def test_mismatch(self) -> None:
        for text in run(2, mismatch, destroy=False):
            self.assertIn("count 10", text)
            self.assertIn("count 11", text)

    def test_monitored_barrier(self) -> None:
        texts = run(4, monitored)
        self.assertIn("Ranks 1, 2 failed to pass monitoredBarrier in 300 ms", texts[0])
        self.assertIn("Rank 3 successfully reached monitoredBarrier", texts[3])

    def test_groups(self) -> None:
        run(3, groups)

    def test_groups_in_threads(self) -> None:
        run(2, at_once)

    def test_forked_child(self) -> None:
        for text in run(2, in_child):
            self.assertIn("forked child", text)

    def ends(self, before: str, end: str, code: int = 0) -> None:
        where = str(port())
        env = {**os.environ, "PYTHONPATH": PACKAGE}
        script = SCRIPT.format(before=before, end=end)
        children = [
            subprocess.Popen([sys.executable, "-c", script, str(r), where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
            for r in range(2)
        ]
        for child in children:
            try:
                out, err = child.communicate(timeout=40)
            finally:
                child.kill()
            self.assertEqual(child.returncode, code, err.decode())
            self.assertEqual(out, b"sum 2.0\n", err.decode())
            if code == 0:
                self.assertNotIn(b"terminate called", err)

    def test_end_without_destroy(self) -> None:
        self.ends("work.wait()", "")
        self.ends("future.wait()", "dist.barrier(async_op=True)")

    def test_end_by_an_exception(self) -> None:
        self.ends("future.wait()", "raise SystemExit(3)", 3)

    def test_unknown_library(self) -> None:
        env = {**os.environ, "PYTHONPATH": PACKAGE, "RONDO_LIBRARY": "/nowhere/librondo.so"}
        script = SCRIPT.replace('"2"', '"1"').format(before="", end="")
        got = subprocess.run([sys.executable, "-c", script, "0", str(port())], env=env, capture_output=True, timeout=60)
        self.assertNotEqual(got.returncode, 0)
        self.assertIn(b"RONDO_LIBRARY names it: /nowhere/librondo.so", got.stderr)

    def test_missing_rank(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            script = (
                "import sys, torch.distributed as dist, rondo_torch\nfrom datetime import timedelta\n"
                "from rondo_torch._group import Group\n"
                "Group(dist.FileStore(sys.argv[1], 2), 0, 2, timedelta(seconds=1))"
            )
            env = {**os.environ, "PYTHONPATH": PACKAGE}
            got = subprocess.run([sys.executable, "-c", script, folder + "/s"], env=env, capture_output=True, timeout=60)
            self.assertNotEqual(got.returncode, 0)
            self.assertIn(b"waiting for ranks 1 (", got.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
