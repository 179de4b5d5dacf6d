# SPDX-License-Identifier: MIT
"""What rondo-perf writes: the table, JSON, CSV and the picture."""

import csv
import json
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree

from tool import DEVICE, NOT_IN_PLACE, COLLECTIVES, REDUCING, ROOTED, SPLIT, TYPES, expect, run, table

# As nccl-tests print them (src/util.cu), letter for letter.
HEADER = [
    "#",
    "#                                                              out-of-place"
    "                       in-place          ",
    "#       size         count      type   redop    root     time   algbw   busbw  #wrong"
    "     time   algbw   busbw  #wrong ",
    "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)        "
    "     (us)  (GB/s)  (GB/s)         ",
]

# ---- The text -------------------------------------------------------------------------------------


def check_head(lines, ranks, sizes):
    expect(re.match(r"# rondo version \d+\.\d+\.\d+ plan: all_reduce of ", lines[0]), lines[0])
    expect(lines[1].startswith("# Collective test starting: "), lines[1])
    expect(lines[2] == "# nThread 1 nGpus 1 minBytes %d maxBytes %d step: 4(factor) warmup iters: 1 "
           "iters: 3 agg iters: 1 validation: 1 graph: 0 unalign: 0" % (sizes[0], sizes[-1]), lines[2])
    at = lines.index("# Using devices")
    for rank in range(ranks):
        match = DEVICE.match(lines[at + 1 + rank])
        expect(match and int(match[1]) == rank, "no line of rank", rank, lines[at + 1 + rank])
        expect(match[7].endswith((", shm", ", tcp")), "no wire:", match[7])
    return lines[at + 1 + ranks:]


def check_tail(lines, rows):
    expect(lines[0] == "# Out of bounds values : 0 OK", lines[0])
    match = re.match(r"# Avg bus bandwidth    : (\S+) $", lines[1])
    expect(match, repr(lines[1]))
    busbw = [float(row[i]) for row in rows for i in (7, 11)]
    mean = sum(busbw) / len(busbw)
    expect(abs(float(match[1]) - mean) <= 0.006 + 0.01 * mean, match[1], "is not the mean of", busbw)
    expect(lines[2] == "#" and lines[3].startswith("# Collective test concluded: "), lines[2:])
    expect(lines[4:] == ["#", ""], lines[4:])


def close(printed, value):
    """Whether a column of two decimals, or of fewer digits for large numbers, shows the value."""
    number = float(printed)
    digits = len(printed.partition(".")[2])
    return "e" in printed or abs(number - value) <= 0.51 * 10 ** -digits + 0.02 * value


def check_row(row, name, size, ranks):
    esize = TYPES[row[2]]
    count = size // esize
    if name in SPLIT:
        count = count // ranks // (16 // esize) * (16 // esize)
    size = count * esize * (ranks if name in SPLIT else 1)
    expect(row[:2] == [str(size), str(count)], name, "size and count", row, "and not", size, count)
    expect(row[3] == ("sum" if name in REDUCING else "none"), row)
    expect(row[4] == ("0" if name in ROOTED else "-1"), row)
    factor = {"all_reduce": 2 * (ranks - 1) / ranks}.get(name, (ranks - 1) / ranks if name in SPLIT else 1)
    for half in (row[5:9], row[9:13]):
        algbw = size / float(half[0]) / 1000
        expect(close(half[1], algbw), name, "algbw is", half[1], "and not", algbw)
        expect(close(half[2], algbw * factor), name, "busbw is", half[2], "and not", algbw * factor)
    expect(row[8] == "0" and row[12] == ("N/A" if name in NOT_IN_PLACE else "0"), row)


def check_widths(line, row):
    """Prints what was read the way nccl-tests do; it must be the same line."""
    again = "%12s  %12s  %8s  %6s  %6s" % tuple(row[:5])
    for half in (row[5:9], row[9:13]):
        again += "  %7s  %6s  %6s" % tuple(half[:3])
        again += "    N/A" if half[3] == "N/A" else "  %6s" % half[3]
    expect(line == again, repr(line), "is not", repr(again))


def test_format():
    sizes = [64, 256, 1024, 4096]
    for name in COLLECTIVES:
        for ranks in (2, 3):
            output, errors = run(name, "-b", 64, "-e", "4K", "-f", 4, "-n", ranks, "--iters", 3, "-w", 1)
            expect(errors == "", errors)
            lines = output.split("\n")
            lines.pop()
            rest = check_head(lines, ranks, sizes)
            expect(rest[:4] == HEADER, "header:", *map(repr, rest[:4]))
            rows = table(output)
            expect(len(rows) == len(sizes), len(rows), "rows")
            for row, size, line in zip(rows, sizes, rest[4:]):
                check_row(row, name, size, ranks)
                check_widths(line, row)
            check_tail(rest[4 + len(sizes):], rows)
    # Large counts of microseconds lose their decimals, not their columns: a step of one size only.
    output, _ = run("all_reduce", "-b", 0, "-e", 0, "-n", 1, "-c", 0)
    row = table(output)[0]
    expect(row[:2] == ["0", "0"] and row[8] == "N/A" and row[6] == "0.00", row)


def test_percentiles(directory):
    output, _ = run("all_reduce", "-b", 8, "-e", 8, "-n", 2, "--percentiles", "--iters", 30, "--json",
                    os.path.join(directory, "p.json"))
    names = [line for line in output.splitlines() if line.startswith("#       size")][0].split()
    expect(names.count("p50") == 2 and names.count("p99") == 2, names)
    row = [line for line in output.splitlines() if line and line[0] != "#"][0].split()
    expect(len(row) == len(names) - 1 == 17, row)
    for at in (9, 15):
        expect(0 < float(row[at]) <= float(row[at + 1]), row)
    with open(os.path.join(directory, "p.json"), encoding="utf-8") as file:
        each = json.load(file)["results"][0]["in_place_per_iter"]
    expect(each["min_us"] <= each["p50_us"] <= each["p95_us"] <= each["p99_us"] <= each["max_us"], each)


