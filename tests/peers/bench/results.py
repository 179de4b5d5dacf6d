# SPDX-License-Identifier: MIT
"""From rows to figures: medians and minima over rounds and iterations, the best peer of a cell,
ratios, limits, verdicts. Nothing here measures, so that all of it can be tested on a canned
file."""

import csv
import statistics
from collections import defaultdict
from dataclasses import dataclass, field

from . import plan
from .jobs import Row

MPI = ("openmpi", "mpich")
PEERS = ("openmpi", "mpich", "gloo")


@dataclass
class Figure:
    """One configuration in one cell (wire, ranks, bytes)."""

    cls: str
    peer: str
    config: str
    median: float = 0
    least: float = 0
    samples: int = 0
    rounds: dict = field(default_factory=dict)  # round -> median
    chained: float = 0  # best time per operation back to back; 0: not measured
    problem: str = ""  # why there is no time, or which rounds are missing

    @property
    def valid(self):
        return self.samples > 0

    def title(self):
        name = plan.TITLES[self.peer]
        return name if self.config == "default" else f"{name}, {self.config}"


def read_rows(lines):
    reader = csv.DictReader(lines)
    if tuple(reader.fieldnames or ()) != Row.FIELDS:
        raise ValueError(f"the columns {','.join(Row.FIELDS)} are expected")
    return [
        Row(
            int(r["round"]),
            r["wire"],
            int(r["ranks"]),
            r["cls"],
            r["peer"],
            r["config"],
            int(r["bytes"]),
            r["what"],
            r["value"],
        )
        for r in reader
    ]


def _figure(rows):
    first = rows[0]
    figure = Figure(first.cls, first.peer, first.config)
    per_round, problems = defaultdict(list), []
    for r in rows:
        if r.what == "us":
            per_round[r.round].append(float(r.value))
        elif r.what == "chained_us":
            figure.chained = min(filter(None, (figure.chained, float(r.value))))
        elif r.what == "error":
            problems.append(r.value)
    wrong = sum(int(float(r.value)) for r in rows if r.what == "wrong")
    if wrong:  # a time for a wrong answer is no time
        return Figure(first.cls, first.peer, first.config, problem=f"{wrong} wrong elements")
    times = [t for ts in per_round.values() for t in ts]
    if times:
        figure.median, figure.least = statistics.median(times), min(times)
        figure.samples = len(times)
        figure.rounds = {r: statistics.median(ts) for r, ts in sorted(per_round.items())}
    figure.problem = "; ".join(sorted(set(problems)))
    return figure


