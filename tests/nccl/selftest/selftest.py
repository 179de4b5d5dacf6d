#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests the comparison: errors are planted in results of Rondo's, and each has to be found where it is; without a
GPU the run says why it does nothing; jobs that do not end are ended. Needs neither an MPI nor a GPU.

usage: selftest.py BUILD [unittest's arguments]"""

import sys

sys.dont_write_bytecode = True

import json
import os
import shutil
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tool import plan, sides, table  # noqa: E402

BUILD = Path()
HEAD = struct.Struct("=8sIIIIQ48s")  # programs/results.h
RECORD = struct.Struct("=IiQdQ256s")
FORMATS = {"f32": "I", "f16": "H", "u8": "B", "i32": "i"}

CASES = [
    plan.Case("all_reduce", "f32", "sum", 100, 0, False, "small"),
    plan.Case("all_reduce", "f32", "sum", 100, 0, True, "uniform"),
    plan.Case("all_reduce", "f32", "max", 100, 0, False, "wide"),
    plan.Case("all_reduce", "f32", "sum", 100, 0, False, "special"),
    plan.Case("all_reduce", "f32", "min", 100, 0, False, "special"),
    plan.Case("reduce", "f16", "avg", 100, 1, False, "uniform"),
    plan.Case("reduce_scatter", "i32", "prod", 100, 0, True, "bits"),
    plan.Case("all_gather", "u8", "sum", 100, 0, False, "bits"),
    plan.Case("broadcast", "f32", "sum", 100, 1, False, "bits"),
    plan.Case("all_to_all", "i32", "sum", 100, 0, False, "bits"),
    plan.Case("send_recv", "f16", "sum", 100, 0, False, "bits"),
]
RANKS = 3


class Results:
    """The result file of one rank, taken apart."""

    def __init__(self, path):
        data = path.read_bytes()
        self.path, self.head, self.records = path, list(HEAD.unpack_from(data)), []
        at = HEAD.size
        while at < len(data):
            record = list(RECORD.unpack_from(data, at))
            at += RECORD.size
            self.records.append([record, bytearray(data[at : at + record[2]])])
            at += record[2]

    def elements(self, case):
        kind = FORMATS[CASES[case].type]
        return memoryview(self.records[case][1]).cast(kind)

    def write(self):
        out = HEAD.pack(*self.head)
        for record, payload in self.records:
            out += RECORD.pack(*record) + bytes(payload)
        self.path.write_bytes(out)


def run_rondo(folder, cases):
    folder.mkdir()
    path = folder / "plan"
    path.write_text(plan.text(cases, RANKS, 1), encoding="utf-8")
    job = sides.Job(BUILD, folder, path, RANKS, 60)
    sides.rondo(job)
    return job


class Planted(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.top = Path(tempfile.mkdtemp(prefix="rondo-nccl-test-"))
        cls.job = run_rondo(cls.top / "true", CASES)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.top, ignore_errors=True)

    def setUp(self):
        self.folder = self.top / self.id().rpartition(".")[2]
        shutil.copytree(self.job.work, self.folder)
        for rank in range(RANKS):  # Rondo's results are right for an MPI, too
            shutil.copy(self.folder / f"rondo{RANKS}.{rank}", self.folder / f"mpi{RANKS}.{rank}")

    def results(self, rank, side="rondo"):
        return Results(self.folder / f"{side}{RANKS}.{rank}")

    def compare(self):
        job = sides.replace(self.job, work=self.folder, plan=self.folder / "plan")
        return json.loads(sides.compare(job, ["rondo", "mpi"]).read_text(encoding="utf-8"))

    def wrong(self, report, side="rondo"):
        return [c["index"] for c in report["cases"] if c[side]["verdict"] != "ok"]

    def assert_found(self, case, side="rondo", text=""):
        """Found in this case, on this side, and nowhere else; and the run's summary tells it."""
        report = self.compare()
        other = "mpi" if side == "rondo" else "rondo"
        self.assertEqual((self.wrong(report, side), self.wrong(report, other)), ([case], []))
        self.assertFalse(report["good"])
        told = table.failures(report)
        self.assertEqual(len(told), 1)
        self.assertIn(f"case {case}: {side} {CASES[case].collective}", told[0])
        self.assertIn(text, told[0])

    def change(self, case, rank, element, value, side="rondo"):
        r = self.results(rank, side)
        elements = r.elements(case)
        elements[element] = value(elements) if callable(value) else value
        elements.release()
        r.write()

    def test_nothing_planted_nothing_found(self):
        report = self.compare()
        self.assertTrue(report["good"])
        self.assertEqual((self.wrong(report), self.wrong(report, "mpi")), ([], []))
        self.assertEqual(table.failures(report), [])
        self.assertEqual(sum(c["differ"] for c in report["cases"]), 0)

    def test_one_unit_of_the_last_place_where_it_is_exact(self):
        self.change(0, 1, 42, lambda e: e[42] + 1)
        self.assert_found(0, text="rank 1, element 42")

    def test_and_on_the_peer(self):
        self.change(0, 1, 42, lambda e: e[42] + 1, "mpi")
        self.assert_found(0, "mpi", "rank 1, element 42")

    def test_beyond_the_bound(self):
        # The bound of f16 averages of 3 in [-1, 1] is below 3 * 2^-11 * 1.002: 4 units at 1, at most.
        r = self.results(1)
        elements = r.elements(5)
        at = max(range(100), key=lambda i: elements[i] & 0x7FFF)
        elements[at] += 5
        elements.release()
        r.write()
        self.assert_found(5, text=f"rank 1, element {at}")

    def test_ranks_that_differ_within_the_bound(self):
        report = self.compare()
        self.assertLess(report["cases"][1]["rondo"]["of_bound"], 1)
        found = []
        for element in range(8):  # the bound of some elements may be less than a unit
            for rank in range(RANKS):
                shutil.copy(self.job.work / f"rondo{RANKS}.{rank}", self.folder)
            self.change(1, 2, element, lambda e, i=element: e[i] + 1)
            report = self.compare()
            self.assertEqual(self.wrong(report), [1])
            found.append(report["cases"][1]["rondo"]["wrong"])
        self.assertIn(0, found)  # found by the difference alone

    def test_swapped_elements(self):
        for case in (7, 6):
            r = self.results(0)
            elements = r.elements(case)
            elements[10], elements[11] = elements[11], elements[10]
            elements.release()
            r.write()
            report = self.compare()
            self.assertEqual(self.wrong(report), sorted({7, case}))
            self.assertEqual(report["cases"][case]["rondo"]["wrong"], 2)

    def other_plan(self, name, changes):
        """Results of a plan in which cases differ, passed off as results of the true one."""
        cases = [sides.replace(c, **changes.get(i, {})) for i, c in enumerate(CASES)]
        job = run_rondo(self.folder / name, cases)
        for rank in range(RANKS):
            true = self.results(rank)
            false = Results(job.work / f"rondo{RANKS}.{rank}")
            false.head, false.path = true.head, true.path
            false.write()
        return self.compare()

    def test_wrong_operation(self):
        report = self.other_plan("ops", {0: {"op": "avg"}, 2: {"op": "min"}, 6: {"op": "sum"}})
        self.assertEqual(self.wrong(report), [0, 2, 6])

    def test_wrong_root(self):
        report = self.other_plan("root", {8: {"root": 2}})
        self.assertEqual(self.wrong(report), [8])

    def test_old_results(self):
        report = self.other_plan("old", {i: {"count": c.count} for i, c in enumerate(CASES)})
        self.assertTrue(report["good"])
        path = self.folder / "plan"
        path.write_text(plan.text(CASES, RANKS, 2), encoding="utf-8")
        report = self.compare()
        self.assertIn("of another plan", report["sides"][0]["problem"])
        self.assertEqual(len(self.wrong(report)), len(CASES))

    def test_nan_where_none_should_be(self):
        self.change(1, 0, 5, 0x7FC00000)
        self.assert_found(1, text="rank 0, element 5")

    def test_nan_with_other_bits(self):
        """Element 5 of special data is a sum with one NaN."""
        self.assertEqual(self.results(0).elements(3)[5], 0x7FC00000)
        for rank in range(RANKS):
            self.change(3, rank, 5, 0xFFC00001, "mpi")
        self.assertTrue(self.compare()["good"])
        for rank in range(RANKS):
            self.change(3, rank, 5, 0xFFC00001)
        self.assert_found(3)

    def test_dropped_nan(self):
        """Element 6 of special data is a minimum of NaNs only."""
        self.assertEqual(self.results(0).elements(4)[6], 0x7FC00000)
        for rank in range(RANKS):
            self.change(4, rank, 6, 0x3F800000)
        self.assert_found(4)

    def test_sign_of_zero(self):
        self.assertEqual(self.results(0).elements(3)[0], 0x80000000)
        for rank in range(RANKS):
            self.change(3, rank, 0, 0)
        self.assert_found(3)

    def test_result_that_was_not_written(self):
        r = self.results(2)
        r.records[9][1][:] = b"\xa5" * len(r.records[9][1])
        r.write()
        self.assert_found(9)

    def test_bytes_outside_the_result(self):
        r = self.results(2)
        r.records[7][0][4] = 1
        r.write()
        self.assert_found(7, text="outside the result")

    def test_failed_operation(self):
        r = self.results(1)
        r.records[10][0][1:3] = [2, 0]
        r.records[10][0][5] = b'the "peer" is gone'
        r.records[10][1] = b""
        r.write()
        self.assert_found(10, text='the "peer" is gone')

    def test_unsupported_is_allowed_for_the_peer_only(self):
        for side, good in (("mpi", True), ("rondo", False)):
            for rank in range(RANKS):
                r = self.results(rank, side)
                r.records[10][0][1:3] = [1, 0]
                r.records[10][1] = b""
                r.write()
            self.assertEqual(self.compare()["good"], good)

    def test_missing_file(self):
        (self.folder / f"rondo{RANKS}.1").unlink()
        report = self.compare()
        self.assertEqual(len(self.wrong(report)), len(CASES))
        self.assertIn("cannot be read", table.failures(report)[0])

    def test_files_that_are_cut_off_or_damaged(self):
        path = self.folder / f"mpi{RANKS}.2"
        data = path.read_bytes()
        for length in (0, 10, HEAD.size, HEAD.size + 20, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            report = self.compare()
            self.assertFalse(report["good"], length)
            self.assertNotEqual(report["sides"][1]["problem"], "", length)
            self.assertEqual(self.wrong(report), [], length)
        for damaged in (data + b"x", b"x" + data[1:], data[: HEAD.size + 8] + b"\xff" * 8 + data[HEAD.size + 16 :]):
            path.write_bytes(damaged)
            self.assertNotEqual(self.compare()["sides"][1]["problem"], "")

    def test_exchanged_ranks(self):
        one, two = (self.folder / f"rondo{RANKS}.{r}" for r in (1, 2))
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)
        self.assertIn("another plan, rank", self.compare()["sides"][0]["problem"])


class Plans(unittest.TestCase):
    def test_everything_is_in_the_plan(self):
        for quick in (True, False):
            for ranks in (2, 3, 4):
                made = plan.cases(ranks, quick)
                for collective in plan.REDUCING:
                    for type_ in plan.TYPES:
                        for op in plan.OPS:
                            data = {c.data for c in made if (c.collective, c.type, c.op) == (collective, type_, op)}
                            self.assertGreaterEqual(data, set(plan.kinds(type_, op)))
                for collective in plan.COLLECTIVES:
                    mine = [c for c in made if c.collective == collective]
                    self.assertEqual({c.type for c in mine}, set(plan.TYPES))
                    self.assertLessEqual({0, 1}, {c.count for c in mine})
                    self.assertTrue(any(c.repeat for c in mine))
                    if collective in plan.ROOTED:
                        pairs = {(c.root, c.in_place) for c in mine}
                        self.assertEqual(len(pairs), 2 * ranks)
                    if collective in plan.IN_PLACE:
                        self.assertEqual({c.in_place for c in mine}, {False, True})

    def test_no_case_has_the_data_of_another(self):
        lines = plan.text(plan.cases(2, True), 2, 1).splitlines()[1:]
        self.assertEqual(len({line.split()[8] for line in lines}), len(lines))


class Skips(unittest.TestCase):
    def run_it(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, HERE.parent / "run", "--build", BUILD, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )

    def test_without_a_driver(self):
        done = self.run_it("--against", "nccl", RONDO_CUDA_DRIVER="/nowhere/libcuda.so.1")
        self.assertEqual(done.returncode, 77)
        self.assertRegex(done.stdout, r"^skipped: no CUDA driver: .*/nowhere/libcuda\.so\.1")

    def test_without_a_build(self):
        done = self.run_it("--against", "reference", "--build", "/nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere/rondo-run is missing: build Rondo first", done.stdout)

    def test_library_that_is_not_there(self):
        os.environ["NCCL_LIB"] = "/nowhere/libnccl.so.2"
        try:
            with self.assertRaisesRegex(sides.Skip, "NCCL_LIB=/nowhere"):
                sides.nccl_library()
        finally:
            del os.environ["NCCL_LIB"]

    def test_job_that_does_not_end(self):
        with tempfile.TemporaryDirectory() as folder:
            log, begin = Path(folder) / "log", time.monotonic()
            argv = ["sh", "-c", "echo here; sleep 61.7 & trap '' TERM; sleep 61.7"]
            with self.assertRaisesRegex(sides.Failed, "not finished after 1 s\n.*\n *here"):
                sides.run_all([sides.Process(argv)], log, 1)
            self.assertLess(time.monotonic() - begin, 20)
            listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False)
            self.assertNotIn("sleep 61.7", listed.stdout.splitlines())

    def test_side_that_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            (work / "plan").write_text("plan 1 2 1\n0 all_reduce f32 sum -1 0 0 small 1 0\n")
            job = sides.Job(BUILD, work, work / "plan", 2, 30)
            with self.assertRaisesRegex(sides.Failed, "is no plan of this program"):
                sides.rondo(job)


