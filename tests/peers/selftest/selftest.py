#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests what is made of the figures: medians, best peers, ratios, limits, verdicts, the report's
files, and that a job that does not end is ended. Measures nothing and needs no MPI."""

import sys

sys.dont_write_bytecode = True

import csv
import importlib.util
import io
import json
import os
import platform
import shutil
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stdout
from importlib.machinery import SourceFileLoader
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench import jobs, machine, plan, report  # noqa: E402
from bench.results import Results, read_rows  # noqa: E402

MIB = plan.MIB


def canned(cores=2):
    with open(HERE / "canned.csv", newline="", encoding="utf-8") as f:
        rows = read_rows(f)
    with open(HERE / "canned_limits.csv", newline="", encoding="utf-8") as f:
        return Results(rows, list(csv.reader(f)), cores)


def run_module():
    loader = SourceFileLoader("run", str(HERE.parent / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
    loader.exec_module(module)
    return module


class Figures(unittest.TestCase):
    def setUp(self):
        self.results = canned()

    def test_median_and_least_are_over_rounds_and_iterations(self):
        figure = self.results.rondo(("shm", 2, MIB))["any buffer"]
        self.assertEqual((figure.median, figure.least, figure.samples), (50, 40, 5))
        self.assertEqual(figure.rounds, {0: 50, 1: 50.5})
        self.assertEqual(self.results.rondo(("shm", 2, 8))["any buffer"].chained, 0.12)

    def test_best_peer(self):
        cell = ("shm", 2, MIB)
        self.assertEqual(self.results.shipped(cell).title(), "Open MPI")
        self.assertEqual(self.results.shipped(cell, ("mpich",)).median, 140)
        self.assertEqual(self.results.tuned(cell).title(), "Open MPI, ring, heap kept")
        # Where nothing tuned was faster, the best that can be had is the peer as shipped.
        self.assertEqual(self.results.tuned(("shm", 2, 4 * MIB)).median, 1000)

    def test_wrong_results_and_failures_have_no_time(self):
        self.assertEqual(self.results.shipped(("tcp", 2, MIB)).peer, "openmpi")
        self.assertNotIn("rondo_mem_alloc", self.results.rondo(("shm", 2, 4 * MIB)))
        self.assertIsNone(self.results.shipped(("tcp", 2, 16 * MIB), ("openmpi", "mpich")))

    def test_a_failure_in_one_round_leaves_the_others(self):
        figure = self.results.shipped(("tcp", 4, MIB))
        self.assertEqual((figure.median, figure.problem), (701, "failed (exit code 1)"))

    def test_limits(self):
        self.assertEqual(self.results.limits["futex", "one core", 2], (2.1, 2.5, "us"))
        # Of an exchange of 110 us and a stream at 2.1 GB/s the faster counts ...
        self.assertAlmostEqual(self.results.limit_us(("tcp", 2, MIB)), 110)
        self.assertAlmostEqual(self.results.limit_us(("tcp", 2, 4 * MIB)), 4194304 / 2.1e3)
        # ... and for memory the block of S/2 a thread: 80 GB/s in the median of three rounds.
        self.assertAlmostEqual(self.results.limit_us(("shm", 2, MIB)), 1048576 / 80e3)
        self.assertAlmostEqual(self.results.limit_us(("shm", 2, 4 * MIB)), 4194304 / 40e3)
        self.assertEqual(self.results.limit_us(("shm", 2, 8)), 0)
        self.assertAlmostEqual(self.results.limit_us(("shm", 4, MIB)), 2 * 1048576 / 80e3)
        self.assertEqual(canned(cores=8).limit_us(("shm", 4, MIB)), 0)


class Verdicts(unittest.TestCase):
    def setUp(self):
        self.results = canned()

    def verdicts(self, wire):
        goal = next(g for g in plan.GOALS if g.wire == wire)
        return {(v[0] // MIB, v[1]): v[2:] for v in self.results.verdicts(goal)}

    def test_shared_memory(self):
        self.assertEqual(
            self.verdicts("shm"),
            {
                (1, "any buffer"): ("met", "0.50 x Open MPI"),
                (1, "rondo_mem_alloc"): ("met", "0.26 x Open MPI"),
                (4, "any buffer"): ("missed", "0.60 x MPICH"),
            },
        )

    def test_tcp(self):
        self.assertEqual(
            self.verdicts("tcp"),
            {
                (1, "any buffer"): ("met", "1.09 x limit"),
                (4, "any buffer"): ("missed", "1.50 x MPICH, 1.50 x limit"),
                # No MPI has a time there, and the limit is too far away to decide without one.
                (16, "any buffer"): ("open", "no peer to compare with"),
            },
        )

    def test_a_cell_without_rondo_is_open(self):
        with open(HERE / "canned.csv", newline="", encoding="utf-8") as f:
            rows = [r for r in read_rows(f) if r.peer != "rondo"]
        verdicts = [v for goal in plan.GOALS for v in Results(rows).verdicts(goal)]
        self.assertEqual({v[2] for v in verdicts}, {"open"})
        self.assertEqual(len(verdicts), 5)

    def test_a_slower_rondo_is_seen(self):
        with open(HERE / "canned.csv", newline="", encoding="utf-8") as f:
            text = f.read().replace("any buffer,1048576,us,51", "any buffer,1048576,us,50000")
            rows = read_rows(
                io.StringIO(text.replace("any buffer,1048576,us,40", "any buffer,1048576,us,52"))
            )
        self.assertEqual(
            Results(rows).verdicts(plan.GOALS[0])[0][2:], ("missed", "0.52 x Open MPI")
        )


class Report(unittest.TestCase):
    """The whole way from a work folder to the three files."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copy(HERE / "canned.csv", self.folder / "raw.csv")
        shutil.copy(HERE / "canned_limits.csv", self.folder / "limits.csv")
        meta = {
            "date": "2001-02-03",
            "cores": 2,
            "facts": [["processor", "canned"]],
            "left_out": {"mpich": "no reason"},
            "method": ["invented"],
        }
        (self.folder / "run.json").write_text(json.dumps(meta))
        self.printed = io.StringIO()
        with redirect_stdout(self.printed):
            self.code = run_module().main(["--report", "--strict", "--work", str(self.folder)])
        self.stem = self.folder / "2001-02-03-peers-2cores"

    def test_exit_code_and_summary(self):
        self.assertEqual(self.code, 1)
        self.assertIn(
            "any buffer: 1 of 2 sizes met (4 MiB missed: 0.60 x MPICH)", self.printed.getvalue()
        )

    def test_markdown(self):
        text = self.stem.with_suffix(".md").read_text()
        for wanted in (
            "## 2 ranks, shared memory",
            "| 1 MiB | 50 us (40 us) | 26.2 us (26.2 us) | 100 us (90 us)",
            "| 1 MiB | Open MPI | 0.50 | 0.62 | 3.81 | 0.26 | 0.33 | 2.00 | any buffer: met",
            "any buffer: **missed** (1.50 x MPICH, 1.50 x limit)",
            "- Gloo, allreduce, TCP on loopback, 2 ranks, 1 MiB: 3 wrong elements",
            "- Open MPI, TCP on loopback, 2 ranks, 4 MiB, 16 MiB: timed out after 29 s",
            "- MPICH was left out: no reason",
            "| processor | canned |",
            "- invented",
            "any buffer 0.12 us | 0.20 us Open MPI",
        ):
            self.assertIn(wanted, text)
        for table in text.split("\n\n"):
            widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
            self.assertLessEqual(len(widths), 1, table)

    def test_csv(self):
        with open(self.stem.with_suffix(".csv"), newline="", encoding="utf-8") as f:
            rows = {
                (r["wire"], r["ranks"], r["bytes"], r["peer"], r["config"]): r
                for r in csv.DictReader(f)
            }
        row = rows["tcp", "2", "16777216", "rondo", "any buffer"]
        self.assertEqual(
            (row["ratio_shipped_mpi"], row["ratio_shipped"], row["ratio_tuned"]),
            ("", "0.800", "1.200"),
        )
        row = rows["tcp", "2", "1048576", "rondo", "any buffer"]
        self.assertEqual(
            (row["busbw_GBps"], row["ratio_limit"], row["limit_with_add_us"]),
            ("8.738", "1.091", "120.000"),
        )
        row = rows["tcp", "2", "1048576", "gloo", "allreduce"]
        self.assertEqual(
            (row["median_us"], row["ratio_shipped"], row["problem"]), ("", "", "3 wrong elements")
        )

    def test_picture(self):
        root = ElementTree.parse(self.stem.with_suffix(".svg")).getroot()
        texts = {e.text for e in root.iter("{http://www.w3.org/2000/svg}text")}
        self.assertLessEqual(
            {
                "2 ranks, shared memory",
                "4 ranks, TCP on loopback",
                "Rondo, any buffer",
                "Open MPI as shipped",
                "best tuned peer",
            },
            texts,
        )
        for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
            for point in line.get("points").split():
                x, y = map(float, point.split(","))
                self.assertTrue(
                    0 <= x <= float(root.get("width")) and 0 <= y <= float(root.get("height"))
                )


