# SPDX-License-Identifier: MIT
"""Writes the report (Markdown) and the figures behind it (CSV)."""

import csv

from . import plan
from .results import MPI

CSV_FIELDS = (
    "wire",
    "ranks",
    "bytes",
    "class",
    "peer",
    "config",
    "median_us",
    "min_us",
    "samples",
    "round_medians_us",
    "busbw_GBps",
    "chained_us",
    "limit_us",
    "limit_with_add_us",
    "ratio_shipped_mpi",
    "ratio_shipped",
    "ratio_tuned",
    "ratio_limit",
    "problem",
)

NOTE = (
    "float32, sum, in place. Time per operation, first rank's start to last rank's end: median "
    "over all rounds and iterations (least in brackets). A ratio is Rondo's median over the "
    "other's: below 1 Rondo is faster. Limit: what the wire or the memory of this machine needs at "
    "the least. How to read it all: tests/peers/README.md."
)
CHAINED_NOTE = (
    "Time per operation of 32 in a row with no barrier between them, best of all tries. Above, "
    "every operation starts from rest."
)
LIMITS_NOTE = (
    "Memory: bytes of one operand per second over all threads. Streams: each direction. Latency: "
    "one way, half a round trip. Best and median over all rounds."
)


def time_text(us):
    if us <= 0:
        return "-"
    for unit, factor in (("s", 1e6), ("ms", 1e3)):
        if us >= factor * 0.9995:
            return (
                f"{us / factor:.3g} {unit}" if us < factor * 999.5 else f"{us / factor:.0f} {unit}"
            )
    return f"{us:.3g} us" if us >= 0.995 else f"{us:.2f} us"


def _ratio(figure, other_us):
    return figure.median / other_us if figure and other_us else None


def _ratio_text(value):
    return "-" if value is None else f"{value:.2f}"


def _table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(r) + " |" for r in rows] + [""]


def _with_least(figure):
    if figure is None:
        return "-"
    if not figure.valid:
        return figure.problem
    return f"{time_text(figure.median)} ({time_text(figure.least)})"


def _times(results, wire, ranks):
    head, rows = ["size"], []
    columns = []
    for name in sorted(
        {n for s in results.sizes(wire, ranks) for n in results.rondo((wire, ranks, s))}
    ):
        columns.append((f"Rondo, {name}", lambda cell, name=name: results.rondo(cell).get(name)))
    for peer in ("openmpi", "mpich", "gloo"):
        if any(results.shipped((wire, ranks, s), (peer,)) for s in results.sizes(wire, ranks)):
            title = f"{plan.TITLES[peer]} as shipped"
            columns.append((title, lambda cell, peer=peer: results.shipped(cell, (peer,))))
    head += [c[0] for c in columns] + ["best tuned peer", "which", "limit"]
    for size in results.sizes(wire, ranks):
        cell = (wire, ranks, size)
        tuned = results.tuned(cell)
        rows.append(
            [plan.size_text(size)]
            + [_with_least(c[1](cell)) for c in columns]
            + [
                _with_least(tuned),
                tuned.title() if tuned else "-",
                time_text(results.limit_us(cell)),
            ]
        )
    return _table(head, rows)


def _verdict_text(results, cell):
    words = []
    for goal in plan.GOALS:
        if (goal.wire, goal.ranks) == cell[:2]:
            for size, variant, verdict, text in results.verdicts(goal):
                if size == cell[2]:
                    mark = {"met": "met", "missed": "**missed**", "open": "open"}[verdict]
                    words.append(f"{variant + ': ' if variant else ''}{mark} ({text})")
    return "; ".join(words)


def _ratios(results, wire, ranks):
    names = sorted({n for s in results.sizes(wire, ranks) for n in results.rondo((wire, ranks, s))})
    head = ["size", "best as shipped"]
    for name in names:
        head += [f"{name} / shipped", f"{name} / tuned", f"{name} / limit"]
    goals = any((g.wire, g.ranks) == (wire, ranks) for g in plan.GOALS)
    rows = []
    for size in results.sizes(wire, ranks):
        cell = (wire, ranks, size)
        shipped, tuned, limit = results.shipped(cell), results.tuned(cell), results.limit_us(cell)
        row = [plan.size_text(size), shipped.title() if shipped else "-"]
        for name in names:
            figure = results.rondo(cell).get(name)
            row += [
                _ratio_text(_ratio(figure, shipped and shipped.median)),
                _ratio_text(_ratio(figure, tuned and tuned.median)),
                _ratio_text(_ratio(figure, limit)),
            ]
        rows.append(row + ([_verdict_text(results, cell)] if goals else []))
    return _table(head + (["goal"] if goals else []), rows)


