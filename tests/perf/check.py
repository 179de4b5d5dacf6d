#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of rondo-perf as a program.

    check.py --rondo-perf FILE [--rondo-run FILE] [--fake-verbs FOLDER] TEST...
"""

import sys

sys.dont_write_bytecode = True

import argparse
import os
import re

import pairs  # noqa: E402
import simulate  # noqa: E402
from reports import test_format, test_reports  # noqa: E402
from tool import (COLLECTIVES, DEVICE, NOT_IN_PLACE, OPS, REDUCING, TYPES, Programs, expect, run,  # noqa: E402
                  table)

# ---- Options --------------------------------------------------------------------------------------


def test_options():
    names = " ".join(COLLECTIVES)
    for arguments, words in (
            ([], names),
            (["allreduce"], names),
            (["all_reduce", "reduce"], "one test"),
            (["all_reduce", "--bogus"], "--help"),
            (["all_reduce", "-b", "12Q"], "64K"),
            (["all_reduce", "-b", "-1"], "64K"),
            (["all_reduce", "-e", "99999999999999999999"], "at most 1T"),
            (["all_reduce", "-b", "2M", "-e", "1M"], "--maxbytes 1048576"),
            (["all_reduce", "-b", "0", "-f", "2"], "above 0"),
            (["all_reduce", "-f", "1"], "2 to 1024"),
            (["all_reduce", "-n", "0"], "1 to 16384"),
            (["all_reduce", "-n", "two"], "1 to 16384"),
            (["all_reduce", "--iters"], "needs a value"),
            (["all_reduce", "--iters=0"], "1 to 1000000"),
            (["all_reduce", "--percentiles=1"], "takes no value"),
            (["all_reduce", "-c", "2"], "0 to 1"),
            (["all_reduce", "-d", "f32"], " ".join(TYPES)),
            (["all_reduce", "-o", "plus"], " ".join(OPS)),
            (["broadcast", "-r", "2", "-n", "2"], "0 to 1"),
            (["all_reduce", "--corrupt", "2", "-n", "2"], "0 to 1"),
            (["sendrecv", "-n", "1"], "at least 2"),
            (["all_reduce", "--transport", "udp"], "auto shm tcp"),
            (["all_reduce", "--memory", "gpu"], "malloc"),
            (["all_reduce", "--options", "order=odd"], "default|strict"),
            (["all_reduce", "--options", "ordr=strict"], "order"),
            (["all_reduce", "--json", "-", "--csv", "-"], "only one"),
            (["all_reduce", "--json", ""], "not empty"),
            (["all_reduce", "--csv", "/nowhere/at/all"], "No such file")):
        output, errors = run(*arguments, code=2)
        expect(words in errors, arguments, "says", repr(errors), "without", repr(words))
        expect(errors.startswith("rondo-perf: ") and errors.count("\n") == 1 and output == "",
               arguments, "says more than one line:", output, errors)
    _, errors = run("all_reduce", code=2, env={"RONDO_ORDER": "odd"})
    expect("RONDO_ORDER" in errors and errors.count("\n") == 1, errors)

    output, _ = run("--help")
    expect(all(name in output for name in COLLECTIVES) and "--percentiles" in output, output)
    expect(re.match(r"rondo-perf \d+\.\d+\.\d+$", run("--version")[0].strip()), "--version")
    # One size given: the other follows.
    expect([r[0] for r in table(run("all_reduce", "-e", 64, "-n", 1)[0])] == ["64"], "-e alone")
    # Options of the library arrive: order=strict shows in the plan.
    output, _ = run("all_reduce", "-e", 64, "--options", "order = strict , auth=none")
    expect("order strict" in output.splitlines()[0], output.splitlines()[0])
    # More than there is: less is taken, and it says so.
    output, _ = run("all_reduce", "-b", 8, "-e", "1T", "-i", "1T", "--memory", "malloc")
    match = re.search(r"^#\n# Reducing maxBytes to (\d+) due to memory limitation$", output, re.M)
    expect(match and 0 < int(match[1]) < 1 << 40 and table(output)[0][0] == "8", output)


# ---- The check ------------------------------------------------------------------------------------


def test_check():
    for name in COLLECTIVES:
        for rank in (0, 2):
            output, _ = run(name, "-b", 64, "-e", 1024, "-f", 16, "-n", 3, "--iters", 1, "--corrupt", rank,
                            code=1)
            wrong = [(row[8], row[12]) for row in table(output)]
            none = "N/A" if name in NOT_IN_PLACE else "0"
            expect(wrong[0] == ("1", none) and wrong[1] == ("0", none), name, rank, wrong)
            expect("# Out of bounds values : 1 FAILED" in output, output)
    output, _ = run("all_reduce", "-b", 64, "-e", 64, "--corrupt", 0, "-c", 0)
    expect(table(output)[0][8] == "N/A", "--check 0", output)


def wrong_rows(output):
    return [row for row in table(output) if row[8] != "0" or row[12] not in ("0", "N/A")]


def run_all(wire):
    for name in COLLECTIVES:
        for ranks in (1, 2, 3, 4, 8):
            if name == "sendrecv" and ranks == 1:
                continue
            root = "all" if name == "broadcast" and ranks < 8 else ranks - 1
            output, _ = run(name, "-n", ranks, "--transport", wire, "-d", "all", "-o", "all", "-r", root,
                            "-b", 24, "-e", "48K", "-i", "16K", "--iters", 1, "-w", 0, "-T", 30)
            rows = table(output)
            kinds = {tuple(row[2:5]) for row in rows}
            wanted = len(TYPES) * (len(OPS) if name in REDUCING else 1) * (ranks if root == "all" else 1)
            expect(len(kinds) == wanted and len(rows) == 3 * wanted, name, ranks, len(kinds), len(rows))
            expect(not wrong_rows(output), name, ranks, wrong_rows(output))
            print("%s on %d ranks over %s: %d rows, 0 wrong" % (name, ranks, wire, len(rows)), flush=True)


def test_all_shm():
    run_all("shm")


def test_all_tcp():
    run_all("tcp")


# ---- Jobs of a launcher ---------------------------------------------------------------------------


def test_join():
    # Whatever the launcher is, rank 0 prints one table and the others nothing; here a job of one.
    alone = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RONDO_AUTH": "none"}
    output, _ = run("all_reduce", "-e", 64, env=alone)
    expect(len(table(output)) == 1 and "Rank  1" not in output, output)
    _, errors = run("all_reduce", "-e", 64, "-n", 2, env=alone, code=2)
    expect("the launcher's job has 1" in errors, errors)
    if Programs.run is None:
        print("rondo-run is not built: its part is left out")
        return
    tool = [Programs.run, "-n", "3", "--no-prefix"]
    output, _ = run("all_reduce", "-b", 8, "-e", 64, "-f", 8, "-n", 3, tool=tool)
    expect(len(table(output)) == 2 and output.count("# Using devices") == 1, output)
    expect(len([line for line in output.splitlines() if DEVICE.match(line)]) == 3, output)
    _, errors = run("all_reduce", "-n", 2, tool=tool, code=2)
    expect(errors.count("the launcher's job has 3 ranks") == 1, errors)
    _, errors = run("all_reduce", "-b", 8, "-e", 8, "--corrupt", 1, tool=tool, code=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rondo-perf", required=True)
    parser.add_argument("--rondo-run")
    parser.add_argument("--fake-verbs")
    parser.add_argument("tests", nargs="+")
    args = parser.parse_args()
    Programs.perf = os.path.abspath(args.rondo_perf)
    Programs.run = args.rondo_run and os.path.abspath(args.rondo_run)
    Programs.fake = args.fake_verbs and os.path.abspath(args.fake_verbs)
    tests = {**globals(), **vars(pairs), **vars(simulate), "test_format": test_format, "test_reports": test_reports}
    for name in args.tests:
        tests["test_" + name]()


main()