class Plan(unittest.TestCase):
    def test_sizes(self):
        self.assertEqual(
            [plan.parse_size(t) for t in ("8", "64K", "1MiB", "1g")], [8, 65536, 1048576, 1 << 30]
        )
        for text in ("", "2", "9", "x", "-8", "8G", "1T"):
            with self.assertRaises(ValueError, msg=text):
                plan.parse_size(text)
        self.assertEqual(plan.blocks(plan.SIZES)[:2], [[8, 1024, 16384, 65536], [MIB]])

    def test_as_shipped_is_untuned(self):
        programs = dict.fromkeys((*plan.PEERS, "limit", "limits"), "program")
        for wire in plan.WIRES:
            for ranks in (2, 4):
                configs = plan.configurations(programs, ranks, wire, 2)
                self.assertEqual(len({(c.peer, c.name) for c in configs}), len(configs))
                for c in configs:
                    if c.cls == "shipped":
                        self.assertNotIn("GLIBC_TUNABLES", c.env)
                        self.assertNotIn("coll_tuned_allreduce_algorithm", c.argv)
                shipped = {c.peer for c in configs if c.cls == "shipped"}
                self.assertEqual(
                    shipped, {"openmpi", "mpich"} | ({"gloo"} if wire == "tcp" else set())
                )
                self.assertTrue(any(c.cls == "rondo" for c in configs))

    def test_users_settings_are_kept_out(self):
        os.environ["OMPI_MCA_btl"] = os.environ["RONDO_TRANSPORT"] = "self"
        env = jobs._environment({"TMPDIR": "/x"})
        self.assertFalse({"OMPI_MCA_btl", "RONDO_TRANSPORT"} & set(env))
        self.assertEqual(env["TMPDIR"], "/x")

    def test_time_text(self):
        self.assertEqual(
            [report.time_text(t) for t in (0, 0.123, 1, 999.4, 999.7, 1e6, 123456)],
            ["-", "0.12 us", "1 us", "999 us", "1 ms", "1 s", "123 ms"],
        )

    def test_the_description_names_no_host(self):
        facts = machine.describe(HERE, "1.2.3", "Release")
        self.assertIn("processors used", dict(facts))
        self.assertIn("1.2.3", dict(facts)["Rondo"])
        self.assertFalse(
            [f for f in facts if f[1] == platform.node() or str(HERE.parents[2]) in f[1]]
        )


