# SPDX-License-Identifier: MIT
"""What the transport survives, and what it says when it cannot."""

import re

from . import report
from .lab import Step, say

OUTAGE = 4  # seconds, below path_grace, which is 5 s unless told otherwise
GRACE = 5
# A dead host is silent for peer_timeout (3 s); a second to agree on it, and what an emulated machine is late by.
KILL_LIMIT = 3 + 1 + 2
# The same of a lost path, from path_grace on.
PATH_LIMIT = GRACE + 1 + 2
VERBS = ("RONDO_TRANSPORT=verbs",)
STOPPED = r"^stopped ([\d.]+) s after .*? by RONDO_ERR_(\w+): (.*)$"
# Of two hosts nobody else can tell whether one is dead or cut off: silence must be no evidence while an outage may last.
PATIENT = (*VERBS, "RONDO_PEER_TIMEOUT=8s")


def job(lab, how, seconds):
    command = f"{lab.program('roce_job')} {how} {seconds}"
    return Step(f"{how} for {seconds} s", command, seconds + 100)


def pauses(step, least=OUTAGE - 1):
    """Lengths of rank 0's pauses that an outage explains."""
    found = re.findall(r"^pause of ([\d.]+) s", step.text(0), re.M)
    return [float(p) for p in found if float(p) > least]


def result(name, step, summary, complaint, detail):
    problem = summary["problem"] or ("" if step.ok() else step.trouble()) or complaint
    data = {"events": summary.get("events", []), "output": step.text().splitlines()[:60]}
    return report.Result(name, "fail" if problem else "pass", problem or detail, data)


def loss(lab):
    say("1 % loss")
    perf = Step(
        "all_reduce",
        f"{lab.program('rondo-perf')} all_reduce --transport verbs -b 8 -e 1M -f 16 --iters 5 -w 1",
        200,
    )
    long = job(lab, "ring", 20)
    summary = lab.boot([long, perf], "--loss", 1, environment=VERBS)
    complaint = "" if perf.ok() else perf.trouble()
    found = re.search(r"operations (\d+)", long.text(0))
    detail = f"{found[1] if found else 0} all_reduces, every element right; rondo-perf's check too"
    return [result("1 % loss on both hosts", long, summary, complaint, detail)]


def outage_words(kind, node, begin, length):
    ends = {"cut": "heal", "link-down": "link-up"}
    return [f"--{kind}", f"{node}@{begin}", f"--{ends[kind]}", f"{node}@{begin + length}"]


def outages(lab, name, how, which, length=OUTAGE, **boot):
    """Outages one after the other; each must have been felt, and none told as an error."""
    words, at = [], 10  # by then the job has begun
    for kind, node in which:
        words += outage_words(kind, node, at, length)
        at += length + 8
    step = job(lab, how, at - 2)
    summary = lab.boot([step], *words, environment=PATIENT, **boot)
    felt = pauses(step)
    complaint = "" if len(felt) >= len(which) else f"{len(felt)} of {len(which)} outages were felt"
    detail = "pauses of " + ", ".join(f"{p:.1f}" for p in felt) + " s, every result right"
    return [result(name, step, summary, complaint, detail)]


def outages_flow(lab):
    say(f"outages of {OUTAGE} s, one side only sends")
    which = [("cut", 0), ("link-down", 0), ("cut", 1), ("link-down", 1)]
    name = f"{OUTAGE} s without a network: cut and link down, at the sender, at the receiver"
    return outages(lab, name, "flow", which)


def outages_ring(lab):
    say(f"outages of {OUTAGE} s under all_reduce")
    name = f"{OUTAGE} s without a network under all_reduce: 2 hosts, 4 ranks"
    return outages(lab, name, "ring", [("cut", 1), ("link-down", 0)], ranks=2)


def rail(lab, which):
    """One of two ports is cut for good: nothing but a pause. On the first one all that is said beside data goes, too."""
    say(f"rail {which} of two is lost")
    step = job(lab, "ring", 25)
    summary = lab.boot([step], "--rails", 2, "--cut", f"1:{which}@10", environment=PATIENT)
    on = re.findall(r"is up again \(epoch \d+, 1 of 2 pairs of ports", step.text())
    complaint = "" if on else "no link says that it goes on over one of two pairs of ports"
    longest = re.search(r"longest pause ([\d.]+)", step.text(0))
    detail = f"longest pause {longest[1] if longest else '?'} s, then over the other one"
    return [result(f"rail {which} of two cut for good", step, summary, complaint, detail)]


