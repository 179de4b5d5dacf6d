# SPDX-License-Identifier: MIT
"""The ranks of one trial: starts them, reads what they say, signals them, and sees that all end."""

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from pathlib import Path

FOREIGN = ("RONDO_", "FAKE_VERBS_", "SLURM_", "PMI_", "PMIX_", "OMPI_", "FLUX_", "PBS_")
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def now():
    return time.monotonic_ns()


def patience():
    """Instrumented programs are slower by this much."""
    return float(os.environ.get("RONDO_TEST_PATIENCE", "1"))


class Rank:
    def __init__(self, rank, host, popen, errors):
        self.rank, self.host, self.popen, self.errors = rank, host, popen, errors
        self.pid = popen.pid
        self.events, self.rest, self.closed = [], b"", False
        self.code = self.ended = None

    def take(self):
        """Reads what it said; False at the end of it."""
        try:
            data = os.read(self.popen.stdout.fileno(), 65536)
        except BlockingIOError:
            return True
        self.rest += data
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.events.append({"t": now(), "event": "garbage", "text": line.decode(errors="replace")})
        return bool(data)

    def poll(self):
        if self.code is None and self.popen.poll() is not None:
            self.code, self.ended = self.popen.returncode, now()
        return self.code is not None

    def find(self, event, since=0):
        """The first event of that name."""
        return next((e for e in self.events if e["event"] == event and e["t"] >= since), None)

    def all(self, event):
        return [e for e in self.events if e["event"] == event]

    def last(self, *names):
        return next((e for e in reversed(self.events) if e["event"] in names), None)

    def logged(self, words):
        return next((e for e in self.events if e["event"] == "log" and words in e["text"]), None)

    def tell(self, word):
        try:
            self.popen.stdin.write(word)
        except OSError:
            pass   # it has ended

    def error_text(self):
        return Path(self.errors).read_text(encoding="utf-8", errors="replace")


class Job:
    """`place` gives for a rank (network namespace or None, host's number, rank within the host)."""

    def __init__(self, program, size, place, master, port, environment):
        self.program, self.size, self.place = program, size, place
        self.folder = Path(tempfile.mkdtemp(prefix="rf"))
        self.key = self.folder / "key"
        self.key.touch(mode=0o600)
        self.key.write_text(os.urandom(24).hex() + "\n", encoding="ascii")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN) and k not in LAUNCHER}
        self.environment |= {"HOME": str(self.folder), "TMPDIR": str(self.folder), "RONDO_KEY_FILE": str(self.key),
                             "MASTER_ADDR": master, "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        self.environment |= environment
        self.ranks = {}
        self.selector = selectors.DefaultSelector()

    def start(self, rank, words, environment=None):
        namespace, host, local = self.place(rank)
        command = [self.program, *words]
        if namespace:
            command += ["--netns", namespace, "--host", f"h{host}"]
        env = self.environment | {"RANK": str(rank), "LOCAL_RANK": str(local)} | (environment or {})
        errors = self.folder / f"errors.{rank}"
        with open(errors, "wb") as out:
            popen = subprocess.Popen(list(map(str, command)), env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=out, cwd=self.folder, bufsize=0)
        os.set_blocking(popen.stdout.fileno(), False)
        r = self.ranks[rank] = Rank(rank, host, popen, errors)
        self.selector.register(popen.stdout, selectors.EVENT_READ, r)

    def pump(self, seconds):
        """Reads for at most so long, returns when something came."""
        for key, _ in self.selector.select(seconds):
            if not key.data.take():
                self.selector.unregister(key.fileobj)
                key.data.closed = True
        for r in self.ranks.values():
            r.poll()

    def until(self, done, seconds):
        """Pumps until done() or the time is over; whether it was done."""
        end = time.monotonic() + seconds
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.pump(min(left, 0.05))
        return True

    def signal(self, rank, number):
        r = self.ranks[rank]
        if not r.poll():   # polled and not yet reaped by anybody else: the pid is ours
            os.kill(r.pid, number)

    def over(self, r):
        return r.poll() and r.closed

    def stacks(self, rank):
        """Where its threads are, for the report of a hang."""
        r = self.ranks[rank]
        try:
            done = subprocess.run(["gdb", "-p", str(r.pid), "-batch", "-ex", "thread apply all bt 12"],
                                  capture_output=True, text=True, timeout=30, check=False)
            return done.stdout
        except (FileNotFoundError, subprocess.TimeoutExpired):
            pass
        found = []
        for task in sorted(Path(f"/proc/{r.pid}/task").glob("*")):
            try:
                found.append(f"{task.name} {(task / 'comm').read_text().strip()} {(task / 'wchan').read_text()}")
            except OSError:
                continue
        return "\n".join(found)

    def end(self):
        """Ends what still runs, by its id."""
        for rank, r in self.ranks.items():
            self.signal(rank, signal.SIGKILL)
            r.popen.stdin.close()
        for r in self.ranks.values():
            r.popen.wait()
            r.poll()
            while not r.closed and self.more(r) and r.take():
                pass
            r.popen.stdout.close()
        self.selector.close()

    @staticmethod
    def more(r):
        with selectors.DefaultSelector() as s:
            s.register(r.popen.stdout, selectors.EVENT_READ)
            return bool(s.select(0))
