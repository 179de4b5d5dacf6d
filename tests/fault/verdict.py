# SPDX-License-Identifier: MIT
"""Judges a trial by what its ranks said: who was named, when, by all the same, and what was left behind."""

import re
import signal

from job import patience
from trial import CONNECT_TIMEOUT, LIMITS, MEETING, OP_TIMEOUT, expect

SANITIZERS = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|fake_verbs: RULE")
MS = 1e6


class Verdict:
    def __init__(self, outcome):
        self.outcome, self.trial = outcome, outcome.trial
        self.problems = []    # (class, text)
        self.latencies = []   # ms, of each survivor
        self.absent = False   # who died had not come yet, so that the others could only wait for it

    def problem(self, kind, text):
        self.problems.append((kind, text))

    @property
    def good(self):
        return not self.problems


def numbers(text):
    """"3, 5-7" as a set."""
    found = set()
    for a, b in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(a), int(b or a) + 1))
    return found


def blamed(text):
    """The ranks that an error of rondo_init() says are to blame; None when it names none."""
    for pattern in (r"waiting for ranks ([\d, -]+)", r"(?:^|failed: )rank (\d+) \(", r"\b(?:waited|waits).* for rank (\d+)\b",
                    r"\(rank (\d+) or the launcher\)", r"is rank (\d+) or the launcher running", r"\brank (\d+) \(host"):
        found = re.search(pattern, text)
        if found:
            return numbers(found[1])
    return None


# ---- Each survivor -------------------------------------------------------------------------------


def return_after(r, strike, group):
    """What the first call returned that the fault ended: the event, or None."""
    for e in r.events:
        if e["t"] < strike:
            continue
        if e["event"] == "retry" and e["size"] == len(group.members):
            return e
        # While ranks meet, the store cannot tell a lost path from the silence of those behind it.
        behind = not group.culprits and e.get("call") == "init"
        hit = e["event"] == "failed" and (e["status"] != "RONDO_ERR_PEER" or behind or
                                          set(e.get("failed") or group.culprits) & set(group.culprits))
        whole = len(group.members) if group.culprits else 1   # a path takes nobody away
        if hit or e["event"] == "unshrunk" or (e["event"] == "shrunk" and whole <= e["size"] <= len(group.members)):
            return e
    return None


def limit_of(t, e, group):
    """Milliseconds within which this call had to return."""
    # Who is not on the store's roll yet can only be waited for.
    absent = e.get("call") == "init" and e["status"] == "RONDO_ERR_TIMEOUT"
    if absent:
        return max(CONNECT_TIMEOUT + 1000, LIMITS[t.kind])
    if t.phase == "elastic":
        return LIMITS[t.kind] + 3000   # it returns when there is a new communicator
    if t.kind == "path" and t.phase == "shrink":
        return OP_TIMEOUT + 2000   # it tries again until its deadline, as the path may come back
    return LIMITS[t.kind]


def check_time(v, r, group):
    t, o = v.trial, v.outcome
    e = return_after(r, o.strike, group)
    if e is None:
        if r.code is not None or not o.hung:
            v.problem("silent", f"rank {r.rank} never said that it noticed")
        return
    late = (e["t"] - o.strike) / MS
    v.absent |= e["event"] == "failed" and e["call"] == "init" and e["status"] == "RONDO_ERR_TIMEOUT"
    v.latencies.append(late)
    if late > limit_of(t, e, group) * patience():
        v.problem("late", f"rank {r.rank} returned {e['event']} after {late:.0f} ms, not {limit_of(t, e, group)}")


def check_init(v, r, e, group):
    """It never had a communicator; its error names one of those that are lost."""
    t = v.trial
    ranks = blamed(e["text"])
    wanted = set(group.culprits)
    if t.kind == "path":
        wanted = set(t.on_host(t.pair[0])) | set(t.on_host(t.pair[1]))
    if e["status"] == "RONDO_ERR_PARTITIONED" and t.kind in ("silent", "partition"):
        return
    if not ranks or not ranks <= wanted | {t.late}:
        v.problem("name", f"rank {r.rank} of {sorted(wanted)} names {ranks}: {e['status']}: {e['text']}")
    if e["status"] == "RONDO_ERR_TIMEOUT" and t.late >= 0 and t.kind in ("kill", "kill2"):
        v.problem("name", f"rank {r.rank} waits although all had come: {e['text']}")


