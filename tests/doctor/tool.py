# SPDX-License-Identifier: MIT
"""Runs rondo-doctor on prepared trees that stand for /proc, /sys and /dev, and reads its findings."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

LEVELS = ("ok", "info", "warning", "error")


class Programs:
    doctor = None       # absolute path
    fake_verbs = None   # folder of the stand-in for libibverbs


class Skipped(Exception):
    pass


def expect(truth, *words):
    if not truth:
        raise AssertionError(" ".join(map(str, words)))


def environment(extra=None):
    """Without what a launcher or the user has set; the home directory has no key."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("RONDO_", "SLURM_", "PMI_", "OMPI_", "MPI_", "FAKE_VERBS"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    env["HOME"] = "/nonexistent"
    env.update(extra or {})
    return env


def run(*arguments, code=None, env=None, prepare=None, tool=()):
    """Its standard output and error; fails unless it exits with `code`."""
    command = [*tool, Programs.doctor, *map(str, arguments)]
    done = subprocess.run(command, env=environment(env), stdin=subprocess.DEVNULL, timeout=100,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                          preexec_fn=prepare)
    expect(code is None or done.returncode == code, *command, "ended with", done.returncode, "and not",
           code, "\n" + done.stdout + done.stderr)
    return done.stdout, done.stderr


class Report:
    """The findings of one run, from its JSON."""

    def __init__(self, text):
        self.json = json.loads(text)
        self.text = text
        for f in self.json["findings"]:
            expect(set(f) == {"id", "section", "level", "subject", "what", "consequence", "remedy"}, f)
            expect(f["level"] in LEVELS and f["what"], f)
            expect(f["id"].split(".")[0] == f["section"], f)
            # Whatever needs attention says what follows from it and what to do.
            if f["level"] in ("warning", "error"):
                expect(f["consequence"] and f["remedy"], "no consequence or remedy:", f)
        count = {l: sum(f["level"] == l for f in self.json["findings"]) for l in LEVELS}
        expect(count == self.json["count"], count, self.json["count"])
        expect(self.json["can_run"] == (count["error"] == 0), count)

    def find(self, id, level, *words, subject=None):
        """Fails unless check `id` has a finding of this level in which all the words are."""
        for f in self.json["findings"]:
            everything = " ".join(filter(None, (f["what"], f["consequence"], f["remedy"])))
            if (f["id"] == id and f["level"] == level and all(w in everything for w in words) and
                    subject in (None, f["subject"])):
                return f
        raise AssertionError("no finding %s of level %s with %s in:\n%s" % (id, level, words, self.text))

    def worst(self, id):
        return max((LEVELS.index(f["level"]) for f in self.json["findings"] if f["id"] == id), default=-1)


def report(*arguments, code=None, **options):
    output, _ = run(*arguments, "--json", "-", code=code, **options)
    result = Report(output)
    if code is None:
        run(*arguments, "--json", "-", code=0 if result.json["can_run"] else 1, **options)
    return result


LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max processes             31000                31000                processes
Max open files            %-20s %-20s files
Max locked memory         %-20s %-20s bytes
Max address space         unlimited            unlimited            bytes
"""


class Tree:
    """A folder with the files that a host would have. As a context it is removed at the end."""

    def __init__(self, **files):
        self.path = tempfile.mkdtemp(prefix="doctor")
        self.limits()
        self.write("proc/self/uid_map", "         0          0 4294967295")
        self.write("proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\nCpus_allowed_list:\t0-7\n")
        self.write("proc/self/cgroup", "0::/job\n")
        self.write("proc/self/mounts", "tmpfs /dev/shm tmpfs rw,nosuid,size=8388608k 0 0\n")
        self.write("sys/devices/system/cpu/online", "0-7\n")
        self.write("proc/modules", "ext4 1 0 - Live 0x0\n")
        self.write("proc/cmdline", "quiet\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path)

    def limits(self, files=("65536", "65536"), locked=("unlimited", "unlimited")):
        self.write("proc/self/limits", LIMITS % (*files, *locked))

    def write(self, name, content=""):
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)

    def report(self, *arguments, **options):
        return report("--root", self.path, *arguments, **options)


def main(tests, arguments):
    """Runs the tests that are named; 77 when one was skipped and none failed."""
    code = 0
    for name in arguments:
        try:
            tests[name]()
        except Skipped as reason:
            print("skipped: %s: %s" % (name, reason))
            code = 77
        except AssertionError as reason:
            print("FAILED: %s: %s" % (name, reason))
            sys.exit(1)
    sys.exit(code)
