# SPDX-License-Identifier: MIT
"""What came out: a table, JSON, Markdown."""

import dataclasses
import datetime
import json
import os
import platform
from pathlib import Path


@dataclasses.dataclass
class Result:
    name: str
    outcome: str  # pass, fail, skip
    detail: str
    data: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    load: float = 0.0


def processor():
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def show(results):
    width = max(len(r.name) for r in results)
    for r in results:
        print(f"{r.outcome:4}  {r.name:{width}}  {r.seconds:5.0f} s  {r.detail}")


def head(lab, accel):
    boots = lab.boots
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "processors": os.cpu_count(),
        "accelerator": accel,
        "boot_seconds": boots,
    }


def write_json(path, about, results):
    found = about | {"results": [dataclasses.asdict(r) for r in results]}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def speed_table(data):
    names = list(data["rounds"][0])
    lines = [
        "",
        "## Put against ib_write_bw",
        "",
        "1 MiB, one direction, one queue pair each, MTU 4096, one boot, in turns; MB/s of 10^6 bytes. "
        "ib_write_bw's receiver is not told of what arrives and sleeps; Rondo's takes every message and "
        "gives credit. Awake it polls for them, which takes processor time from the emulated network.",
        "",
        "| round | " + " | ".join(names) + " | ratio | ratio awake |",
        "|---" * (len(names) + 3) + "|",
    ]
    both = list(data["ratios"].values())
    for k, row in enumerate(data["rounds"]):
        speeds = " | ".join(f"{row[n]:.1f}" for n in names)
        lines.append(f"| {k + 1} | {speeds} | {both[0][k]:.2f} | {both[1][k]:.2f} |")
    return lines


def hash_table(hashes):
    wires = list(hashes)
    lines = ["", "## Hashes, order=strict, 4 ranks", "", "| result | " + " | ".join(wires) + " |"]
    lines.append("|---" * (len(wires) + 1) + "|")
    for what in hashes[wires[0]]:
        values = [hashes[w].get(what, "-") for w in wires]
        lines.append(f"| {what} | " + " | ".join(f"`{v}`" for v in values) + " |")
    return lines


def write_markdown(path, about, results):
    boots = about["boot_seconds"]
    how = "emulated, without KVM" if about["accelerator"] == "tcg" else "with KVM"
    times = f"{min(boots):.0f} to {max(boots):.0f} s each" if boots else "none"
    lines = [
        "# The RDMA transport over kernel verbs",
        "",
        f"{about['date']}. Soft-RoCE (rxe) in virtual machines of Debian's kernel, {how}, on "
        f"{about['processors']} processors ({about['processor']}). Boots: {len(boots)}, {times}. "
        "Load is that of the machine when the check began. Made by `tests/roce/accept`.",
        "",
        "| | what | seconds | load | outcome |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.outcome} | {r.name} | {r.seconds:.0f} | {r.load:.1f} | {cell(r.detail)} |"
        )
    for r in results:
        if "rounds" in r.data:
            lines += speed_table(r.data)
    for r in results:
        if "hashes" in r.data and len(r.data["hashes"]) == 3:
            lines += hash_table(r.data["hashes"])
    skipped = {k: v for r in results for k, v in r.data.get("skipped", {}).items()}
    if skipped:
        lines += ["", "## Checks of rondo-conform that were skipped", ""]
        lines += [f"- `{check}`: {cell(why)}" for check, why in skipped.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