class Results:
    """Figures of one measurement. `limits`: rows (name, parameter, processes, best, median, unit)
    of all rounds; `cores`: processors of the machine."""

    def __init__(self, rows, limits=(), cores=2):
        self.cores = cores
        self.limits = _merge_limits(limits)
        grouped = defaultdict(list)
        for r in rows:
            grouped[r.wire, r.ranks, r.bytes, r.cls, r.peer, r.config].append(r)
        self.cells = defaultdict(list)
        for (wire, ranks, size, *_), group in grouped.items():
            self.cells[wire, ranks, size].append(_figure(group))

    def tables(self):
        """(wire, ranks) in the order of the report."""
        return sorted({(w, n) for w, n, _ in self.cells}, key=lambda k: (k[1], k[0]))

    def sizes(self, wire, ranks):
        return sorted(s for w, n, s in self.cells if (w, n) == (wire, ranks))

    def best(self, cell, classes, peers=PEERS):
        """The fastest figure of these classes and peers in a cell, or None."""
        found = [
            f for f in self.cells.get(cell, ()) if f.valid and f.cls in classes and f.peer in peers
        ]
        return min(found, key=lambda f: f.median, default=None)

    def shipped(self, cell, peers=PEERS):
        return self.best(cell, ("shipped",), peers)

    def tuned(self, cell, peers=PEERS):
        """The fastest of everything a peer can be made to do: what it does as shipped is part of
        that."""
        return self.best(cell, ("shipped", "tuned"), peers)

    def rondo(self, cell):
        """Rondo's variants by name, valid ones only."""
        return {f.config: f for f in self.cells.get(cell, ()) if f.cls == "rondo" and f.valid}

    def limit_us(self, cell):
        """The least time that the machine needs for this cell, or 0 when it is not known.

        TCP: what a ring must send, both ways at once, in the same loop; with two ranks also at the
        rate of the long streams, if that is less. Shared memory: both operands read and both
        written by one addition, on two processors."""
        wire, ranks, size = cell
        times = []
        if wire == "tcp":
            exchange = self.best(cell, ("limit",), ("limit",))
            if exchange:
                times.append(exchange.median)
            rate = self.rate("TCP both ways (each)")
            if ranks == 2 and rate and size > plan.SMALL:
                times.append(size / rate / 1e3)
        else:
            times.append(self.add_us(cell, "f32 add a=b=a+b", ranks / 2))
        return min((t for t in times if t), default=0)

    def add_us(self, cell, name, share=1.0):
        """Time of `share` times S bytes of additions on two processors, from the block size nearest
        to S/2 a thread; 0 where more processors than two could share the work, or small sizes."""
        _, ranks, size = cell
        known = [(kib, rate) for kib, rate in self.memory_rates(name)]
        if not known or size <= plan.SMALL or (ranks > 2 and self.cores > 2):
            return 0
        rate = min(known, key=lambda k: abs(k[0].bit_length() - (size >> 11).bit_length()))[1]
        return share * size / rate / 1e3

    def memory_rates(self, name):
        """(KiB a thread, median GB/s) with two threads."""
        found = []
        for (limit, parameter, processes), (_, median, _) in self.limits.items():
            if limit == name and processes == 2:
                number, unit = parameter.split()[:2]
                found.append((int(number) << (10 if unit == "MiB" else 0), median))
        return found

    def rate(self, name):
        """Best of the medians of a stream over its chunk sizes, GB/s; 0 when not measured."""
        return max((m for (n, _, _), (_, m, _) in self.limits.items() if n == name), default=0)

    def verdicts(self, goal):
        """[(bytes, variant, verdict, words)] for a goal; verdict: met, missed, or open (nothing to
        say)."""
        found = []
        for size in self.sizes(goal.wire, goal.ranks):
            if size < goal.min_bytes:
                continue
            cell = (goal.wire, goal.ranks, size)
            bound, limit = self.shipped(cell, goal.peers), self.limit_us(cell)
            variants = self.rondo(cell)
            if not variants:
                found.append((size, "", "open", "no time of Rondo's"))
            for name, figure in variants.items():
                found.append((size, name, *_verdict(goal, figure, bound, limit)))
        return found


def _verdict(goal, figure, bound, limit):
    words = []
    if bound:
        ratio = figure.median / bound.median
        words.append(f"{ratio:.2f} x {plan.TITLES[bound.peer]}")
        if ratio <= goal.factor:
            return "met", words[0]
    if goal.limit_factor and limit:
        ratio = figure.median / limit
        words.append(f"{ratio:.2f} x limit")
        if ratio <= goal.limit_factor:
            return "met", words[-1]
    if not bound:
        return "open", "no peer to compare with"
    return "missed", ", ".join(words)


def _merge_limits(rows):
    """{(name, parameter, processes): (best, median, unit)} over rounds."""
    grouped = defaultdict(list)
    for name, parameter, processes, best, median, unit in rows:
        grouped[name, parameter, int(processes)].append((float(best), float(median), unit))
    merged = {}
    for key, values in grouped.items():
        unit = values[0][2]
        pick = min if unit == "us" else max
        merged[key] = (pick(v[0] for v in values), statistics.median(v[1] for v in values), unit)
    return merged