class NcclSide(unittest.TestCase):
    """NCCL's side without a GPU: a stand-in for the library, over the mock driver."""

    def run_it(self, ranks, **environment):
        fake = {
            "RONDO_CUDA_DRIVER": str(BUILD / "tests" / "mock_cuda" / "libcuda.so.1"),
            "NCCL_LIB": str(BUILD / "tests" / "fake_nccl" / "libnccl.so.2"),
        }
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {**fake, **environment}):
            work = Path(folder)
            made = [c for c in plan.cases(ranks, True) if c.count < 10000]
            (work / "plan").write_text(plan.text(made, ranks, 1), encoding="utf-8")
            job = sides.Job(BUILD, work, work / "plan", ranks, 120, "0")
            self.assertGreaterEqual(sides.gpus(), 1)
            sides.nccl(job, sides.nccl_library())
            return json.loads(sides.compare(job, ["nccl"]).read_text(encoding="utf-8"))

    def test_all_cases(self):
        report = self.run_it(3)
        self.assertEqual(table.failures(report), [])
        self.assertTrue(report["good"])
        self.assertEqual(report["sides"][0]["version"], "NCCL 2.28.9")
        met = {r["name"]: r["elements"]["nccl"] for r in report["rules"]}
        for rule in ("nan-bits", "nan-min-max", "zero-min-max", "fp8-min-max", "fp8-saturate", "avg-scale"):
            self.assertGreater(met[rule], 0, rule)
        timed = [c for c in report["cases"] if c["nccl"]["us"] > 0]
        self.assertEqual({c["collective"] for c in timed}, set(plan.COLLECTIVES))

    def test_wrong_sums(self):
        report = self.run_it(2, FAKE_NCCL_WRONG="1")
        wrong = [c for c in report["cases"] if c["nccl"]["verdict"] == "wrong"]
        self.assertEqual({c["op"] for c in wrong}, {"sum"})
        self.assertEqual({c["collective"] for c in wrong}, set(plan.REDUCING))
        self.assertEqual({c["type"] for c in wrong}, set(plan.TYPES))


if __name__ == "__main__":
    BUILD = Path(sys.argv.pop(1)).resolve()
    unittest.main()
