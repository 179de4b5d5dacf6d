# SPDX-License-Identifier: MIT
"""What ./run makes of parts that fail, hang, print garbage or are skipped, of a wrong name, and of a machine without a
GPU: selftest.py BUILD-TREE"""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
loader = importlib.machinery.SourceFileLoader("gpu_run", str(HERE / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_run", loader))
loader.exec_module(run)


def shell(script, seconds=20):
    return run.Run(["sh", "-c", script], seconds)


def expect(part, status, word):
    row = run.one(part, None)
    assert row["status"] == status and word in str(row), (part.__name__, row)


def passes(b):
    return shell('echo "words"; echo "{\\"x\\": 1}"').json()


def fails(b):
    shell("echo broken >&2; exit 3").ok()


def hides(b):
    """A grandchild in a session of its own holds the pipe and outlives its parent's end."""
    shell("setsid sleep 601 & sleep 600", 1).ok()


def hangs(b):
    shell("echo begun >&2; sleep 600 & sleep 600", 1).ok()


def garbage(b):
    shell("echo '{not json'").json()


def skips(b):
    shell("echo 'no such thing' >&2; exit 77").ok()


run.adopt_orphans()
expect(passes, "pass", "'x': 1")
expect(fails, "fail", "broken")
begin = time.monotonic()
expect(hangs, "fail", "did not end")
expect(hides, "fail", "did not end")
assert time.monotonic() - begin < 15 and not run.descendants(), run.descendants()
expect(garbage, "fail", "no JSON")
expect(skips, "skip", "no such thing")


def call(*args, **env):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RONDO_")}
    return subprocess.run([sys.executable, HERE / "run", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          encoding="utf-8", env={**clean, **env}, timeout=60)


listed = call("--list")
assert listed.returncode == 0 and "kernels\n" in listed.stdout, listed.stdout
wrong = call("--only", "nothing")
assert wrong.returncode == 2 and "the parts are" in wrong.stdout, wrong.stdout
none = call("--build", sys.argv[1], RONDO_CUDA_DRIVER="none")
assert none.returncode == 77 and "cuda_driver=none" in none.stdout, none.stdout
run.Run.until = time.monotonic() + 2
expect(passes, "skip", "no time is left")
print("10 passed, 0 failed")
