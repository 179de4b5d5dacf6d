#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The laboratory itself: machines.py PING [short|long [CLASS.TEST…]]. Exit code 77 when there is none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

RUN = Path(__file__).resolve().parent.parent / "run"
SKIPPED = 77
PING = sys.argv[1] if len(sys.argv) > 1 else ""


def laboratory(*words):
    command = [RUN, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def started_by(lab):
    path = Path(f"/proc/{lab.pid}/task/{lab.pid}/children")
    return path.read_text(encoding="ascii").split()


def folders(lab):
    return list(Path("/tmp").glob(f"roce{lab.pid}-*"))


class Case(unittest.TestCase):
    maxDiff = None

    def run_lab(self, *words, code=0):
        """The lines of the job by rank, and the summary."""
        with tempfile.TemporaryDirectory() as folder:
            summary = Path(folder) / "summary.json"
            done = laboratory("--json", summary, *words)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
            found = json.loads(summary.read_text(encoding="utf-8"))
        self.assertEqual(found["code"], code)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        lines = {}
        for line in done.stdout.splitlines():
            prefix, _, text = line.partition("] ")
            lines.setdefault(int(prefix.split(".")[1]), []).append(text)
        return lines, found


class Short(Case):
    """One boot: what a job finds, and that the hosts' devices reach each other."""

    def test_two_hosts_in_one_machine(self):
        script = (
            "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $(hostname) "
            "$RONDO_DEVICE; "
            "stat -c %a $RONDO_KEY_FILE; readlink /proc/self/ns/net; pwd; "
            f"{PING} 1 && exit $((RANK + 3))"
        )
        lines, found = self.run_lab("--one-vm", "--", "sh", "-c", script, code=4)
        self.assertEqual(found["codes"], {"0": 3, "1": 4})
        self.assertEqual(lines[0][0], "0 2 0 1 10.99.0.1 node0 rxe0r0")
        self.assertEqual(lines[1][0], "1 2 0 1 10.99.0.1 node1 rxe1r0")
        for rank in (0, 1):
            self.assertEqual(lines[rank][1], "600")
            self.assertEqual(lines[rank][3], os.getcwd())
            self.assertRegex(lines[rank][4], r"^[1-9]\d* messages, largest gap")
        self.assertNotEqual(lines[0][2], lines[1][2], "two hosts, two network namespaces")


class OneMachine(Case):
    kind = ("--one-vm",)

    def test_ranks_rails_and_families(self):
        script = (
            "echo $RANK $LOCAL_RANK $(hostname) $MASTER_ADDR; rdma link | grep -c ACTIVE; "
            "ip -6 addr | grep -c fd99"
        )
        words = ("-N", 3, "-r", 2, "--rails", 2, "--ipv6", "--", "sh", "-c", script)
        lines, found = self.run_lab(*self.kind, *words)
        self.assertEqual(len(found["codes"]), 6)
        for rank in range(6):
            self.assertEqual(lines[rank][0], f"{rank} {rank % 2} node{rank // 2} fd99::1")
            self.assertEqual(lines[rank][1], "6" if self.kind else "2")
            self.assertEqual(lines[rank][2], "2")

    def test_a_bad_wire_is_survived(self):
        wire = ("--loss", 1, "--delay", 2, "--reorder", 1)
        lines, _ = self.run_lab(*self.kind, *wire, "--", PING, 3)
        self.assertIn("messages, largest gap", lines[0][0])

    def test_a_short_cut_is_survived(self):
        lines, _ = self.run_lab(*self.kind, "--cut", "1@3", "--heal", "1@3.1", "--", PING, 6)
        self.assertIn("messages, largest gap", lines[0][0])

    def test_a_cut_is_noticed_by_the_device(self):
        lines, found = self.run_lab(*self.kind, "--cut", "1@3", "--", PING, 20, code=3)
        self.assertIn("retry", lines[0][0])
        self.assertEqual(found["codes"], {"0": 3, "1": 3})
        self.assertEqual(found["events"], ["cut 1:0 at 3 s"])

    def test_a_cable_that_is_out_is_noticed(self):
        lines, _ = self.run_lab(*self.kind, "--link-down", "1@3", "--", PING, 20, code=3)
        self.assertIn("retry", lines[0][0])

    def test_a_killed_host_has_no_exit_code(self):
        lines, found = self.run_lab(*self.kind, "--kill", "1@3", "--", PING, 20, code=3)
        self.assertIn("retry", lines[0][0])
        self.assertEqual(found["codes"], {"0": 3, "1": "killed"})

    def test_a_pause_is_as_long_as_it_is_told(self):
        script = (
            "a=$(date +%s); while [ $SECONDS -lt 14 ]; do b=$(date +%s); "
            "[ $((b - a)) -lt 4 ] || exit 9; a=$b; sleep 0.1; done"
        )
        _, found = self.run_lab(*self.kind, "--pause", "1@3:6", "--", "bash", "-c", script, code=9)
        self.assertEqual(found["codes"], {"0": 0, "1": 9})

    def test_a_job_that_does_not_end(self):
        _, found = self.run_lab(*self.kind, "--timeout", 2, "--", "sleep", "1000", code=124)
        self.assertEqual(found["codes"], {"0": None, "1": None})

    def test_a_machine_that_crashes(self):
        script = "sleep 1; [ $RANK = 0 ] || echo c >/proc/sysrq-trigger; sleep 100"
        _, found = self.run_lab(*self.kind, "--", "sh", "-c", script, code=125)
        self.assertIn("ended unexpectedly", found["problem"])

    def test_an_interrupt_leaves_nothing(self):
        lab = subprocess.Popen(
            [RUN, *self.kind, "--", "sh", "-c", "echo here; sleep 100"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.assertIn("here", lab.stdout.readline())
        self.assertEqual(len(folders(lab)), 1)
        children = started_by(lab)
        self.assertTrue(children)
        lab.send_signal(signal.SIGINT)
        lab.communicate(timeout=60)
        self.assertEqual(lab.returncode, 130)
        self.assertFalse([c for c in children if Path(f"/proc/{c}").exists()])
        self.assertEqual(folders(lab), [])

    def test_its_end_by_force_ends_the_machines(self):
        lab = subprocess.Popen([RUN, *self.kind, "--", "sleep", "100"], stderr=subprocess.DEVNULL)
        children = []
        until = time.monotonic() + 60
        while len(children) < (1 if self.kind else 3) and time.monotonic() < until:
            children = started_by(lab)
            time.sleep(0.05)
        self.assertTrue(children)
        lab.kill()
        lab.wait()
        while any(Path(f"/proc/{c}").exists() for c in children) and time.monotonic() < until:
            time.sleep(0.05)
        self.assertFalse([c for c in children if Path(f"/proc/{c}").exists()])
        for folder in folders(lab):  # a run that is killed cannot clean up
            shutil.rmtree(folder)


class ManyMachines(OneMachine):
    kind = ()


def main():
    which = sys.argv[2] if len(sys.argv) > 2 else "short"
    ready = laboratory("-N", 1, "--one-vm", "--check")
    if ready.returncode == SKIPPED:
        print(ready.stderr.strip())
        return SKIPPED
    loader = unittest.TestLoader()
    cases = {"short": (Short,), "long": (OneMachine, ManyMachines)}[which]
    suite = unittest.TestSuite(loader.loadTestsFromTestCase(c) for c in cases)
    if len(sys.argv) > 3:
        suite = loader.loadTestsFromNames(sys.argv[3:], sys.modules[__name__])
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
