# SPDX-License-Identifier: MIT
"""Runs rondo-perf and reads its table as programs that know nccl-tests do."""

import os
import re
import subprocess
import sys

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all",
               "sendrecv")
REDUCING = ("all_reduce", "reduce_scatter", "reduce")
ROOTED = ("broadcast", "reduce")
NOT_IN_PLACE = ("all_to_all", "sendrecv")
SPLIT = ("reduce_scatter", "all_gather", "all_to_all")
TYPES = {"float": 4, "double": 8, "half": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4,
         "uint32": 4, "int64": 8, "uint64": 8, "f8e4m3": 1, "f8e5m2": 1}
OPS = ("sum", "prod", "min", "max", "avg")

DEVICE = re.compile(r"#  Rank +(\d+) Group +(\d+) Pid +(\d+) on +(\S+) device +(\d+) "
                    r"\[([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})\] (.+)$")
ROW = re.compile(r" *(\d+) +(\d+) +(\w+) +(\w+) +(-?\d+)" + 2 * r" +(\S+) +(\S+) +(\S+) +(\S+)" + "$")


class Programs:
    perf = run = fake = None    # absolute paths; fake: the folder of a libibverbs without hardware
    extra = {}                  # environment of all that is run


def expect(truth, *words):
    if not truth:
        print("FAILED:", *words)
        sys.exit(1)


def environment(extra=None):
    """Without what a launcher or the user has set."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("RONDO_", "SLURM_", "PMI_", "OMPI_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                 "MASTER_PORT"):
        env.pop(name, None)
    env.update(Programs.extra)
    env.update(extra or {})
    return env


def run(*arguments, code=0, tool=(), env=None, cwd=None):
    """Its standard output and error; fails unless it exits with `code`."""
    command = [*tool, Programs.perf, *map(str, arguments)]
    done = subprocess.run(command, env=environment(env), stdin=subprocess.DEVNULL, timeout=200,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", cwd=cwd)
    expect(done.returncode == code, *command, "ended with", done.returncode, "and not", code,
           "\n" + done.stdout + done.stderr)
    return done.stdout, done.stderr


def table(output):
    """The rows, as lists of 13 texts."""
    rows = [line for line in output.splitlines() if line and not line.startswith("#")]
    for line in rows:
        expect(ROW.match(line), "not a row:", repr(line))
    return [list(ROW.match(line).groups()) for line in rows]