class Jobs(unittest.TestCase):
    def test_a_job_that_does_not_end_is_ended_with_all_it_started(self):
        with tempfile.TemporaryFile("w") as log, tempfile.NamedTemporaryFile("r") as pids:
            # The grandchild ignores the polite signal.
            script = (
                "trap '' TERM; sh -c 'trap \"\" TERM; sleep 60' & "
                f"echo $! $$ > {pids.name}; sleep 60"
            )
            begin = time.monotonic()
            self.assertIsNone(jobs.bounded(["sh", "-c", script], log, 0.5))
            self.assertLess(time.monotonic() - begin, 20)
            for pid in pids.read().split():
                stat = Path(f"/proc/{pid}/stat")
                self.assertFalse(
                    stat.exists() and ") Z" not in stat.read_text(), f"process {pid} lives on"
                )

    def test_exit_codes(self):
        with tempfile.TemporaryFile("w") as log:
            self.assertEqual(jobs.bounded(["sh", "-c", "exit 3"], log, 20), 3)

    def test_rows_of_a_job_that_failed_half_way(self):
        script = (
            'while [ "$1" != --out ]; do shift; done; echo us,8,1.5 > "$2"; '
            'echo wrong,8,0 >> "$2"; echo us,64,2 >> "$2"; exit 7'
        )
        config = plan.Config("mpich", "default", "shipped", ("sh", "-c", script, "sh"))
        with tempfile.TemporaryDirectory() as folder, jobs.Runner(
            Path(folder) / "log", 1, 1
        ) as runner:
            rows = runner.run(config, 2, "shm", [8, 64], 0)
        self.assertEqual(
            [(r.bytes, r.what, r.value) for r in rows],
            [(8, "us", "1.5"), (8, "wrong", "0"), (64, "error", "failed (exit code 7)")],
        )