def check_failure(v, r, e, group):
    """An error of a communicator. Deaths before the strike have but one culprit."""
    t, o = v.trial, v.outcome
    if e["event"] == "unshrunk":
        good = ({"RONDO_ERR_PATH", "RONDO_ERR_TIMEOUT"} if t.kind == "path" else {group.status})
        # Who came through rondo_init() where others did not cannot know what became of those behind the lost path.
        if t.kind == "path" and any(e["call"] == "init" for r in o.job.ranks.values() for e in r.all("failed")):
            good.add("RONDO_ERR_PARTITIONED")
        if group.members and t.kind != "path" or e["status"] not in good:
            v.problem("status", f"rank {r.rank} could not shrink: {e['status']}: {e['text']}")
        return
    lost = group.culprits if e["t"] >= o.strike else []
    lost = set(lost) | ({t.first} if t.first >= 0 else set())
    status = {group.status} | ({"RONDO_ERR_PEER"} if t.first >= 0 else set())
    if t.kind == "path" and t.phase in MEETING and e["status"] == "RONDO_ERR_TIMEOUT" and e["culprit"] == -1:
        return   # some came through rondo_init(), where others waited for connections until connect_timeout
    # A ddp object has a communicator of its own: what hits that does not hit the caller's, or not at the same moment.
    apart = e["call"].startswith("ddp") and "comm_status" not in e and \
        (e["status"] == "RONDO_ERR_PATH" or t.phase == "elastic")
    if e["status"] not in status or (e.get("comm_status") != e["status"] and not apart):
        v.problem("status", f"rank {r.rank}: {e['call']} returned {e['status']} (the communicator has "
                            f"{e.get('comm_status')}), not {group.status}: {e['text']}")
        return
    if e["status"] != "RONDO_ERR_PEER":
        if e["status"] == "RONDO_ERR_PATH" and (e.get("culprit", -1) != -1 or not names_path(t, e["text"])):
            v.problem("name", f"rank {r.rank} names rank {e.get('culprit')}, not the path: {e['text']}")
        return
    if -1 in e["failed"] and e["generation"] > 0:
        by_pid = {r.pid: rank for rank, r in o.job.ranks.items()}   # it failed before its members were known
        found = re.search(r"\(host [^,]+, pid (\d+)\)", e["text"])
        e["culprit"] = by_pid.get(int(found[1]), -1) if found else -1
        e["failed"] = [e["culprit"]]
    if not e["failed"] or not set(e["failed"]) <= lost or e["culprit"] != min(e["failed"]):
        v.problem("name", f"rank {r.rank} names rank {e['culprit']} of {e['failed']}, not of {sorted(lost)}: {e['text']}")
        return
    culprit = o.job.ranks[e["culprit"]]
    host = f"h{culprit.host}" if o.networked else None
    found = re.match(r"rank (\d+) \(host ([^,]+), pid (\d+)\)", e["text"])
    if not found or int(found[3]) != culprit.pid or (host and (found[2] != host or e["host"] != host)):
        v.problem("name", f"rank {r.rank} describes rank {e['culprit']} (host {host}, pid {culprit.pid}) otherwise: "
                          f"{e['text']}")


def names_path(t, text):
    """Both ends of a path are named, each with its host; the rank may be that in a later communicator."""
    named = re.findall(r"rank \d+ \(host ([^,]+), pid \d+\)", text.split(" is lost")[0])
    return sorted(named) == sorted(f"h{h}" for h in t.pair)


