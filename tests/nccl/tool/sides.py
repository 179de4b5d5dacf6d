# SPDX-License-Identifier: MIT
"""Starts the sides: Rondo under rondo-run, an MPI under its launcher, NCCL as one process a rank. Every job has a
deadline, and ends with all that it started."""

import contextlib
import ctypes
import os
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PROGRAMS = HERE.parent / "programs"
# Settings of the user's own, or of a job that this runs in, would change what is compared.
NOT_INHERITED = "OMPI_ PMIX_ PRTE_ MPIR_ MPICH_ HYDRA_ PMI_ RANK WORLD_SIZE LOCAL_ MASTER_ NCCL_"


class Skip(Exception):
    """What is asked for cannot be had here; the text says why."""


class Failed(Exception):
    """A side did not come to its end."""


# ---- Processes -----------------------------------------------------------------------------------


def _environment(extra):
    prefixes = tuple(NOT_INHERITED.split())
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    if os.geteuid() == 0:  # Open MPI refuses root unless told twice
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return {**env, **extra}


def _members(session):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def _end(process):
    """The launcher first, so that it can end its ranks, then what is left of the session."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        for pid in [process.pid] if sig == signal.SIGTERM else _members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        until = time.monotonic() + 3
        while time.monotonic() < until and (process.poll() is None or _members(process.pid)):
            time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


@dataclass
class Process:
    argv: list
    env: dict = field(default_factory=dict)


def run_all(processes, log, seconds, tick=None):
    """Runs processes side by side to their end. Raises Failed when one fails or the time is over; the end of
    what they printed is in the text."""
    begin, started = time.monotonic(), []
    with open(log, "w", encoding="utf-8") as out:
        for p in processes:
            out.write(f"$ {' '.join(map(str, p.argv))}\n")
        out.flush()
        try:
            for p in processes:
                started.append(
                    subprocess.Popen(
                        list(map(str, p.argv)),
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        env=_environment(p.env),
                        start_new_session=True,
                    )
                )
            problem = _wait(started, begin, seconds, tick)
        finally:
            for process in started:
                if process.poll() is None or _members(process.pid):
                    _end(process)
    if problem:
        tail = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        raise Failed("\n    ".join([problem, *tail]))


def _wait(started, begin, seconds, tick):
    while True:
        codes = [p.poll() for p in started]
        bad = [c for c in codes if c]
        if bad:
            return f"exit code {bad[0]}"
        if None not in codes:
            return None
        if time.monotonic() - begin > seconds:
            return f"not finished after {seconds} s"
        if tick:
            tick(time.monotonic() - begin)
        time.sleep(0.05)


# ---- What is there -------------------------------------------------------------------------------


def gpus():
    """The number of CUDA devices; Skip when there is none."""
    name = os.environ.get("RONDO_CUDA_DRIVER", "libcuda.so.1")
    try:
        driver = ctypes.CDLL(name)
    except OSError as e:
        raise Skip(f"no CUDA driver: {e}") from e
    count = ctypes.c_int(0)
    code = driver.cuInit(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code or count.value < 1:
        raise Skip(f"no CUDA device (the driver {name} answers {code})")
    return count.value


def nccl_library():
    """The file of NCCL: $NCCL_LIB, the loader's path, PyTorch's wheels, the CUDA toolkit's folder."""
    named = os.environ.get("NCCL_LIB")
    if named:
        if not Path(named).is_file():
            raise Skip(f"NCCL_LIB={named}: there is no such file")
        return named
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f]
    packages = [sysconfig.get_path("purelib"), *site.getsitepackages(), *sys.path]
    folders += [str(Path(p) / "nvidia" / "nccl" / "lib") for p in packages if p]
    folders += ["/usr/local/cuda/lib64", "/usr/local/cuda/lib"]
    for folder in folders:
        if (Path(folder) / "libnccl.so.2").is_file():
            return str(Path(folder) / "libnccl.so.2")
    try:
        ctypes.CDLL("libnccl.so.2")
    except OSError as e:
        raise Skip(f"no libnccl.so.2 (set NCCL_LIB to its path): {e}") from e
    return "libnccl.so.2"


