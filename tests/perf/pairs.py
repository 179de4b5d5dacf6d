# SPDX-License-Identifier: MIT
"""put, get and pingpong: their table, their reports, and what they count as wrong."""

import csv
import json
import os
import re
import tempfile

from reports import check_plot
from tool import DEVICE, Programs, expect, run

PAIRS = ("put", "get", "pingpong")
HEADER = "#       size     iters      time       bw    total       rate%s  #wrong "
UNITS = "#        (B)                (us)   (GB/s)   (GB/s)      (1/s)%s     (B) "
PERCENTILES = ("       p50       p99", "      (us)      (us)")


def rows_of(output, name):
    """The rows, as lists of 7 or, with percentiles, 9 texts."""
    rows = [line.split() for line in output.splitlines() if line and not line.startswith("#")]
    expect(all(len(row) == (7 if name == "put" else 9) for row in rows), output)
    return rows


def check_table(output, name, wire, sizes, ranks, iters):
    lines = output.split("\n")
    expect(re.match(r"# rondo version \S+ plan: %s over %s in messages of at most \d+ bytes, \d+ slots, "
                    r"waiting awake$" % (name, wire), lines[0]), lines[0])
    expect(lines[1] == "# Point-to-point test starting: rondo-perf " + name, lines[1])
    devices = [DEVICE.match(line) for line in lines if DEVICE.match(line)]
    expect(len(devices) == ranks, output)
    for rank, match in enumerate(devices):
        alone = ranks % 2 == 1 and rank == ranks - 1
        expect(match[7].endswith(", no wire" if alone else ", " + wire), rank, match[7])
    more = ("", "") if name == "put" else PERCENTILES
    expect(HEADER % more[0] in lines and UNITS % more[1] in lines, output)
    rows = rows_of(output, name)
    expect([int(row[0]) for row in rows] == sizes, rows)
    for row, size in zip(rows, sizes):
        # The printed time is rounded, by much where it is short.
        time, bandwidth = float(row[2]), float(row[3])
        expect(int(row[1]) == iters and row[-1] == "0", row)
        # The times of several pairs are averaged, and so are their bandwidths.
        expect(ranks > 3 or abs(bandwidth * time - size / 1000) <= 0.006 * (bandwidth + time) + 0.01, row)
        expect(ranks > 3 or row[3] == row[4], "total of one pair:", row)
        expect(name == "put" or 0 < float(row[6]) <= float(row[7]), row)
    expect("# Out of bounds values : 0 OK" in lines, output)


def run_pairs(wire):
    # Nothing, one byte, less and more than a message, and more than all slots hold.
    for name in PAIRS:
        for ranks in (2, 3, 4):
            for sizes, step in (([0, 3000001], "-i"), ([1, 67, 4489, 300763], "-f")):
                output, errors = run(name, "-b", sizes[0], "-e", sizes[-1], step, sizes[1], "-n", ranks,
                                     "--transport", wire, "--iters", 7, "-w", 2, "-T", 60)
                expect(errors == "", errors)
                check_table(output, name, wire, sizes, ranks, 7)
    for name in PAIRS:
        output, _ = run(name, "-b", 8, "-e", "32K", "-f", 16, "--transport", wire, "--iters", 3, "--memory",
                        "malloc", "--sleep")
        expect("waiting asleep" in output.splitlines()[0], output)
        expect([row[0] for row in rows_of(output, name)] == ["8", "128", "2048", "32768"], output)
        check_wrong(name, wire)
    output, _ = run("put", "-b", 8, "-e", "1M", "-i", "500K", "--transport", wire, "--bidirectional",
                    "--iters", 5)
    expect("put both ways over" in output.splitlines()[0], output)
    for row in rows_of(output, "put"):
        expect(abs(float(row[4]) - 2 * float(row[3])) <= 0.02 + 0.01 * float(row[4]) and row[6] == "0", row)


def check_wrong(name, wire):
    """One bit is damaged on each rank that receives anything: the first row says so, and no other."""
    for rank in (0, 1):
        command = [name, "-b", 64, "-e", 1024, "-f", 16, "--transport", wire, "--iters", 2, "--corrupt",
                   rank]
        if (name, rank) in (("put", 0), ("get", 1)):
            _, errors = run(*command, code=2)
            expect("receives nothing" in errors, errors)
            continue
        output, _ = run(*command, code=1)
        expect([row[-1] for row in rows_of(output, name)] == ["1", "0"], output)
        expect("# Out of bounds values : 1 FAILED" in output, output)