def rails_equal(lab):
    """Two ports carry the same part of large messages, by the interfaces below. Packets by the devices are shown, too:
    those of credit and its acknowledgement are all on the first one."""
    say("two rails carry equal parts")
    perf = f"{lab.program('rondo-perf')} all_reduce --transport verbs -b 8M -e 8M --iters 3 -w 1"
    counters = ("/sys/class/net/eth$r/statistics/tx_bytes", "/sys/class/infiniband/rxe$r/ports/1/hw_counters/sent_pkts")
    read = "for r in 0 1; do echo counted $1 $r $(cat " + " ".join(counters) + "); done"
    command = f"count() {{ {read}; }}; count before && {perf} && count after"
    step = Step("all_reduce", command, 200)
    summary = lab.boot([step], "--rails", 2, environment=VERBS)
    complaint, shown = "", []
    for rank in range(2):
        found = {
            (when, int(r)): (int(size), int(packets))
            for when, r, size, packets in re.findall(r"^counted (\w+) (\d) (\d+) (\d+)$", step.text(rank), re.M)
        }
        if len(found) != 4:
            return [result("two rails, equal parts", step, summary, "no counters: " + step.text(rank)[-300:], "")]
        grown = [[found["after", r][k] - found["before", r][k] for r in (0, 1)] for k in (0, 1)]
        apart = [abs(a - b) / max(a, b, 1) for a, b in grown]
        if apart[0] >= 0.05 or grown[0][0] < 8 << 20:
            complaint = complaint or f"host {rank}: bytes {grown[0]}, packets {grown[1]}"
        sizes = " and ".join(f"{b / 1e6:.1f}" for b in grown[0])
        shown.append(f"host {rank} sent {sizes} MB, {100 * apart[0]:.1f} % apart (packets {100 * apart[1]:.1f} %)")
    return [result("two rails, equal parts", step, summary, complaint, "; ".join(shown))]


def kill(lab, nodes, ranks):
    """All survivors stop in time, and name the dead host and one of its ranks."""
    dead = nodes - 1
    say(f"host {dead} of {nodes} is killed")
    step = job(lab, "ring", 60)
    summary = lab.boot([step], "--kill", f"{dead}@10", nodes=nodes, ranks=ranks, environment=VERBS)
    survivors = range(dead * ranks)
    victims = "|".join(str(r) for r in range(dead * ranks, nodes * ranks))
    complaint, times = summary["problem"], []
    for rank in survivors:
        text = step.text(rank)
        found = re.search(STOPPED, text, re.M)
        if not found or step.codes[rank] != 3:
            complaint = complaint or f"rank {rank} did not stop: {text[-300:]}"
            continue
        times.append(float(found[1]))
        if not re.match(rf"rank ({victims}) \(host node{dead}, pid \d+\) (is silent|ended)", found[3]):
            complaint = complaint or f"rank {rank} does not name the dead: {found[3]}"
        if "lives" in found[3]:
            complaint = complaint or f"rank {rank} takes the dead for living: {found[3]}"
        if times[-1] > KILL_LIMIT:
            complaint = complaint or f"rank {rank} took {times[-1]:.1f} s, not {KILL_LIMIT}"
    name = f"one of {nodes} hosts killed, {nodes * ranks} ranks"
    shown = ", ".join(f"{t:.1f}" for t in times)
    detail = complaint or f"named by all {len(times)} survivors after {shown} s"
    data = {"events": summary.get("events", []), "output": step.text().splitlines()[:60]}
    return [report.Result(name, "fail" if complaint else "pass", detail, data)]



def path_back(lab):
    """Two of three hosts lose their path for less than path_grace: nobody is lost, there is no error."""
    length = GRACE - 2
    say(f"two of three hosts do not hear each other for {length} s")
    step = job(lab, "ring", 25)
    words = ("--part", "0:1@10", "--join", f"0:1@{10 + length}")
    summary = lab.boot([step], *words, nodes=3, ranks=1, environment=VERBS)
    felt = pauses(step, length - 1)
    complaint = "" if felt else "the outage was not felt"
    detail = f"pauses of {', '.join(f'{p:.1f}' for p in felt)} s, every result right"
    return [result(f"path between two of three hosts lost for {length} s", step, summary, complaint, detail)]


def path_lost(lab):
    """For longer: all three stop by the same error, which names the path, and call nobody dead."""
    say("two of three hosts do not hear each other any more")
    step = job(lab, "ring", 40)
    summary = lab.boot([step], "--part", "0:1@10", nodes=3, ranks=1, environment=VERBS)
    complaint, times = summary["problem"], []
    for rank in range(3):
        text = step.text(rank)
        found = re.search(STOPPED, text, re.M)
        if not found:
            complaint = complaint or f"rank {rank} did not stop: {text[-300:]}"
            continue
        times.append(float(found[1]))
        ends = {int(n) for n in re.findall(r"rank (\d) \(host node\d", found[3].split(" is lost")[0])}
        if found[2] != "PATH" or "path between" not in found[3] or ends != {0, 1}:
            complaint = complaint or f"rank {rank} does not name the path: RONDO_ERR_{found[2]}: {found[3]}"
        if times[-1] > PATH_LIMIT:
            complaint = complaint or f"rank {rank} took {times[-1]:.1f} s, not {PATH_LIMIT}"
    detail = complaint or f"named by all after {', '.join(f'{t:.1f}' for t in times)} s"
    data = {"events": summary.get("events", []), "output": step.text().splitlines()[:60]}
    name = f"path between two of three hosts lost for longer than path_grace ({GRACE} s)"
    return [report.Result(name, "fail" if complaint else "pass", detail, data)]
