# SPDX-License-Identifier: MIT
"""Progress while trials run, and figures when they are over."""

import csv
import json
import sys
import time


def percentile(values, p):
    """Nearest rank; None of nothing."""
    values = sorted(values)
    return values[max(0, -(-len(values) * p // 100) - 1)] if values else None


class Progress:
    """One line that is written over, on a terminal only."""

    def __init__(self, total):
        self.total, self.done, self.bad, self.begin = total, 0, 0, time.monotonic()
        self.on = sys.stderr.isatty()

    def tick(self, verdict):
        self.done += 1
        self.bad += not verdict.good
        if self.on:
            took = time.monotonic() - self.begin
            left = took / self.done * (self.total - self.done)
            print(f"\r\033[Kfault: {self.done} of {self.total} trials, {self.bad} failed, {took:.0f} s, "
                  f"about {left:.0f} s to go ({verdict.trial.name()})", end="", file=sys.stderr, flush=True)

    def clear(self):
        if self.on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def show(verdict, command):
    """A trial that failed, with all that there is to find out why."""
    o = verdict.outcome
    print(f"FAILED trial {verdict.trial.index}: {verdict.trial.text()}\n  again: {command}")
    for kind, text in verdict.problems:
        print(f"  {kind}: {text}")
    origin = o.strike or min((r.events[0]["t"] for r in o.job.ranks.values() if r.events), default=0)
    for rank, r in sorted(o.job.ranks.items()):
        print(f"  --- rank {rank}, host {r.host}, pid {r.pid}, exit code {r.code}; ms after the fault:")
        shown = r.events if len(r.events) <= 30 else r.events[:8] + r.events[-22:]
        for e in shown:
            words = " ".join(f"{k}={v}" for k, v in e.items()
                             if k not in ("t", "event") and not (k.startswith("fd") and k[2:].isdigit()))
            print(f"      {(e['t'] - origin) / 1e6:10.1f} {e['event']} {words[:300]}")
        errors = r.error_text().splitlines()
        print("".join(f"      {line}\n" for line in errors[-30:]), end="")
        if rank in o.stacks:
            print("".join(f"      {line}\n" for line in o.stacks[rank].splitlines()), end="")
    sys.stdout.flush()


def groups(verdicts):
    """(what, its latencies, trials, failed) for each fault, phase and transport."""
    for what, key in (("fault", "kind"), ("phase", "phase"), ("transport", "transport")):
        for value in dict.fromkeys(getattr(v.trial, key) for v in sorted(verdicts, key=lambda v: v.trial.name())):
            chosen = [v for v in verdicts if getattr(v.trial, key) == value]
            yield what, value, chosen


def figures(chosen):
    times = [x for v in chosen for x in v.latencies]
    shown = {f"p{p}_ms": percentile(times, p) for p in (50, 90, 99, 100)}
    return {"trials": len(chosen), "failed": sum(not v.good for v in chosen), "survivors": len(times),
            **{k: round(x, 1) if x is not None else None for k, x in shown.items()}}


def table(verdicts):
    lines = [f"{'':24}{'trials':>7}{'failed':>7}{'returns':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}  ms"]
    for what, value, chosen in groups(verdicts):
        f = figures(chosen)
        times = "".join(f"{f[k]:8.0f}" if f[k] is not None else f"{'-':>8}"
                        for k in ("p50_ms", "p90_ms", "p99_ms", "p100_ms"))
        lines.append(f"{what + ' ' + value:24}{f['trials']:7}{f['failed']:7}{f['survivors']:8}{times}")
    return "\n".join(lines)


def write(path, seed, verdicts, summary):
    """JSON, or CSV with a line for each trial when the name ends so."""
    if path.endswith(".csv"):
        with open(path, "w", encoding="utf-8", newline="") as f:
            out = csv.writer(f)
            out.writerow(["trial", "fault", "phase", "transport", "ranks", "hosts", "returns", "p50_ms", "max_ms",
                          "seconds", "problems"])
            for v in verdicts:
                t, g = v.trial, figures([v])
                out.writerow([t.index, t.kind, t.phase, t.transport, t.size, t.hosts, g["survivors"], g["p50_ms"],
                              g["p100_ms"], round(v.outcome.seconds, 2), "; ".join(f"{k}: {x}" for k, x in v.problems)])
        return
    found = {"seed": seed, **summary,
             "by": {f"{what} {value}": figures(chosen) for what, value, chosen in groups(verdicts)},
             "trials": [{"trial": v.trial.index, "what": v.trial.text(), "name": v.trial.name(),
                         "latencies_ms": [round(x, 1) for x in v.latencies], "seconds": round(v.outcome.seconds, 2),
                         "problems": [list(p) for p in v.problems]} for v in verdicts]}
    with open(path, "w", encoding="utf-8") as f:
        json.dump(found, f, indent=1)
        f.write("\n")
