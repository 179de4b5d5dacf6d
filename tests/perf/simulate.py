# SPDX-License-Identifier: MIT
"""rondo-perf --simulate: what a description may be, and what comes out."""

import csv
import io
import json
import os
import tempfile

from tool import expect, run

CLUSTER = {"hosts": 4, "ranks_per_host": 2, "nic_gbps": 10, "nic_us": 5, "inner_gbps": 40,
           "inner_us": 1}
RAILS = {"hosts": 4, "ranks_per_host": 1, "nic_gbps": 2, "nic_us": 5, "inner_gbps": 40, "inner_us": 1}


def simulate(text, *arguments, code=0, test="all_reduce"):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "cluster.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text if isinstance(text, str) else json.dumps(text))
        return run(test, "--simulate", path, *arguments, code=code)


def rows(cluster, *arguments, test="all_reduce"):
    output, _ = simulate(cluster, *arguments, "--csv", "-", test=test)
    return list(csv.DictReader(io.StringIO(output)))


def test_simulate_bad():
    lines = json.dumps(CLUSTER, indent=1)
    for text, words in (
            ("", ("line 1",)),
            ("[]", ("one object",)),
            (lines.replace(",\n", "\n", 1), ("line 3",)),
            (lines.replace('"hosts": 4', '"hosts": 4, "hosts": 5'), ("duplicate",)),
            (lines.replace('"hosts": 4', '"hosts": 0'), ("line 2", '"hosts"', "1 to 16384")),
            (lines.replace('"hosts": 4', '"hosts": 1.5'), ("line 2", "whole number")),
            (lines.replace('"nic_us": 5', '"nic_us": "5"'), ("line 5", '"nic_us"', "a number from")),
            (lines.replace('"nic_us": 5', '"nic_us": -1'), ("line 5", '"nic_us"', "a number from")),
            (lines.replace('"inner_us"', '"iner_us"'), ('"inner_us" is missing',)),
            (lines.replace('"nic_us": 5', '"nic_us": 5,\n "nick": 1'), ("line 6", '"nick"', "nic_gbps")),
            (lines.replace('"hosts": 4', '"hosts": 16384'), ("line 2", "32768 ranks", "at most 16384"))):
        output, errors = simulate(text, "-e", 64, code=2)
        expect(output == "" and errors.startswith("rondo-perf: --simulate: ") and
               errors.count("\n") == 1 and "cluster.json" in errors, text, output, errors)
        expect(all(word in errors for word in words), repr(text), "says", errors, "without", words)
    _, errors = run("all_reduce", "--simulate", "/nowhere/at/all", code=2)
    expect("No such file" in errors and "/nowhere/at/all" in errors, errors)
    _, errors = simulate(CLUSTER, "-n", 9, code=2)
    expect("2 to 8" in errors, errors)
    _, errors = simulate(CLUSTER, code=2, test="sendrecv")
    expect("all_reduce" in errors and "sendrecv" in errors, errors)


def test_simulate_table():
    sizes = ("-b", 64, "-e", "1M", "-f", 16)
    found = rows(CLUSTER, *sizes)
    expect({r["algorithm"] for r in found} == {"direct", "doubling", "owner", "ring", "node"}, found)
    expect(sorted({int(r["bytes"]) for r in found}) == [64, 1024, 16384, 262144], found)
    for size in (64, 262144):
        chosen = [r["algorithm"] for r in found if int(r["bytes"]) == size and r["chosen"] == "1"]
        expect(chosen == ["direct" if size == 64 else "node"], size, chosen)
    # The same seed, the same figures; a faster network, shorter times.
    times = [r["time_us"] for r in found]
    expect([r["time_us"] for r in rows(CLUSTER, *sizes)] == times, "another run differs")
    fast = rows({**CLUSTER, "nic_us": 1, "nic_gbps": 100}, *sizes)
    expect(all(float(f["time_us"]) < float(r["time_us"]) for f, r in zip(fast, found)), fast)
    # With a slow NIC the ring takes as long as its bytes need, each host's once.
    slow = rows({**CLUSTER, "nic_gbps": 0.1}, *sizes)
    ring = [r for r in slow if r["algorithm"] == "ring" and r["bytes"] == "262144"][0]
    least = 2 * 7 / 8 * 262144 / 0.1e3
    expect(least < float(ring["time_us"]) < 1.5 * least, least, ring)
    # With the node first, what the hosts' bytes need, however many ranks they have.
    node = [r for r in slow if r["algorithm"] == "node" and r["bytes"] == "262144"][0]
    least = 2 * (CLUSTER["hosts"] - 1) / CLUSTER["hosts"] * 262144 / 0.1e3
    expect(least < float(node["time_us"]) < 1.1 * least, least, node)
    for test, names in (("broadcast", {"tree", "chain"}), ("reduce", {"tree", "chain"}),
                        ("all_gather", {"ring"}), ("all_to_all", {"pairs"}),
                        ("reduce_scatter", {"ring", "owner"})):
        found = rows(CLUSTER, "-b", 4096, "-e", 4096, test=test)
        expect({r["algorithm"] for r in found} == names, test, found)
    # What serves few ranks only is left out where there are more.
    for test, names in (("all_reduce", {"doubling", "ring", "node"}), ("reduce_scatter", {"ring"})):
        found = rows({**CLUSTER, "hosts": 36}, "-b", 8192, "-e", 8192, test=test)
        expect({r["algorithm"] for r in found} == names and found[0]["ranks"] == "72", test, found)
    output, _ = simulate(CLUSTER, "-b", 64, "-e", 64, "--json", "-")
    report = json.loads(output)
    expect(report["simulated"] and report["ranks"] == 8 and len(report["rows"]) == 5, output)
    expect([r["algorithm"] for r in report["rows"] if r["chosen"]] == ["direct"], output)
    output, _ = simulate(CLUSTER, "-b", 64, "-e", 64)
    expect("direct*" in output and "ring " in output, output)


def test_simulate_rails():
    """NICs that carry equal parts: twice as many, half the time of what the wire bounds, as exact as latency allows."""
    def seconds(size, algorithm="ring", **other):
        found = rows({**RAILS, **other}, "-b", size, "-e", size)
        return float([r for r in found if r["algorithm"] == algorithm][0]["time_us"]) / 1e6

    size = 256 << 20
    one, two, four = seconds(size), seconds(size, nics_per_host=2), seconds(size, nics_per_host=4)
    least = 2 * 3 / 4 * size / 2e9
    expect(least < one < 1.1 * least, "one NIC:", one, "s, at least", least)
    expect(1.9 < one / two < 2.1, "two NICs:", one, two)
    expect(3.7 < one / four < 4.2, "four NICs:", one, four)
    # Ranks that have one NIC each, or share them, send by that alone; what is as short as latency gains nothing.
    each, shared = (seconds(size // 8, ranks_per_host=2, nics_per_host=n) for n in (2, 1))
    expect(0.95 < shared / each < 1.05, "a NIC each:", each, "one for both:", shared)
    expect(0.95 < seconds(64) / seconds(64, nics_per_host=2) < 1.05, "64 bytes")
    # Unless each of them leads a stream.
    one, two = (seconds(size // 4, "node", ranks_per_host=2, nics_per_host=n) for n in (1, 2))
    expect(1.9 < one / two < 2.1, "two ranks a host, two NICs:", one, two)
