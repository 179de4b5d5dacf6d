# SPDX-License-Identifier: MIT
"""A little of everything in one machine that is two hosts, for every build."""

from . import checks, faults, report
from .lab import Step, say

CHECKS = "connect.together,connect.refused,message.sizes,credit.again,ctrl.order,sleep.message"


def all_of_it(lab):
    say("one machine as two hosts")
    flow = faults.job(lab, "flow", 14)
    perf = Step(
        "all_reduce",
        f"{lab.program('rondo-perf')} all_reduce --transport verbs -b 8 -e 256K -f 32 --iters 2 -w 1",
    )
    ddp = Step("ddp_reducer", f"{lab.program('ddp_reducer')} 2 transport=verbs")
    device = checks.device_step(lab)
    hashes = checks.hash_steps(lab)[:1]
    conform = Step(
        "rondo-conform",
        f"{lab.program('rondo-conform')} --transport verbs --format tap --seed 1 --only '{CHECKS}'",
    )
    # First, as its times count from the start.
    steps = [flow, perf, ddp, device, *hashes, conform]
    words = ["--one-vm", *faults.outage_words("cut", 1, 10, 2)]
    summary = lab.boot(steps, *words, environment=(*checks.SAME_BLAS, *faults.VERBS))
    felt = faults.pauses(flow, 1)
    complaint = "" if felt else "the outage was not felt"
    detail = f"pauses of {', '.join(f'{p:.1f}' for p in felt)} s, every result right"
    bits, names = checks.compare(lab, 2, hashes, ("shm",))
    return [
        faults.result("2 s without a network", flow, summary, complaint, detail),
        checks.finish("rondo-perf and DDP", [perf, ddp], summary),
        checks.finish("device memory is refused by name", [device], summary),
        report.Result(
            "equal bits over verbs and shm",
            "fail" if bits or summary["problem"] else "pass",
            bits or f"{len(names['verbs'])} results",
        ),
        checks.conform_result("rondo-conform", conform, summary),
    ]
