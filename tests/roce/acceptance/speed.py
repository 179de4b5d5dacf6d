# SPDX-License-Identifier: MIT
"""rondo-perf put beside ib_write_bw, in turns within one boot.

ib_write_bw's receiver sleeps all the time: nothing tells it of what arrives. Rondo's has to take every message
and give credit. What compares is put with both ends asleep while they wait; awake its receiver polls, which
takes from the emulated network the processor time that it runs on. Both are shown.
"""

import re
import shutil
import statistics

from . import report
from .lab import Step, say

SIZE = 1 << 20
GOAL = 0.9
IB, ASLEEP, AWAKE = "ib_write_bw", "put --sleep", "put"


def perftest(k, count):
    """Rank 0 writes to rank 1, which must listen first."""
    words = f"ib_write_bw -d $ROCE_DEVICE -s {SIZE} -n {count} -q 1 -m 4096 -p {18515 + k}"
    return (
        f"if [ $RANK = 1 ]; then {words}; exit; fi; "
        f"for try in $(seq 100); do {words} 10.99.0.2 && exit 0; sleep 0.2; done; exit 1"
    )


def put(lab, count, more=""):
    return (
        f"{lab.program('rondo-perf')} put --transport verbs -b {SIZE} -e {SIZE} "
        f"--iters {count} -w {max(2, count // 20)} -c 0{more}"
    )


def rate(step):
    """MB/s (10^6 bytes); None where there is no figure."""
    if step.name == IB:
        m = re.search(rf"^\s*{SIZE}\s+\d+\s+[\d.]+\s+([\d.]+)", step.text(0), re.M)  # MiB/s
        return float(m[1]) * SIZE / 1e6 if m else None
    m = re.search(rf"^\s+{SIZE}\s+\d+\s+([\d.]+)", step.text(0), re.M)  # microseconds
    return SIZE / float(m[1]) if m else None


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measure(lab, rounds=7, count=150):
    name = "put at 1 MiB against ib_write_bw"
    if shutil.which(IB) is None:
        return [report.Result(name, "skip", "ib_write_bw is not installed (package perftest)")]
    say(f"{rounds} rounds of ib_write_bw and rondo-perf put")
    steps = []
    for k in range(rounds):
        turn = [
            Step(IB, perftest(k, count), 240),
            Step(ASLEEP, put(lab, count, " --sleep"), 240),
            Step(AWAKE, put(lab, count), 240),
        ]
        steps += turn[k % 3 :] + turn[: k % 3]
    summary = lab.boot(steps)
    bad = next((f"{s.name}: {s.trouble()}" for s in steps if not s.ok()), summary["problem"])
    table = [
        {s.name: rate(s) for s in steps[k : k + 3]} for k in range(0, len(steps), 3)
    ]
    if bad or any(None in row.values() for row in table):
        return [report.Result(name, "fail", bad or "a figure is missing")]
    ratios = {n: [row[n] / row[IB] for row in table] for n in (ASLEEP, AWAKE)}
    median = statistics.median(ratios[ASLEEP])
    speeds = ", ".join(f"{n} {statistics.median(r[n] for r in table):.1f}" for n in table[0])
    detail = (
        f"ratio {spread(ratios[ASLEEP])}, goal {GOAL}; awake {spread(ratios[AWAKE])}; "
        f"medians in MB/s: {speeds}"
    )
    data = {"rounds": table, "ratios": ratios, "median": median, "goal": GOAL}
    return [report.Result(name, "pass" if median >= GOAL else "fail", detail, data)]