# ---- Other reports --------------------------------------------------------------------------------


def test_percentiles(directory):
    path = os.path.join(directory, "p.json")
    output, _ = run("all_reduce", "-b", 8, "-e", 8, "-n", 2, "--percentiles", "--iters", 30, "--json", path)
    names = [line for line in output.splitlines() if line.startswith("#       size")][0].split()
    expect(names.count("p50") == 2 and names.count("p99") == 2, names)
    row = [line for line in output.splitlines() if line and line[0] != "#"][0].split()
    expect(len(row) == len(names) - 1 == 17, row)
    for at in (9, 15):
        expect(0 < float(row[at]) <= float(row[at + 1]), row)
    with open(path, encoding="utf-8") as file:
        each = json.load(file)["results"][0]["in_place_per_iter"]
    expect(each["min_us"] <= each["p50_us"] <= each["p95_us"] <= each["p99_us"] <= each["max_us"], each)


def check_json(path, sizes, last_argument):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    expect(data["version"] == 3 and data["config"]["iterations"] == 2, data["config"])
    expect(data["args"][-1] == last_argument, data["args"])
    expect([d["rank"] for d in data["config"]["devices"]] == [0, 1], data["config"]["devices"])
    expect([r["size"] for r in data["results"]] == sizes, data["results"])
    for result in data["results"]:
        for half in ("out_of_place", "in_place"):
            expect(result[half]["nwrong"] == 0 and result[half]["time"] > 0, result)
    expect(data["out_of_bounds"] == {"count": 0, "okay": "true"} and data["errors"] == [], data)
    return data


def check_csv(path, data):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expect(len(rows) == len(data["results"]), rows)
    for row, result in zip(rows, data["results"]):
        expect(None not in row and None not in row.values(), "columns:", row)
        expect(int(row["size_B"]) == result["size"] and row["type"] == "float", row)
        for half in ("out_of_place", "in_place"):
            time = float(row[half + "_time_us"])
            expect(abs(time - result[half]["time"]) <= 1e-4 * time, row, result)
            expect(row[half + "_wrong"] == "0", row)


def check_plot(path, points, words):
    tree = ElementTree.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    expect(tree.tag == space + "svg", tree.tag)
    found = tree.findall(".//%scircle/%stitle" % (space, space))
    expect(len(found) == points, path, "has", len(found), "points and not", points)
    text = " ".join(t.text or "" for t in tree.iter(space + "text"))
    for word in words:
        expect(word in text, repr(word), "is not in the picture:", text)
    for circle in tree.iter(space + "circle"):
        x, y = float(circle.get("cx")), float(circle.get("cy"))
        expect(0 < x < float(tree.get("width")) and 0 < y < float(tree.get("height")), "outside:", x, y)


def check_stdout(sweep, files, sizes):
    """With "-" a report is alone on standard output."""
    for kind in files:
        output, _ = run("broadcast", *sweep, "-d", "all", "--" + kind, "-")
        expect("# " not in output, kind, "is not alone on stdout:", output)
        with open(files[kind], "w", encoding="utf-8") as file:
            file.write(output)
    with open(files["json"], encoding="utf-8") as file:
        expect(len(json.load(file)["results"]) == 4 * len(TYPES), "rows in JSON")
    with open(files["csv"], encoding="utf-8", newline="") as file:
        expect(len(list(csv.DictReader(file))) == 4 * len(TYPES), "rows in CSV")
    check_plot(files["plot"], 2 * 2 * 8 * len(sizes), ["the first 8 of %d kinds" % len(TYPES), "bfloat16, root 0"])


def test_reports():
    sizes = [8, 128, 2048, 32768]
    sweep = ["-b", 8, "-e", "32K", "-f", 16, "-n", 2, "--iters", 2, "-w", 0]
    # A name that has to be quoted, and a byte that is not UTF-8's.
    name = 'a_"tab\t"_\\_\u00fc_\udcff'
    with tempfile.TemporaryDirectory() as directory:
        files = {kind: os.path.join(directory, kind) for kind in ("json", "csv", "plot")}
        output, _ = run("all_reduce", *sweep, "--transport", "tcp", "--json", files["json"], "--csv",
                        files["csv"], "--plot", name, cwd=directory)
        expect(len(table(output)) == 4, output)
        data = check_json(files["json"], sizes, name.replace("\udcff", "\ufffd"))
        check_csv(files["csv"], data)
        check_plot(os.path.join(directory, name), 2 * 2 * len(sizes),
                   ["all_reduce on 2 ranks, float sum", "GB/s", "message size", "out of place", "in place",
                    "tcp"])
        check_stdout(sweep, files, sizes)

        # What cannot be drawn on logarithmic axes is said in words.
        for arguments, points, words in (
                (["all_reduce", "-n", 1, "-b", 64], 2, "nothing moves with one rank"),
                (["all_gather", "-n", 2, "-b", 8], 0, "no row with a size above 0"),
                (["sendrecv", "-n", 2, "-b", 8], 2, "out of place")):
            run(*arguments, "-e", 64, "-f", 16, "--plot", files["plot"])
            check_plot(files["plot"], points, [words])

        test_percentiles(directory)
        _, errors = run("all_reduce", "-b", 8, "-e", 8, "--json", "/dev/full", code=1)
        expect("/dev/full" in errors, errors)