FAKE_DRIVER = """#!/bin/sh
time={time}
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2 ;;
        --sizes) sizes=$2 ;;
        --busy-poll) time={tuned} ;;
    esac
    shift
done
[ $time != fail ] || exit 1
for size in $(echo "$sizes" | tr , ' '); do
    echo us,$size,$time; echo wrong,$size,0
done >> "$out"
"""


class Measuring(unittest.TestCase):
    """The rounds of a whole measurement, with drivers that only say what they took."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def driver(self, name, time_us, tuned_us=0):
        path = self.folder / name
        path.write_text(FAKE_DRIVER.format(time=time_us, tuned=tuned_us))
        path.chmod(0o700)
        return str(path)

    def measure(self, programs, **more):
        programs["limits"] = self.driver("limits", 0)
        Path(programs["limits"]).write_text("#!/bin/sh\necho futex,one core,2,1.5,1.6,us\n")
        run = run_module()
        options = run.arguments(["--wires", "tcp", "--sizes", "8,1M,4M", "--ranks", "2"])
        options.work, options.rounds = self.folder, 3
        for name, value in more.items():
            setattr(options, name, value)
        measurement = run.Measurement(options, programs)
        with redirect_stdout(io.StringIO()):
            measurement.run()
        return measurement

    def test_rounds(self):
        # As on a machine with two processors: busy polling is tried with no more ranks than that.
        machine_cores, machine.cores = machine.cores, lambda: 2
        self.addCleanup(setattr, machine, "cores", machine_cores)
        rondo, gloo = self.driver("rondo", 10), self.driver("gloo", 20, 40)
        measurement = self.measure({"rondo": rondo, "gloo": gloo})
        results = Results(measurement.rows, measurement.limits)
        cell = ("tcp", 2, MIB)
        self.assertEqual(results.rondo(cell)["any buffer"].rounds, {0: 10, 1: 10, 2: 10})
        self.assertEqual(results.shipped(cell).rounds, {0: 20, 1: 20, 2: 20})
        # Twice as slow as the best peer: tried once.
        slow = [f for f in results.cells[cell] if f.config == "ring chunked, busy polling"]
        self.assertEqual([f.rounds for f in slow], [{0: 40}])
        self.assertEqual(results.limits, {("futex", "one core", 2): (1.5, 1.6, "us")})
        # Every round begins with another configuration.
        first = {r.round: (r.peer, r.config) for r in reversed(measurement.rows) if r.bytes == MIB}
        self.assertEqual(len(set(first.values())), 3)
        with open(self.folder / "raw.csv", newline="", encoding="utf-8") as f:
            self.assertEqual(read_rows(f), measurement.rows)

    def test_what_fails_twice_is_given_up(self):
        measurement = self.measure({"gloo": self.driver("gloo", "fail", "fail")})
        errors = [r for r in measurement.rows if r.config == "allreduce"]
        self.assertEqual(
            [(r.round, r.bytes, r.value) for r in errors],
            [(0, 8, "failed (exit code 1)"), (0, MIB, "failed (exit code 1)")],
        )

    def test_time_is_bounded(self):
        measurement = self.measure({"rondo": self.driver("rondo", 10)}, minutes=0)
        self.assertEqual(measurement.rows, [])
        self.assertIn("stopped after 0 minutes", measurement.notes[0])


if __name__ == "__main__":
    unittest.main(verbosity=1)