def test_pairs_shm():
    run_pairs("shm")


def test_pairs_tcp():
    run_pairs("tcp")


def test_pairs_verbs():
    """Over RDMA devices that are none; see tests/fake_verbs."""
    with tempfile.TemporaryDirectory() as directory:
        Programs.extra = {"FAKE_VERBS_DIR": directory, "LD_LIBRARY_PATH": Programs.fake}
        run_pairs("verbs")
        output, _ = run("all_reduce", "-b", 64, "-e", 64, "-n", 2, "--transport", "verbs")
        wires = [DEVICE.match(line)[7] for line in output.splitlines() if DEVICE.match(line)]
        expect(len(wires) == 2 and all(wire.endswith(", verbs") for wire in wires), output)
        Programs.extra = {}


def check_json(data, name, sizes):
    expect(data["collective"] == name and data["ranks"] == 2, data)
    expect([r["size"] for r in data["results"]] == sizes, data["results"])
    for result in data["results"]:
        expect(result["nwrong"] == 0 and result["time"] > 0 and result["actual_iterations"] == 9, result)
        bandwidth = result["size"] / result["time"] / 1000
        expect(abs(result["bw"] - bandwidth) <= 1e-3 * bandwidth + 2e-6, result)
        each = result.get("per_iter")
        expect((each is None) == (name == "put"), result)
        expect(each is None or 0 < each["min_us"] <= each["p50_us"] <= each["p99_us"] <= each["max_us"], each)
    expect(data["out_of_bounds"] == {"count": 0, "okay": "true"} and data["errors"] == [], data)


def test_pairs_reports():
    sizes = [8, 512, 32768]
    with tempfile.TemporaryDirectory() as directory:
        files = {kind: os.path.join(directory, kind) for kind in ("json", "csv", "plot")}
        for name in PAIRS:
            run(name, "-b", 8, "-e", "32K", "-f", 64, "--iters", 9, "--json", files["json"], "--csv",
                files["csv"], "--plot", files["plot"])
            with open(files["json"], encoding="utf-8") as file:
                data = json.load(file)
            check_json(data, name, sizes)
            with open(files["csv"], encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            expect(len(rows) == 3, rows)
            for row, result in zip(rows, data["results"]):
                expect(None not in row and None not in row.values() and row["wrong"] == "0", row)
                expect(int(row["size_B"]) == result["size"] and row["iterations"] == "9", row)
                expect(abs(float(row["time_us"]) - result["time"]) <= 1e-4 * result["time"], row, result)
                expect(("p99_us" in row) == (name != "put"), row)
            check_plot(files["plot"], 2 * len(sizes), [name + " on 2 ranks", "Bandwidth of one direction"])
        # Without a number of iterations, small messages get many and large ones few.
        output, _ = run("pingpong", "-b", 64, "-e", "64M", "-i", "64M")
        expect([row[1] for row in rows_of(output, "pingpong")] == ["1000"], output)
        output, _ = run("put", "-b", "2M", "-e", "2M", "-c", 0, "--json", files["json"])
        expect(rows_of(output, "put")[0][1] == "512" and rows_of(output, "put")[0][-1] == "N/A", output)
        with open(files["json"], encoding="utf-8") as file:
            expect(json.load(file)["results"][0]["nwrong"] is None, "not checked")


def test_pairs_options():
    for arguments, words in (
            (["put", "-n", 1], "at least 2"),
            (["put", "get"], "one test"),
            (["put", "--percentiles"], "pingpong"),
            (["get", "--bidirectional"], "put"),
            (["all_reduce", "--bidirectional"], "put"),
            (["all_reduce", "--sleep"], "spin=0"),
            (["put", "--corrupt", 2, "-n", 3], "receives nothing")):
        output, errors = run(*arguments, code=2)
        expect(words in errors and errors.count("\n") == 1 and output == "", arguments, errors)
    if Programs.run is None:
        print("rondo-run is not built: its part is left out")
        return
    output, _ = run("pingpong", "-b", 8, "-e", 8, tool=[Programs.run, "-n", "4", "--no-prefix"])
    expect(len(rows_of(output, "pingpong")) == 1, output)