def _chained(results):
    cells = {k: [f for f in fs if f.chained] for k, fs in results.cells.items()}
    rows = []
    for (wire, ranks, size), figures in sorted(
        cells.items(), key=lambda kv: (kv[0][1], kv[0][0], kv[0][2])
    ):
        ours = {f.config: f.chained for f in figures if f.cls == "rondo"}
        peers = sorted(
            (f for f in figures if f.cls in ("shipped", "tuned")), key=lambda f: f.chained
        )
        if ours or peers:
            rows.append(
                [
                    str(ranks),
                    plan.WIRES[wire],
                    plan.size_text(size),
                    ", ".join(f"{name} {time_text(us)}" for name, us in sorted(ours.items()))
                    or "-",
                    f"{time_text(peers[0].chained)} {peers[0].title()}" if peers else "-",
                ]
            )
    if not rows:
        return []
    return [
        "## Small messages back to back",
        "",
        CHAINED_NOTE,
        "",
        *_table(["ranks", "wire", "size", "Rondo", "best peer"], rows),
    ]


def goal_lines(results):
    """One line per goal and variant, for the report's top and the terminal."""
    lines = []
    for goal in plan.GOALS:
        found = results.verdicts(goal)
        if not found:
            continue
        lines.append(f"- {goal.text()}")
        for name in sorted({v[1] for v in found}):
            mine = [v for v in found if v[1] == name]
            met = [v for v in mine if v[2] == "met"]
            rest = [f"{plan.size_text(v[0])} {v[2]}: {v[3]}" for v in mine if v[2] != "met"]
            lines.append(
                f"  - {name or 'Rondo'}: {len(met)} of {len(mine)} sizes met"
                + (f" ({'; '.join(rest)})" if rest else "")
            )
    return lines


def _problems(results, left_out):
    lines = [f"- {plan.TITLES[peer]} was left out: {why}" for peer, why in left_out.items()]
    seen = {}
    for (wire, ranks, size), figures in sorted(results.cells.items()):
        for f in figures:
            if f.problem:
                key = (f.title(), plan.WIRES[wire], ranks, f.problem)
                seen.setdefault(key, []).append(plan.size_text(size))
    lines += [
        f"- {title}, {wire}, {ranks} ranks, {', '.join(sizes)}: {problem}"
        for (title, wire, ranks, problem), sizes in seen.items()
    ]
    return ["## What failed or was left out", "", *(lines or ["Nothing."]), ""]


def _limits(results):
    rows = [
        [name, parameter, str(processes), f"{best:.3g}", f"{median:.3g}", unit]
        for (name, parameter, processes), (best, median, unit) in results.limits.items()
    ]
    if not rows:
        return []
    return [
        "## Limits of the machine, measured in the same run",
        "",
        LIMITS_NOTE,
        "",
        *_table(["what", "", "processors", "best", "median", "unit"], rows),
    ]


def markdown(results, facts, left_out, method, picture=None):
    lines = [
        "# All-reduce: Rondo beside Open MPI, MPICH and Gloo",
        "",
        NOTE,
        "",
    ]
    if picture:
        lines += [f"![time per size]({picture})", ""]
    goals = goal_lines(results)
    if goals:
        lines += ["## Goals", "", *goals, ""]
    for wire, ranks in results.tables():
        lines += [
            f"## {ranks} ranks, {plan.WIRES[wire]}",
            "",
            *_times(results, wire, ranks),
            *_ratios(results, wire, ranks),
        ]
    lines += _chained(results) + _limits(results) + _problems(results, left_out)
    lines += [
        "## Machine and method",
        "",
        *_table(["", ""], [list(f) for f in facts]),
        *(f"- {m}" for m in method),
        "",
    ]
    return "\n".join(lines)


def write_csv(results, path):
    """One line per configuration and cell; the ratios are this configuration's to the best of each
    kind."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(CSV_FIELDS)
        for (wire, ranks, size), figures in sorted(
            results.cells.items(), key=lambda kv: (kv[0][1], kv[0][0], kv[0][2])
        ):
            cell = (wire, ranks, size)
            limit = results.limit_us(cell)
            with_add = (
                limit + results.add_us(cell, "f32 add a+=b", ranks - 1) if wire == "tcp" else 0
            )
            bounds = [
                b.median if b else 0
                for b in (results.shipped(cell, MPI), results.shipped(cell), results.tuned(cell))
            ] + [limit]
            for x in sorted(figures, key=lambda x: (x.cls, x.peer, x.config)):
                busbw = 2 * (ranks - 1) / ranks * size / x.median / 1e3 if x.valid else 0
                ratios = [f"{x.median / b:.3f}" if b and x.valid else "" for b in bounds]
                writer.writerow(
                    [
                        wire,
                        ranks,
                        size,
                        x.cls,
                        x.peer,
                        x.config,
                        *(f"{v:.3f}" if v else "" for v in (x.median, x.least)),
                        x.samples,
                        " ".join(f"{v:.3f}" for v in x.rounds.values()),
                        f"{busbw:.3f}" if busbw else "",
                        *(f"{v:.3f}" if v else "" for v in (x.chained, limit, with_add)),
                        *ratios,
                        x.problem,
                    ]
                )
