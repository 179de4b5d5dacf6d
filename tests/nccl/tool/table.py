# SPDX-License-Identifier: MIT
"""Tables for people out of the comparison's reports."""

REDUCING = ("all_reduce", "reduce_scatter", "reduce")
FAILED_SHOWN = 12


def _groups(cases):
    """Reductions by type and operation, the others by collective."""
    groups = {}
    for case in cases:
        reduces = case["collective"] in REDUCING
        key = (case["type"], case["op"]) if reduces else (case["collective"], "")
        groups.setdefault(key, []).append(case)
    return groups


def _right(values):
    """'12' when all are right, else '11 of 12'."""
    good = sum(v["verdict"] == "ok" for v in values)
    asked = sum(v["verdict"] != "unsupported" for v in values)
    if not asked:
        return "not had"
    return str(good) if good == asked else f"{good} of {asked}"


def _errors(values):
    if all(v["exact"] for v in values):
        return "exact"
    ulps = max(v["max_ulps"] for v in values)
    return f"{ulps:.3g} ulp, {max(v['of_bound'] for v in values):.2f}"


def _aligned(rows):
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def correctness(report):
    """A row for each type and operation, with all collectives that reduce, and for each of the others: cases that
    are right, the largest error in units of the last place and as a part of the bound."""
    sides = [s["name"] for s in report["sides"]]
    rows = [["", "", "cases"]]
    for side in sides:
        rows[0] += [f"{side} right", "max error, of bound"]
    if len(sides) == 2:
        rows[0].append("elements that differ")
    for key, cases in _groups(report["cases"]).items():
        row = [*key, str(len(cases))]
        for side in sides:
            values = [c[side] for c in cases]
            row += [_right(values), _errors(values)]
        if len(sides) == 2:
            elements = sum(c[sides[0]]["elements"] for c in cases)
            row.append(f"{sum(c['differ'] for c in cases)} of {elements}")
        rows.append(row)
    return _aligned(rows)


def times(report):
    sides = [s["name"] for s in report["sides"]]
    rows = [["collective", "type", "bytes", *(f"{s} us" for s in sides)]]
    if len(sides) == 2:
        rows[0].append(f"{sides[0]} / {sides[1]}")
    for case in report["cases"]:
        us = [case[s]["us"] for s in sides]
        if not us[0]:
            continue
        row = [case["collective"], case["type"], str(case["bytes"])]
        row += [f"{v:.1f}" if v else "-" for v in us]
        if len(sides) == 2:
            row.append(f"{us[0] / us[1]:.2f}" if us[1] else "-")
        rows.append(row)
    return _aligned(rows) if len(rows) > 1 else []


def rules(report):
    """The documented differences, with the number of elements that met them."""
    sides = [s["name"] for s in report["sides"]]
    lines = []
    for rule in report["rules"]:
        if any(rule["elements"].values()):
            asked = "; ".join(
                f"{s}: {rule['asked'][s]} ({rule['elements'][s]} elements)" for s in sides
            )
            lines += [f"{rule['name']}: {asked}", f"    {rule['reason']}"]
    return lines


def failures(report):
    found = [f"{s['name']}: {s['problem']}" for s in report["sides"] if s["problem"]]
    sides = [s["name"] for s in report["sides"]]
    for case in report["cases"]:
        for side in sides:
            if case[side]["verdict"] in ("wrong", "failed", "missing"):
                place = "in place" if case["in_place"] else "out of place"
                found.append(
                    f"case {case['index']}: {side} {case['collective']} {case['type']} {case['op']}, "
                    f"{case['count']} elements, {case['data']} data, root {case['root']}, {place}: "
                    f"{case[side]['verdict']}, {case[side]['wrong']} elements. {case[side]['detail']}"
                )
    if len(found) > FAILED_SHOWN:
        found = [*found[:FAILED_SHOWN], f"... and {len(found) - FAILED_SHOWN} more"]
    return found

