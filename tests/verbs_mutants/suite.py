# SPDX-License-Identifier: MIT
"""The cases: programs over the fake library, quick ones first, and what their output tells of a failure."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

WEATHER = {"FAKE_VERBS_FAULTS": "late,reorder=20,delay=300", "FAKE_VERBS_DEVICES": "2"}
LOSS = {"FAKE_VERBS_FAULTS": "loss=1,rnr=5"}
TESTS = Path(__file__).resolve().parents[1]
PURE = sorted(path.stem for path in TESTS.glob("unit/test_verbs_*.c"))
WHOLE = sorted(path.stem for path in TESTS.glob("verbs/test_verbs_*.c"))
MOST = "connect.agree,connect.links,connect.again,message.*,credit.*,sent.*,memory.*,path.*"
FEW = "connect.agree,message.*,credit.*,sent.*"


class Case:
    """A program, its arguments, its environment, and after how many seconds it counts as hung."""

    def __init__(self, name, command, env=None, seconds=240):
        self.name, self.command, self.env, self.seconds = name, command.split(), env or {}, seconds


def conform(only="", options="", more=""):
    return "rondo-conform --transport verbs --format tap %s%s%s" % (
        "--only " + only if only else "", " --options " + options if options else "", more)


RAIL = {"FAKE_VERBS_DEVICES": "2", "FAKE_VERBS_PORTS": "2", "FAKE_VERBS_LEAKS": "1"}
CASES = [
    *[Case(name, "tests/bin/" + name, seconds=60) for name in PURE],
    *[Case("verbs_rail_" + link, "tests/bin/verbs_rail_roce", {**RAIL, "FAKE_VERBS_LINK": link}, 120)
      for link in ("roce", "ib", "iwarp")],
    *[Case(name, "tests/bin/" + name) for name in WHOLE],
    Case("conform-two", conform(), {"FAKE_VERBS_DEVICES": "2"}, 600),
    Case("conform-weather", conform(MOST, "verbs_qps=2,verbs_stripe=4K"), WEATHER, 400),
    Case("conform-split", conform(MOST, "verbs_mode=split"), {**WEATHER, "FAKE_VERBS_PORTS": "2"}, 400),
    Case("conform-send", conform(MOST, "verbs_mode=send,verbs_qps=3"), WEATHER, 400),
    Case("conform-ib", conform(FEW), {"FAKE_VERBS_LINK": "ib", "FAKE_VERBS_DEVICES": "2"}, 400),
    Case("conform-loss", conform(FEW, "verbs_timeout=4ms"), LOSS, 400),
    Case("perf", "rondo-perf all_reduce --transport verbs -n 3 -b 1 -e 1M -f 1024 --iters 5 -w 1 -T 60",
         {"FAKE_VERBS_DEVICES": "2", "FAKE_VERBS_SOURCE_STRICT": "0"}),
]
TARGETS = ["rondo-conform", "rondo-perf", "fake_verbs", "verbs_rail_roce", *PURE, *WHOLE]


def order(first):
    """All cases, those in `first` before the others. "conform:IDS": rondo-conform with these checks only."""
    named = {case.name: case for case in CASES}
    front = [named[word] if word in named else
             Case(word, conform(word.split(":")[1]), {"FAKE_VERBS_DEVICES": "2"}, 200) for word in first]
    return front + [case for case in CASES if case not in front]


# ---- Running one ---------------------------------------------------------------------------------

RULE = re.compile(r"fake_verbs: (RULE \w+)")
CHECK = re.compile(r"not ok \d+ - ([\w.-]+)")
TEST = re.compile(r"\[  FAILED  \] (test_\w+)")
BEGUN = re.compile(r"\[ RUN      \] (test_\w+)")


def found(pattern, lines):
    return [m[1] for line in lines for m in [pattern.search(line)] if m]


class Verdict:
    """What one run told. `by` is empty when it passed."""

    def __init__(self, case, code, lines, hung):
        rules, failed = found(RULE, lines), found(CHECK, lines) or found(TEST, lines)
        self.lines, self.by = lines, ""
        if hung or code != 0 or failed:
            what = (failed or found(BEGUN, lines)[-1:] or [""])[0]
            end = (rules or [""])[0] or ("" if failed or code > 0 else
                                         "does not end" if hung else "signal %d" % -code)
            self.by = ": ".join(filter(None, (case.name.split(":")[0], what, end)))


def environment(build, folder, case):
    """Without what a launcher or the user has set."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("RONDO_", "FAKE_VERBS_", "SLURM_", "PMI_", "OMPI_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    return {**env, "LD_LIBRARY_PATH": str(build / "tests/fake_verbs"), "FAKE_VERBS_DIR": folder, **case.env}


LIVE = set()    # processes that run


def end_group(process):
    """Ends the program and what it started; all of it is in a group of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def read(process):
    """Its lines, until its end or a moment after its first failed check."""
    lines, left = [], None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if left is None and (CHECK.match(line) or TEST.search(line)):
            left = 8    # they say what was seen
        elif left is not None and (left := left - 1) == 0:
            break
        if left is not None and (TEST.search(line) or line.strip() == "..."):
            break
    return lines


def run(build, case):
    """Runs a case until its end, its first failed check, or its time is over."""
    folder = tempfile.mkdtemp(prefix="rondo-vm-", dir="/tmp")   # sockets need a short path
    process = subprocess.Popen([str(build / case.command[0]), *case.command[1:]],
                               env=environment(build, folder, case), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                               errors="replace", start_new_session=True, cwd=folder)
    LIVE.add(process)
    hung = threading.Event()
    timer = threading.Timer(case.seconds, lambda: (hung.set(), end_group(process)))
    timer.start()
    try:
        lines = read(process)
        if not any(CHECK.match(line) or TEST.search(line) for line in lines):
            process.wait()
    finally:
        timer.cancel()
        end_group(process)
        process.stdout.close()
        process.wait()
        LIVE.discard(process)
        shutil.rmtree(folder, ignore_errors=True)
    return Verdict(case, process.returncode, lines, hung.is_set())


def timed(build, case):
    begin = time.monotonic()
    verdict = run(build, case)
    return verdict, time.monotonic() - begin
