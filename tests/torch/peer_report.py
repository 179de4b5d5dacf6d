# SPDX-License-Identifier: MIT
"""Puts the outcomes of peer_cases.py side by side: peer_report.py FOLDER JSON BACKEND..."""
from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List


def counts(name: str, cases: Dict[str, List[str]]) -> str:
    c = Counter(outcome for outcome, _ in cases.values())
    return f"{name}: {c['passed']} passed, {c['failed']} failed, {c['skipped']} skipped by PyTorch, {c['excluded']} excluded"


def report(all_: Dict[str, Any]) -> bool:
    for b, cases in all_.items():
        print(counts(b, cases))
    if "rondo" not in all_:
        return True
    mine, gloo = all_["rondo"], all_.get("gloo", {})
    for name, (outcome, text) in mine.items():
        if outcome == "failed":
            also = gloo.get(name, ["unknown"])[0]
            print(f"failed with rondo, {also} with gloo: {name}: {(text.strip().splitlines() or [''])[-1][:200]}")
    for name, (outcome, _) in gloo.items():
        if outcome == "failed" and mine[name][0] == "passed":
            print(f"passed with rondo, failed with gloo: {name}")
    # A case that Gloo fails on the same machine says nothing.
    tell = [n for n, (o, _) in mine.items() if o in ("passed", "failed") and not (o == "failed" and gloo.get(n, [""])[0] == "failed")]
    passed = sum(mine[n][0] == "passed" for n in tell)
    share = passed / len(tell) if tell else 0.0
    print(f"applicable: {len(tell)}, passed: {passed} ({100 * share:.1f} %)")
    return share >= 0.9


def main() -> int:
    folder, out, *backends = sys.argv[1:]
    sets = {"distributed_test": ".json", "test_c10d": ".c10d.json"}
    all_: Dict[str, Any] = {}
    good = True
    for name, end in sets.items():
        files = {b: Path(folder) / f"{b}{end}" for b in backends}
        if all(f.is_file() for f in files.values()):
            print(f"-- {name}")
            found = {b: json.loads(f.read_text()) for b, f in files.items()}
            good = report(found) and good
            for b in backends:
                all_.setdefault(b, {}).update(found[b])
    Path(out).write_text(json.dumps(all_, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