MPIS = {"openmpi": "mpirun.openmpi", "mpich": "mpiexec.mpich"}


def build_mpi(name, build, work):
    """MPI's side, compiled with the wrapper of that MPI."""
    if not shutil.which(f"mpicc.{name}") or not shutil.which(MPIS[name]):
        packages = f"{name}-bin lib{name}-dev" if name == "openmpi" else f"{name} lib{name}-dev"
        raise Skip(f"{name} is not installed: apt-get install {packages}")
    program = work / f"side_{name}"
    sources = [PROGRAMS / f"{s}.c" for s in ("mpi", "side", "data", "cases", "number")]
    argv = [f"mpicc.{name}", "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-D_GNU_SOURCE"]
    argv += [f"-I{ROOT}", f"-I{build}/include", *sources, "-o", program]
    run_all([Process(argv)], work / "build_mpi.log", 120)
    return program


# ---- The sides -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    build: Path
    work: Path
    plan: Path
    ranks: int
    seconds: int
    device: str = ""  # "" host memory, a number, or "rank"

    def arguments(self, side):
        argv = ["--plan", self.plan, "--out", self.work / f"{side}{self.ranks}"]
        argv += ["--deadline", self.seconds]
        return argv + (["--device", self.device] if self.device else [])


def rondo(job, tick=None):
    program = job.build / "tests" / "bin" / "nccl_side_rondo"
    argv = [job.build / "rondo-run", "-n", job.ranks, "--timeout", job.seconds]
    argv += ["--", program, *job.arguments("rondo")]
    run_all([Process(argv)], job.work / f"rondo{job.ranks}.log", job.seconds + 5, tick)


def with_mpi(job, name, program, tick=None):
    argv = [MPIS[name], "-n", job.ranks]
    if name == "openmpi":
        argv += "--oversubscribe --bind-to none --mca mpi_yield_when_idle 1".split()
        argv += "--mca pml ob1 --mca btl self,vader --mca btl_vader_single_copy_mechanism none".split()
    argv += [program, *job.arguments("mpi")]
    run_all([Process(argv)], job.work / f"mpi{job.ranks}.log", job.seconds + 5, tick)


# Ranks that share a device must seem to be on hosts of their own, or NCCL refuses them; then its network
# transport is the only one that is left.
SHARED = {
    "NCCL_SOCKET_FAMILY": "AF_INET",
    "NCCL_NET": "Socket",
    "NCCL_IB_DISABLE": "1",
    "NCCL_P2P_DISABLE": "1",
    "NCCL_SHM_DISABLE": "1",
    "NCCL_MNNVL_ENABLE": "0",
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_MAX_NCHANNELS": "2",
}


def nccl(job, library, tick=None):
    program = job.build / "tests" / "bin" / "nccl_side_nccl"
    ident = job.work / f"nccl{job.ranks}.id"
    ident.unlink(missing_ok=True)
    processes = []
    for rank in range(job.ranks):
        argv = [program, *job.arguments("nccl"), "--library", library, "--id", ident]
        argv += ["--rank", rank, "--ranks", job.ranks]
        env = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_RAS_ENABLE": "0", "NCCL_DEBUG": "WARN"}
        if job.device != "rank":
            env |= SHARED | {"NCCL_HOSTID": f"rondo-rank{rank}"}
        processes.append(Process(argv, env))
    run_all(processes, job.work / f"nccl{job.ranks}.log", job.seconds + 5, tick)


def compare(job, sides):
    """The comparison's report; its verdict is in the report too."""
    report = job.work / f"report{job.ranks}.json"
    report.unlink(missing_ok=True)
    argv = [job.build / "tests" / "bin" / "nccl_compare", "--plan", job.plan]
    for side in sides:
        argv += [f"--{side}", job.work / f"{side}{job.ranks}"]
    try:
        run_all([Process([*argv, "--out", report])], job.work / "compare.log", job.seconds + 5)
    except Failed:
        if not report.exists():
            raise
    return report
