# SPDX-License-Identifier: MIT
"""The library's own tests over kernel verbs, and equal bits on every transport."""

import re

from . import report
from .lab import Step, say

# Given to both sides: what a matrix product's last bits are depends on the processor's instructions.
SAME_BLAS = ("OPENBLAS_CORETYPE=Haswell", "OPENBLAS_NUM_THREADS=1")
STRICT = "RONDO_ORDER=strict "
GPT = (
    "--data transport/transport.h ring/ring.h ddp/ddp.h --layers 2 --heads 2 --dim 48 "
    "--context 32 --batch 12 --steps 20 --warmup 5 --eval-every 10 --bucket 32 --seed 7 --quiet"
)


def hash_steps(lab):
    return [
        Step("hashes", STRICT + lab.program("roce_job") + " hash", 200),
        Step("gpt", STRICT + lab.program("train_gpt") + " " + GPT, 200),
    ]


def hashes_of(steps):
    """Every hash that was printed, by what it is of."""
    found = {}
    for step in steps:
        for what, value in re.findall(r"^hash (.+) ([0-9a-f]{16})$", step.text(0), re.M):
            found[what] = value
        for value in re.findall(r"\bhash ([0-9a-f]{8,})\b", step.text(0)):
            found[f"parameters of {step.name}"] = value
    return found


def compare(lab, ranks, verbs, wires):
    """(complaint or '', what was compared)."""
    complaint = next((f"{s.name}: {s.trouble()}" for s in verbs if not s.ok()), "")
    reference = hashes_of(verbs)
    names = {"verbs": reference}
    for wire in wires:
        steps = hash_steps(lab)[: len(verbs)]
        for step in steps:
            lab.here(step, ranks, (*SAME_BLAS, f"RONDO_TRANSPORT={wire}"))
            complaint = complaint or ("" if step.ok() else f"{wire}, {step.name}: {step.trouble()}")
        names[wire] = hashes_of(steps)
    for wire in wires:
        for what in sorted(reference.keys() | names[wire].keys()):
            mine, other = reference.get(what), names[wire].get(what)
            if mine != other and not complaint:
                complaint = f"{what}: {mine} over verbs, {other} over {wire}"
    if not reference and not complaint:
        complaint = "no hash was printed"
    return complaint, names


def finish(name, steps, summary, complaint="", **data):
    bad = next((f"{s.name}: {s.trouble()}" for s in steps if not s.ok()), "")
    problem = summary["problem"] or complaint or bad
    took = ", ".join(f"{s.name} {s.took:.0f} s" for s in steps)
    return report.Result(name, "fail" if problem else "pass", problem or took, data)


def ring(lab, ranks, wire):
    return [
        Step("ring_collectives", f"{lab.program('ring_collectives')} {ranks} {wire}", 500),
        Step("ring_async", f"{lab.program('ring_async')} {ranks} {wire}", 200),
        Step("ring_mismatch", f"{lab.program('ring_mismatch')} {ranks} {wire}", 200),
        Step("ddp_reducer", f"{lab.program('ddp_reducer')} {ranks} {wire}", 200),
    ]


def tests_two_nodes(lab):
    """Two hosts with two ranks each; and what 'auto' makes of that: shm within, verbs between."""
    say("ring, DDP and train_gpt on two hosts with two ranks each")
    own, mixed = ring(lab, 4, "transport=verbs"), ring(lab, 4, "transport=auto")[3:]
    mixed[0].name += " (auto)"
    bits = hash_steps(lab)
    steps = own + mixed + bits
    summary = lab.boot(steps, ranks=2, environment=(*SAME_BLAS, "RONDO_TRANSPORT=verbs"))
    result = finish("ring, DDP, train_gpt: 2 hosts, 4 ranks", steps, summary)
    complaint, names = compare(lab, 4, bits, ("tcp", "shm"))
    detail = complaint or f"{len(names['verbs'])} results over verbs, tcp and shm"
    return [
        result,
        report.Result(
            "equal bits over verbs, tcp, shm (4 ranks)",
            "fail" if complaint or summary["problem"] else "pass",
            detail,
            {"hashes": names},
        ),
    ]


def tests_three_nodes(lab):
    say("the same on three hosts")
    bits = hash_steps(lab)
    steps = ring(lab, 3, "transport=verbs") + bits
    summary = lab.boot(steps, nodes=3, environment=(*SAME_BLAS, "RONDO_TRANSPORT=verbs"))
    complaint, names = compare(lab, 3, bits, ("shm",))
    return [
        finish("ring, DDP, train_gpt: 3 hosts", steps, summary, complaint, hashes=names),
    ]


def modes(lab):
    """The other two ways to send data, each with two queue pairs a link."""
    say("the other data modes")
    steps = []
    for mode in ("split", "send"):
        wire = f"transport=verbs,verbs_mode={mode},verbs_qps=2"
        steps.append(Step(f"ddp_reducer, {mode}", f"{lab.program('ddp_reducer')} 2 {wire}", 200))
        steps.append(Step(f"ring_async, {mode}", f"{lab.program('ring_async')} 2 {wire}", 200))
    return [finish("data modes split and send", steps, lab.boot(steps))]


def device_step(lab):
    """rxe has no DMA-BUF: the transport must say so, and that host memory is used instead."""
    return Step("device memory", lab.program("roce_device"))


def device(lab):
    say("device memory over a driver without DMA-BUF")
    step = device_step(lab)
    return [finish("device memory is refused by name", [step], lab.boot([step], "--one-vm"))]


# ---- rondo-conform -------------------------------------------------------------------------------


def conform_result(name, step, summary):
    """From its TAP. Skipped checks are no failure, but they are told."""
    text = step.text(0)
    good = re.findall(r"^ok \d+ - (?!.*# SKIP)(\S+?):", text, re.M)
    bad = re.findall(r"^not ok \d+ - (\S+?):", text, re.M)
    skipped = dict(re.findall(r"^ok \d+ - (\S+?):.*# SKIP (.*)$", text, re.M))
    plan = re.search(r"^1\.\.(\d+)$", text, re.M)
    problem = summary["problem"]
    if bad:
        problem = problem or "failed: " + ", ".join(bad)
    elif not step.ok() or not plan or int(plan[1]) != len(good) + len(skipped):
        problem = problem or f"it did not come to its end: {step.trouble()}"
    detail = f"{len(good)} checks passed, {len(skipped)} skipped, in {step.took:.0f} s"
    data = {"passed": good, "failed": bad, "skipped": skipped, "seconds": round(step.took, 1)}
    words = [f"{problem} ({detail})" if problem else detail]
    return report.Result(name, "fail" if problem else "pass", words[0], data)


def conform(lab, only=None):
    say("rondo-conform on two hosts")
    command = f"{lab.program('rondo-conform')} --transport verbs --format tap --seed 1 --timeout 120"
    step = Step("rondo-conform", command + (f" --only '{only}'" if only else ""), 1200)
    summary = lab.boot([step])
    return [conform_result("rondo-conform over rxe", step, summary)]