def check_survivor(v, r, group):
    if r.code is None:
        return   # hung, which was noted
    for e in r.all("wrong") + r.all("garbage"):
        v.problem("wrong", f"rank {r.rank}: {e['text']}")
    if SANITIZERS.search(r.error_text()):
        v.problem("crash", f"rank {r.rank}: a finding on its standard error")
    if r.code != 0:
        v.problem("crash" if r.code != 4 else "wrong", f"rank {r.rank} ended with {r.code}")
        return
    check_time(v, r, group)
    for e in r.events:
        if e["event"] == "failed" and e["call"] == "init":
            check_init(v, r, e, group)
        elif e["event"] in ("failed", "unshrunk"):
            check_failure(v, r, e, group)
    check_left(v, r)


def check_left(v, r):
    begin, end = r.find("begin"), r.find("end")
    if not begin or not end:
        v.problem("crash", f"rank {r.rank} did not come to its end")
        return
    for what in ("fds", "threads"):
        if end[what] > begin[what]:
            new = {k: x for k, x in end.items() if k.startswith("fd") and k not in begin}
            v.problem("leak", f"rank {r.rank} had {begin[what]} {what} before, {end[what]} afterwards: {new}")


# ---- All together --------------------------------------------------------------------------------


def same_on_all(v, group):
    """Whoever had the same communicator says the same of its end."""
    said = {}
    for rank in group.ranks:
        r = v.outcome.job.ranks.get(rank)
        for e in r.all("failed") if r and r.code == 0 else ():
            # What ends DDP's communicator, this one may see a moment later, unless a rank is lost.
            if e["call"] != "init" and (e["status"] == "RONDO_ERR_PEER" or "comm_status" in e):
                said.setdefault(e["generation"], {})[rank] = (e["status"], e.get("culprit"), tuple(e.get("failed", ())),
                                                              e.get("cause") if e["status"] == "RONDO_ERR_PEER" else "")
    for generation, by_rank in said.items():
        if len(set(by_rank.values())) > 1:
            v.problem("differ", f"communicator {generation} failed differently: {by_rank}")


def same_parameters(v, group):
    """All ranks took the same steps, and no other."""
    said = {rank: (e["steps"], e["hash"]) for rank in group.ranks if rank in v.outcome.job.ranks
            for e in v.outcome.job.ranks[rank].all("trained")}
    if len(set(said.values())) > 1:
        v.problem("wrong", f"parameters differ at the end (steps, hash): {said}")


def check_sleepers(v):
    """Who slept got an error of its own, did no harm and left nothing."""
    o = v.outcome
    for r in (o.job.ranks[x] for x in v.trial.victims):
        if r.code is None or not o.wake:
            continue
        for e in r.all("wrong"):
            v.problem("wrong", f"the sleeper, rank {r.rank}: {e['text']}")
        if r.code != 0 or SANITIZERS.search(r.error_text()):
            v.problem("crash", f"the sleeper, rank {r.rank}, ended with {r.code}")
        elif not any(e["event"] in ("failed", "unshrunk") and e["t"] > o.wake for e in r.events):
            v.problem("silent", f"the sleeper, rank {r.rank}, got no error")
        else:
            check_left(v, r)


def judge(outcome):
    v, t = Verdict(outcome), outcome.trial
    for late, what in outcome.hung:
        v.problem("hang", f"ranks {late} did not {what} in time")
    for group in expect(t):
        group.ranks = [r for r in group.ranks if r in outcome.job.ranks]
        if outcome.strike and not (t.phase in MEETING and t.late in group.ranks and t.kind != "stop"):
            for rank in group.ranks:
                check_survivor(v, outcome.job.ranks[rank], group)
        same_on_all(v, group)
        same_parameters(v, group)
    if t.kind == "stop":
        check_sleepers(v)
    for rank in t.victims:
        r = outcome.job.ranks.get(rank)
        if outcome.strike and r and t.kind not in ("stop", "partition") and r.code != -signal.SIGKILL:
            v.problem("crash", f"rank {rank} was to be killed and ended with {r.code}")
    for path in outcome.left:
        v.problem("leak", f"left in the system: {path}")
    return v
