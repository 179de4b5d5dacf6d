# SPDX-License-Identifier: MIT
"""A checker of Prometheus' text format, version 0.0.4, stricter than the scraper."""

import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"^({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)\}})? (\S+)$")
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")


class Wrong(Exception):
    pass


def key(name, labels):
    return name, tuple(sorted(labels.items()))


def _family(name, kinds):
    for ending in ("_bucket", "_sum", "_count"):
        base = name[:-len(ending)]
        if name.endswith(ending) and kinds.get(base) == "histogram":
            return base
    return name


def _value(text, line):
    try:
        return float(text)
    except ValueError:
        raise Wrong(f"no number: {line}") from None


def _histograms(samples, kinds):
    for base in (name for name, kind in kinds.items() if kind == "histogram"):
        series = {}
        for (name, labels), value in samples.items():
            if _family(name, kinds) == base:
                rest = tuple(pair for pair in labels if pair[0] != "le")
                series.setdefault(rest, {})[name[len(base):], dict(labels).get("le")] = value
        for rest, values in series.items():
            buckets = sorted((float(le), n) for (part, le), n in values.items() if part == "_bucket")
            if not buckets or buckets[-1][0] != math.inf:
                raise Wrong(f"{base}{rest} has no bucket +Inf")
            if any(a[1] > b[1] for a, b in zip(buckets, buckets[1:])):
                raise Wrong(f"{base}{rest}: buckets do not grow")
            if ("_sum", None) not in values or values.get(("_count", None)) != buckets[-1][1]:
                raise Wrong(f"{base}{rest}: sum or count are missing or wrong")


def check(text):
    """The samples; raises Wrong."""
    kinds, helped, samples, closed, current = {}, set(), {}, set(), None
    if not text.endswith("\n"):
        raise Wrong("the last line has no end")
    for line in text.splitlines():
        match = re.match(rf"^# (HELP|TYPE) ({NAME}) (.*)$", line)
        if match:
            what, name, rest = match.groups()
            if what == "HELP" and name in helped or what == "TYPE" and (name in kinds or rest not in TYPES):
                raise Wrong(f"twice, or no type: {line}")
            helped.add(name)
            if what == "TYPE":
                kinds[name] = rest
            continue
        match = SAMPLE.match(line)
        if not match:
            raise Wrong(f"neither a sample nor a comment: {line}")
        name, labels = match.group(1), dict(re.findall(LABEL, match.group(2) or ""))
        family = _family(name, kinds)
        if family not in kinds or family in closed:
            raise Wrong(f"without a type, or not with the others of its name: {line}")
        if current not in (None, family):
            closed.add(current)
        current = family
        value = _value(match.groups()[-1], line)
        if key(name, labels) in samples or (kinds[family] != "gauge" and not value >= 0):
            raise Wrong(f"twice, or negative: {line}")
        if kinds[family] == "counter" and not name.endswith("_total"):
            raise Wrong(f"a counter's name ends with _total: {line}")
        samples[key(name, labels)] = value
    _histograms(samples, kinds)
    return samples
