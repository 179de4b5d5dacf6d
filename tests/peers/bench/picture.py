# SPDX-License-Identifier: MIT
"""Draws time per size, log-log, one panel per wire and number of ranks, as SVG. Standard library
only."""

import math
from xml.sax.saxutils import escape

from . import plan

PANEL_W, PANEL_H = 600, 430
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 56
HEAD = 84

# Okabe and Ito's colours: distinct for colour-blind readers too.
STYLES = (  # key, label, colour, width, dash, marker
    ("limit", "limit of the machine", "#999999", 1.6, "2 4", None),
    ("tuned", "best tuned peer", "#000000", 1.6, "7 4", None),
    ("gloo", "Gloo as shipped", "#CC79A7", 1.8, None, "diamond"),
    ("mpich", "MPICH as shipped", "#009E73", 1.8, None, "triangle"),
    ("openmpi", "Open MPI as shipped", "#E69F00", 1.8, None, "square"),
    ("rondo rondo_mem_alloc", "Rondo, rondo_mem_alloc", "#56B4E9", 2.6, None, "ring"),
    ("rondo any buffer", "Rondo, any buffer", "#0072B2", 2.6, None, "disc"),
)


def _series(results, wire, ranks):
    """{key: [(bytes, us)]} of a panel."""
    found = {}
    for size in results.sizes(wire, ranks):
        cell = (wire, ranks, size)
        points = {"limit": results.limit_us(cell)}
        tuned = results.tuned(cell)
        points["tuned"] = tuned.median if tuned else 0
        for peer in ("openmpi", "mpich", "gloo"):
            figure = results.shipped(cell, (peer,))
            points[peer] = figure.median if figure else 0
        for name, figure in results.rondo(cell).items():
            points[f"rondo {name}"] = figure.median
        for key, us in points.items():
            if us > 0:
                found.setdefault(key, []).append((size, us))
    return found


def _marker(kind, x, y, colour):
    if kind == "disc":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if kind == "ring":
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#ffffff" stroke="{colour}" '
            'stroke-width="2.2"/>'
        )
    if kind == "square":
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour}"/>'
    offsets = {
        "triangle": ((0, -4.6), (4.4, 3.4), (-4.4, 3.4)),
        "diamond": ((0, -5), (4.6, 0), (0, 5), (-4.6, 0)),
    }[kind]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in offsets)
    return f'<polygon points="{points}" fill="{colour}"/>'


def _text(x, y, words, size=13, anchor="middle", more=""):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {more}>'
        f"{escape(words)}</text>"
    )


def _power(exponent):
    unit, shift = ("us", 0) if exponent < 3 else ("ms", 3) if exponent < 6 else ("s", 6)
    return f"{10.0 ** (exponent - shift):g} {unit}"


class _Axes:
    """Maps bytes and microseconds to points of a panel."""

    def __init__(self, x0, y0, sizes, low, high):
        self.x0, self.y0 = x0 + LEFT, y0 + TOP
        self.w, self.h = PANEL_W - LEFT - RIGHT, PANEL_H - TOP - BOTTOM
        self.first, self.last = math.log2(min(sizes)), math.log2(max(sizes))
        self.low, self.high = low, high

    def x(self, size):
        span = self.last - self.first or 1
        return self.x0 + self.w * (0.03 + 0.94 * (math.log2(size) - self.first) / span)

    def y(self, us):
        return self.y0 + self.h * (self.high - math.log10(us)) / (self.high - self.low)

    def frame(self, title, sizes):
        out = [_text(self.x0, self.y0 - 14, title, 15, "start", 'font-weight="bold"')]
        for exponent in range(self.low, self.high + 1):
            y = self.y(10.0**exponent)
            out.append(
                f'<line x1="{self.x0}" x2="{self.x0 + self.w}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="#dddddd"/>'
            )
            out.append(_text(self.x0 - 8, y + 4, _power(exponent), 12, "end"))
        for i, size in enumerate(sizes):
            x = self.x(size)
            out.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.y0}" y2="{self.y0 + self.h}" '
                'stroke="#eeeeee"/>'
            )
            if i == 0 or x - self.x(sizes[i - 1]) > 34 or i % 2 == 0:
                number, unit = plan.size_text(size).split()
                out.append(_text(x, self.y0 + self.h + 17, number, 12))
                out.append(_text(x, self.y0 + self.h + 31, unit, 11))
        out.append(
            f'<rect x="{self.x0}" y="{self.y0}" width="{self.w}" height="{self.h}" fill="none" '
            'stroke="#666666"/>'
        )
        return out

    def line(self, points, colour, width, dash, marker):
        path = " ".join(f"{self.x(s):.1f},{self.y(us):.1f}" for s, us in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out = [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-linejoin="round"{dashes}/>'
        ]
        if marker:
            out += [_marker(marker, self.x(s), self.y(us), colour) for s, us in points]
        return out


def _legend(present, width):
    out, x, y = [], 20.0, 52.0
    for key, label, colour, line, dash, marker in reversed(STYLES):
        if key not in present:
            continue
        need = 52 + 7.4 * len(label)
        if x + need > width:
            x, y = 20.0, y + 22
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out.append(
            f'<line x1="{x:.0f}" x2="{x + 30:.0f}" y1="{y:.0f}" y2="{y:.0f}" stroke="{colour}" '
            f'stroke-width="{line}"{dashes}/>'
        )
        if marker:
            out.append(_marker(marker, x + 15, y, colour))
        out.append(_text(x + 37, y + 4.5, label, 13, "start"))
        x += need
    return out


def svg(results, subtitle):
    tables = results.tables()
    wires = sorted({w for w, _ in tables})
    ranks = sorted({n for _, n in tables})
    panels = {key: _series(results, *key) for key in tables}
    times = [us for series in panels.values() for points in series.values() for _, us in points]
    if not times:
        return ""
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)) + 1e-9)
    high = max(high, low + 1)
    width, height = PANEL_W * len(wires), HEAD + PANEL_H * len(ranks)
    width = max(width, 760)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
        'fill="#222222">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(
            20,
            28,
            f"all_reduce, float32 sum: median time per operation ({subtitle})",
            16,
            "start",
            'font-weight="bold"',
        ),
    ]
    out += _legend({key for series in panels.values() for key in series}, width)
    for (wire, n), series in panels.items():
        axes = _Axes(
            PANEL_W * wires.index(wire),
            HEAD + PANEL_H * ranks.index(n),
            results.sizes(wire, n),
            low,
            high,
        )
        out += axes.frame(f"{n} ranks, {plan.WIRES[wire]}", results.sizes(wire, n))
        for key, _, colour, line, dash, marker in STYLES:
            if key in series:
                out += axes.line(series[key], colour, line, dash, marker)
    return "\n".join(out + ["</svg>", ""])
