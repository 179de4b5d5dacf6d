#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of rondo-conform as a program: what it refuses, what it prints, how it is started.

    check.py --rondo-conform FILE [--rondo-run FILE] [--fake-verbs FOLDER] TEST...
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PLAN = re.compile(r"1\.\.(\d+)$")
POINT = re.compile(r"(not )?ok (\d+) - ([a-z.-]+): ([^#]+?)(?: # SKIP (.+))?$")


class Programs:
    conform = run = fake = None


def expect(truth, *words):
    if not truth:
        print("FAILED:", *words)
        sys.exit(1)


def environment(extra=None):
    """Without what a launcher or the user has set."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("RONDO_", "SLURM_", "PMI_", "OMPI_", "FAKE_VERBS_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    env.update(extra or {})
    return env


def run(*arguments, code=0, tool=(), env=None):
    """Its standard output and error; fails unless it exits with `code`."""
    command = [*tool, Programs.conform, *map(str, arguments)]
    done = subprocess.run(command, env=environment(env), stdin=subprocess.DEVNULL, timeout=200,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    expect(done.returncode == code, *command, "ended with", done.returncode, "and not", code,
           "\n" + done.stdout + done.stderr)
    return done.stdout, done.stderr


def read_tap(output):
    """[(ok, id, skip reason or None)], after checking the frame and that every point has its place."""
    lines = output.splitlines()
    expect(lines[0] == "TAP version 14" and PLAN.match(lines[1]), "no TAP:", output)
    points = [POINT.match(line) for line in lines if re.match("(not )?ok ", line)]
    expect(all(points), "points that are none:", output)
    expect([int(p[2]) for p in points] == list(range(1, int(PLAN.match(lines[1])[1]) + 1)),
           "numbers and plan differ:", output)
    return [(p[1] is None, p[3], p[5]) for p in points]


def listed():
    output, _ = run("--list")
    return [line.split()[0] for line in output.splitlines() if not line.startswith(" ")]


# ---- Usage ---------------------------------------------------------------------------------------


def test_usage():
    names = listed()
    expect(len(names) >= 60 and len(set(names)) == len(names), "--list:", names)
    output, _ = run("--list")
    rules = [line for line in output.splitlines() if line.startswith(" ")]
    expect(len(rules) == len(names) and all(line.strip() for line in rules), "a check without a rule")
    expect(run("--list", "--only", "sent.*,peer.bye")[0].count("\n") == 10, "--list --only")
    for arguments, words in (
            (["--bogus"], "--help"),
            (["--transport", "udp"], "shm, tcp or verbs"),
            (["--only", "mesage.sizes"], "message.sizes"),
            (["--only", "peer.bye,peer.byeback"], "peer.bye-back"),
            (["--only", "message.sequence"], "--long"),
            (["-n", "1"], "2 to 64"),
            (["-n", "two"], "2 to 64"),
            (["--timeout", "0"], "1 to 86400"),
            (["--repeat", "-1"], "1 to 1000000"),
            (["--seed", "99999999999999999999"], "63 bits"),
            (["--seed"], "needs a value"),
            (["--list=yes"], "takes no value"),
            (["--format", "xml"], "human, tap or auto"),
            (["--json", ""], "not empty"),
            (["--json", "/nowhere/at/all", "--only", "peer.bye"], "No such file"),
            (["--break", "true"], "--heal"),
            (["--device", "mlx5_0"], "--transport verbs"),
            (["--options", "slots=1"], "2..64"),
            (["--options", "slotz=4"], "slots"),
            (["one"], "one host"),
            (["one", "two", "-n", "2"], "a host several times"),
            (["one", "two; rm"], "no name of a host")):
        output, errors = run(*arguments, code=2)
        expect(words in errors, arguments, "says", repr(errors), "without", repr(words))
        expect(errors.startswith("rondo-conform: ") and errors.count("\n") == 1, arguments,
               "says more than one line:", errors)
    output, _ = run("--help")
    expect("--only" in output and "example:" in output, output)
    expect(re.match(r"rondo-conform \d+\.\d+\.\d+$", run("--version")[0].strip()), "--version")
    # A transport that is not there: one line from rank 0 says why.
    nothing = {"LD_LIBRARY_PATH": Programs.fake} if Programs.fake else {}
    _, errors = run("-t", "verbs", "--only", "peer.bye", code=1, env=nothing)
    expect("rank 0" in errors and "verbs" in errors and errors.count("\n") == 1, errors)


# ---- Reports -------------------------------------------------------------------------------------


def test_reports():
    chosen = "connect.agree,connect.peers,credit.half,path.reset"
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "out.json")
        output, _ = run("-t", "shm", "--only", chosen, "--json", name, "--seed", 42, "--repeat", 2)
        with open(name, encoding="utf-8") as f:
            report = json.load(f)
    points = read_tap(output)
    expect([p[1] for p in points] == 2 * ["connect.agree", "connect.peers", "credit.half", "path.reset"],
           points)
    expect(all(p[0] for p in points), points)
    expect("three ranks" in points[1][2] and "shm" in points[3][2] and points[0][2] is None, points)
    expect("seed 42" in output and report["seed"] == 42 and report["transport"] == "shm", output, report)
    expect((report["passed"], report["failed"], report["skipped"]) == (4, 0, 4), report)
    for check, point in zip(report["checks"], points):
        expect(check["id"] == point[1] and check["rule"] and check["title"], check)
        expect(check["result"] == ("skip" if point[2] else "pass"), check, point)
        expect(len(check["ranks"]) == 2 and check["seconds"] >= 0, check)
    expect(report["checks"][4]["round"] == 1, report["checks"][4])
    output, _ = run("-t", "shm", "--only", chosen, "--format", "human", "-n", 3)
    expect(re.search(r"^\[ 2/4\] ok .* connect.peers ", output, re.M), output)
    expect(re.search(r"^3 passed, 0 failed, 1 skipped, in ", output, re.M), output)
    # Nothing ran: that is no success.
    output, _ = run("-t", "shm", "--only", "path.*", code=1)
    expect(all(p[2] for p in read_tap(output)), output)


# ---- A check that fails --------------------------------------------------------------------------


def test_failure():
    # It stops a rank for longer than the check may take; the next check is not disturbed.
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "out.json")
        output, _ = run("-t", "tcp", "--only", "peer.stopped,peer.bye", "--timeout", 1, "--json", name, code=1)
        with open(name, encoding="utf-8") as f:
            report = json.load(f)
    points = read_tap(output)
    expect([(p[0], p[1]) for p in points] == [(False, "peer.stopped"), (True, "peer.bye")] or
           [p[1] for p in points] == ["peer.bye", "peer.stopped"], points)
    by_id = {check["id"]: check for check in report["checks"]}
    stopped = by_id["peer.stopped"]
    expect(stopped["result"] == "fail" and by_id["peer.bye"]["result"] == "pass", report)
    texts = " ".join(rank["text"] for rank in stopped["ranks"])
    expect("waited until" in texts and "posted" in texts, "no step or no counters:", texts)
    expect("  ---" in output.splitlines() and "  ..." in output.splitlines() and "rank: " in output, output)
    expect((report["passed"], report["failed"]) == (1, 1), report)
    output, _ = run("-t", "tcp", "--only", "peer.stopped", "--timeout", 1, "--format", "human", code=1)
    expect("FAIL" in output and "rule: " in output and "1 failed" in output, output)


# ---- Ways to start -------------------------------------------------------------------------------


def test_launch():
    if Programs.run is None:
        print("rondo-run is not built")
        sys.exit(77)
    output, _ = run("-t", "tcp", "--only", "connect.agree,connect.peers", "--seed", 7,
                    tool=[Programs.run, "-n", "3", "--no-prefix"])
    points = read_tap(output)  # one report, rank 0's
    expect([p[0] and p[2] is None for p in points] == [True, True], output)
    _, errors = run("-n", 2, tool=[Programs.run, "-n", "2", "--no-prefix"], code=2)
    expect("leave out --ranks" in errors, errors)
    _, errors = run("--only", "peer.bye", tool=[Programs.run, "-n", "1", "--no-prefix"], code=2)
    expect("one rank" in errors, errors)
    output, _ = run("-t", "tcp", "--only", "peer.stopped", "--timeout", 1, code=1,
                    tool=[Programs.run, "-n", "2", "--no-prefix"])
    expect(not read_tap(output)[0][0], output)


def test_hosts():
    here = "--ssh=" + os.path.join(HERE, "here")
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "it's.json")
        output, _ = run(here, "-t", "tcp", "--only", "connect.*,peer.killed", "--json", name, "localhost",
                        "localhost", "localhost", env={"RONDO_SLOTS": "6"})
        with open(name, encoding="utf-8") as f:
            report = json.load(f)
    points = read_tap(output)
    expect(all(p[0] and p[2] is None for p in points), output)
    expect(len(report["hosts"]) == 3 and report["failed"] == 0, report)
    _, errors = run("--ssh", "/nowhere/ssh", "--only", "peer.bye", "localhost", "localhost", code=1)
    expect("/nowhere/ssh" in errors and "--ssh" in errors, errors)
    _, errors = run(here, "no.such.host.invalid", "no.such.host.invalid", code=1)
    expect("no.such.host.invalid" in errors, errors)


def test_commands():
    """A path that is cut and mended by the user's commands."""
    if Programs.fake is None:
        print("the fake device library is not known")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        faults = os.path.join(folder, "faults.1.fake0")
        env = {"LD_LIBRARY_PATH": Programs.fake, "FAKE_VERBS_DIR": folder}
        output, _ = run("-t", "verbs", "-d", "fake0", "--only", "path.cut,path.grace", env=env, *(
            "--break", "echo cut=0 >%s" % faults, "--heal", ": >%s" % faults))
        expect(all(p[0] and p[2] is None for p in read_tap(output)), output)
        expect(os.path.exists(faults), "the commands were not used")
        output, _ = run("-t", "verbs", "--only", "path.grace", env=env, code=1, *(
            "--break", "exit 3", "--heal", "true"))
        expect("exit 3" in output, output)
        _, errors = run("-t", "verbs", "-d", "fake7", "--only", "peer.bye", env=env, code=2)
        expect("fake7" in errors and "fake0" in errors, errors)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rondo-conform", required=True)
    parser.add_argument("--rondo-run")
    parser.add_argument("--fake-verbs")
    parser.add_argument("tests", nargs="+")
    args = parser.parse_args()
    Programs.conform = os.path.abspath(args.rondo_conform)
    Programs.run = args.rondo_run and os.path.abspath(args.rondo_run)
    Programs.fake = args.fake_verbs and os.path.abspath(args.fake_verbs)
    for name in args.tests:
        globals()["test_" + name]()


main()
