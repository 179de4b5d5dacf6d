# SPDX-License-Identifier: MIT
"""The example learns the same with both backends, through mp.spawn and env://: example.py"""
from __future__ import annotations

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

import ranks  # noqa: F401  skips where there is no PyTorch

ROOT = Path(__file__).resolve().parents[2]


class Example(unittest.TestCase):
    def losses(self, backend: str) -> "list[str]":
        args = ["--backend", backend, "-n", "2", "--steps", "6", "--every", "3", "--batch", "4", "--text", str(ROOT / "README.md")]
        env = {**os.environ, "PYTHONPATH": str(ROOT / "ddp/torch"), "OMP_NUM_THREADS": "1"}
        script = str(ROOT / "ddp/torch/examples/train_text.py")
        got = subprocess.run([sys.executable, script, *args], env=env, capture_output=True, text=True, timeout=100)
        self.assertEqual(got.returncode, 0, got.stderr)
        return re.findall(r"step +\d+ +loss (\d\.\d\d)", got.stdout)

    def test_same_losses(self) -> None:
        mine = self.losses("rondo")
        self.assertEqual(len(mine), 2)
        self.assertEqual(mine, self.losses("gloo"))
        self.assertLess(float(mine[1]), float(mine[0]))


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
