# SPDX-License-Identifier: MIT
"""Runs drivers, one job at a time and every job bounded, and turns what they write into rows."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 2 << 20
# Settings of the user's own would change what "as shipped" means.
NOT_INHERITED = (
    "OMPI_",
    "PMIX_",
    "PRTE_",
    "MPIR_",
    "MPICH_",
    "HYDRA_",
    "UCX_",
    "RONDO_",
    "GLIBC_TUNABLES",
    "PMI_",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_",
)


@dataclass(frozen=True)
class Row:
    """One value of one job. what: us, chained_us, wrong (a number) or error (a text)."""

    round: int
    wire: str
    ranks: int
    cls: str
    peer: str
    config: str
    bytes: int
    what: str
    value: str

    FIELDS = ("round", "wire", "ranks", "cls", "peer", "config", "bytes", "what", "value")

    def cells(self):
        return [str(getattr(self, f)) for f in self.FIELDS]


def _environment(extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
    if os.geteuid() == 0:  # Open MPI refuses root unless told twice
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    env.update(extra)
    return env


def _members(session):
    """Processes of a session, which is where everything that a job starts stays."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def _end(process):
    """Ends a job that took too long: its launcher first, so that it can end its ranks, then what is
    left."""
    for sig, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        for pid in [process.pid] if sig == signal.SIGTERM else _members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        until = time.monotonic() + patience
        while time.monotonic() < until and (process.poll() is None or _members(process.pid)):
            time.sleep(0.05)
    process.wait(timeout=10)


def bounded(argv, log, seconds, env=None, output=None):
    """Exit code of a command, or None when it had to be ended after `seconds`."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output or log,
        stderr=log,
        env=_environment(env or {}),
        start_new_session=True,
    )
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if process.poll() is None or _members(process.pid):
            _end(process)
    return code


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Runner:
    """Holds the folders of a measurement; use as a context."""

    def __init__(self, log_path, scale, budget):
        self.scale, self.budget = scale, budget
        self.log = open(log_path, "w", encoding="utf-8")
        self.folder = Path(tempfile.mkdtemp(prefix="rondo-peers-"))
        # On a disk the kernel would write the page back, and stop its writers meanwhile.
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(self.folder)
        handle, name = tempfile.mkstemp(prefix="rondo-peers-", dir=shm)
        os.close(handle)
        self.page = Path(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.log.close()

    def run(self, config, ranks, wire, sizes, round_):
        """Rows of one job: a configuration on some sizes."""
        seconds = int(12 + 6 * self.budget * len(sizes)) + ranks * (max(sizes) >> 25)
        out, store = self.folder / "out", self.folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
        out.unlink(missing_ok=True)
        with open(self.page, "wb") as page:
            page.truncate(0)
            page.truncate(PAGE_BYTES)
        fill = {"{port}": str(_free_port()), "{folder}": str(store)}
        argv = [fill.get(a, a) for a in config.argv]
        argv += [
            "--page",
            str(self.page),
            "--out",
            str(out),
            "--sizes",
            ",".join(map(str, sizes)),
            "--scale",
            str(self.scale),
            "--budget",
            str(self.budget),
            "--deadline",
            str(seconds),
        ]
        self.log.write(
            f"\n[{wire} {ranks} ranks, round {round_}] {config.peer} {config.name}\n"
            f"$ {' '.join(argv)}\n"
        )
        self.log.flush()
        begin = time.monotonic()
        code = bounded(argv, self.log, seconds + 5, {**config.env, "TMPDIR": str(self.folder)})
        took = time.monotonic() - begin
        self.log.write(f"exit code {code} after {took:.1f} s\n")
        # Launchers report the signal of a rank's deadline in ways of their own; the clock does not.
        text = (
            f"timed out after {seconds} s"
            if code is None or took >= seconds
            else f"failed (exit code {code})"
        )
        return self._rows(config, ranks, wire, sizes, round_, out, text)

    @staticmethod
    def _rows(config, ranks, wire, sizes, round_, out, problem):
        def row(size, what, value):
            return Row(round_, wire, ranks, config.cls, config.peer, config.name, size, what, value)

        rows, complete = [], set()
        for line in out.read_text().splitlines() if out.exists() else []:
            what, size, value = line.split(",")
            rows.append(row(int(size), what, value))
            if what == "wrong":
                complete.add(int(size))
        # A size is done when its last line is there: how the job ended after that (an MPI that
        # hangs in MPI_Finalize) is for the log.
        rows = [r for r in rows if r.bytes in complete]
        return rows + [row(s, "error", problem) for s in sizes if s not in complete]

    def limits(self, program, repeats):
        """Rows (name, parameter, processes, best, median, unit) of the machine's own limits."""
        out = self.folder / "limits"
        with open(out, "w", encoding="utf-8") as f:
            bounded(
                [program, "--repeats", str(repeats), "--deadline", "120"], self.log, 125, output=f
            )
        return [line.split(",") for line in out.read_text().splitlines() if line.count(",") == 5]
