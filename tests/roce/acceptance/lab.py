# SPDX-License-Identifier: MIT
"""Jobs for the acceptance: steps one after the other on all ranks, in the laboratory or on this host."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent.parent
RUN = ROOT / "tests/roce/run"
MARK = "@@acceptance"
STEP_PORTS = 40  # a step may be several jobs, each at a port of its own


@dataclasses.dataclass
class Step:
    """`command` runs on every rank; a list of two: one command for rank 0, one for the others."""

    name: str
    command: str
    seconds: int = 120
    codes: dict = dataclasses.field(default_factory=dict)  # by rank; None: was not reached
    lines: dict = dataclasses.field(default_factory=dict)  # by rank
    took: float = 0.0

    def ok(self):
        return bool(self.codes) and all(c == 0 for c in self.codes.values())

    def text(self, rank=None):
        ranks = sorted(self.lines) if rank is None else [rank]
        return "\n".join(line for r in ranks for line in self.lines.get(r, ()))

    def trouble(self):
        """The words of the first rank that failed, short."""
        for rank, code in sorted(self.codes.items()):
            if code != 0:
                last = [line for line in self.lines.get(rank, ()) if line.strip()][-2:]
                what = "was not reached" if code is None else f"exit code {code}"
                return f"rank {rank}, {what}: " + " / ".join(last)[-600:]
        return "it never ran" if not self.codes else ""


def script(steps):
    """For sh, on each rank. What a step needs and the last one left is in files of its own."""
    lines = ["exec 2>&1", "now() { cut -d' ' -f1 /proc/uptime; }"]
    for k, step in enumerate(steps):
        lines += [
            f"echo '{MARK} begin {k}'",
            "begin=$(now)",
            f"MASTER_PORT=$((29400 + {k * STEP_PORTS})) timeout {step.seconds} sh -c "
            + shlex.quote(step.command),
            f'echo "{MARK} end {k} $? $begin $(now)"',
        ]
    return "\n".join(lines + [""])


def take_output(steps, text, ranks):
    at = {}
    for step in steps:
        step.codes = {rank: None for rank in range(ranks)}
        step.lines = {rank: [] for rank in range(ranks)}
    for line in text.splitlines():
        found = re.match(r"\[\d+\.(\d+)\] ?(.*)", line)
        if not found:
            continue
        rank, words = int(found[1]), found[2]
        if not words.startswith(MARK):
            if rank in at:
                steps[at[rank]].lines[rank].append(words)
            continue
        _, what, k, *rest = words.split()
        at[rank] = int(k)
        if what == "end":
            step = steps[int(k)]
            step.codes[rank] = int(rest[0])
            step.took = max(step.took, float(rest[2]) - float(rest[1]))


class Laboratory:
    def __init__(self, build):
        self.build = build
        self.boots = []

    def program(self, name):
        test = self.build / "tests/bin" / name
        return str(test if test.exists() else self.build / name)

    def installed(self):
        """What is missing, or ''."""
        done = subprocess.run([RUN, "--check"], capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stderr.strip() or "tests/roce/run fails"

    def boot(self, steps, *words, nodes=2, ranks=1, environment=()):
        """One boot; the summary, in which 'problem' is '' when all machines behaved."""
        seconds = sum(s.seconds for s in steps) + 30
        with tempfile.TemporaryDirectory(prefix="rondo-accept-") as folder:
            (Path(folder) / "steps").write_text(script(steps), encoding="utf-8")
            summary = Path(folder) / "summary.json"
            command = [RUN, "-N", nodes, "-r", ranks, "--timeout", seconds, "--json", summary]
            for item in environment:
                command += ["--env", item]
            command += [*words, "--", "sh", Path(folder) / "steps"]
            done = subprocess.run(
                list(map(str, command)),
                cwd=ROOT,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + 300,
                check=False,
            )
            take_output(steps, done.stdout, nodes * ranks)
            if not summary.exists():
                return {"problem": done.stderr.strip() or f"tests/roce/run: {done.returncode}"}
            found = json.loads(summary.read_text(encoding="utf-8"))
        self.boots.append(found["boot_seconds"])
        return found

    def here(self, step, ranks, environment):
        """The same on this host, by rondo-run, in place of a boot."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("RONDO_")}
        own |= dict(item.split("=", 1) for item in environment)
        done = subprocess.run(
            [self.program("rondo-run"), "-n", str(ranks), "sh", "-c", step.command],
            cwd=ROOT,
            env=own,
            capture_output=True,
            text=True,
            timeout=step.seconds,
            check=False,
        )
        step.codes = {0: done.returncode}
        step.lines = {0: [re.sub(r"^\[\d+\] ?", "", x) for x in done.stdout.splitlines()]}
        if done.returncode != 0:
            step.lines[0] += done.stderr.splitlines()[-2:]
        return step


def say(text):
    print(f"accept: {text}", file=sys.stderr, flush=True)
