# SPDX-License-Identifier: MIT
"""Builds the drivers, each with its peer's own compiler, into a folder of the tool's; nothing of it
is part of Rondo's own build. What a peer lacks is said together with the package that brings it."""

import os
import shutil
import subprocess
from pathlib import Path

from . import plan

DRIVERS = Path(__file__).resolve().parent.parent / "drivers"
ROOT = DRIVERS.parents[2]
CFLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O3", "-g", "-Wall", "-Wextra"]


class Missing(Exception):
    """A peer that cannot be measured; the text says why and what to do."""


def _run(argv, log, cwd=None):
    log.write(f"$ {' '.join(map(str, argv))}\n")
    log.flush()
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, timeout=1200
    )
    if done.returncode:
        raise Missing(f"its driver does not build: see {Path(log.name).name}")


def _make(output, argv, log):
    """Runs a compiler unless `output` is newer than all sources and came from the same command."""
    stamp = output.with_name(output.name + ".cmd")
    command = " ".join(map(str, argv))
    try:
        made = output.stat().st_mtime
        fresh = stamp.read_text(encoding="utf-8") == command
        fresh = fresh and all(f.stat().st_mtime < made for f in DRIVERS.iterdir())
    except OSError:
        fresh = False
    if not fresh:
        stamp.unlink(missing_ok=True)
        _run([*argv, "-o", output], log)
        stamp.write_text(command, encoding="utf-8")
    return output


def _compile(folder, log, name, sources, compiler=("gcc",), flags=(), libraries=()):
    argv = [*compiler, *CFLAGS, *flags, *(DRIVERS / s for s in sources), *libraries]
    return str(_make(folder / name, argv, log))


def _need(peer, *commands):
    for command in commands:
        if not shutil.which(command):
            packages = " ".join(plan.PACKAGES[peer])
            raise Missing(f"{command} is not installed: apt-get install {packages} (or --install)")


def _mpi(peer, folder, log):
    compiler = f"mpicc.{peer}"
    _need(peer, compiler, "mpirun.openmpi" if peer == "openmpi" else "mpiexec.mpich")
    return _compile(folder, log, peer, ["mpi.c", "loop.c"], [compiler])


def _gloo(folder, log):
    _need("gloo", "g++")
    if not Path("/usr/include/gloo/allreduce.h").exists():
        raise Missing("libgloo is not installed: apt-get install libgloo-dev (or --install)")
    objects = [
        _make(folder / f"{name}.o", ["gcc", *CFLAGS, "-c", DRIVERS / f"{name}.c"], log)
        for name in ("loop", "ranks")
    ]
    argv = ["g++", "-std=c++17", "-O3", "-g", "-Wall", DRIVERS / "gloo.cc", *objects]
    return str(_make(folder / "gloo", [*argv, "-lgloo", "-pthread"], log))


def _rondo(folder, log, build):
    if build is None:
        if not shutil.which("cmake"):
            raise Missing("cmake is not installed: ./quickstart build brings what Rondo needs")
        build = ROOT / "build" / "release"
        try:
            _run(["cmake", "--preset", "release"], log, ROOT)
            _run(["cmake", "--build", "--preset", "release", "--target", "rondo"], log, ROOT)
        except Missing as e:
            raise Missing(f"the library does not build: see {Path(log.name).name}") from e
    build = Path(build).resolve()
    if not (build / "librondo.so").exists():
        raise Missing(f"no librondo.so in {build}: give --rondo the folder that CMake built into")
    return _compile(
        folder,
        log,
        "rondo",
        ["rondo.c", "loop.c", "ranks.c"],
        flags=[f"-I{build}/include"],
        libraries=[f"-L{build}", "-lrondo", f"-Wl,-rpath,{build}"],
    )


def build_type(build):
    """How the measured library was compiled, from CMake's cache; '' when there is none."""
    cache = Path(build or ROOT / "build" / "release") / "CMakeCache.txt"
    try:
        lines = cache.read_text().splitlines()
    except OSError:
        return ""
    return next(
        (line.split("=", 1)[1] for line in lines if line.startswith("CMAKE_BUILD_TYPE:")), ""
    )


def install(peers):
    """Installs the packages of `peers` that are missing."""
    wanted = []
    for peer in peers:
        for package in plan.PACKAGES.get(peer, ()):
            asked = subprocess.run(
                ["dpkg-query", "-W", "-f", "${db:Status-Status}", package],
                capture_output=True,
                text=True,
                check=False,
            )
            if asked.stdout != "installed":
                wanted.append(package)
    if not wanted:
        return
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    print(f"installing {' '.join(wanted)}", flush=True)
    subprocess.run(
        [*prefix, *environment, "apt-get", "update", "-q"],
        check=False,
        timeout=600,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run(
        [
            *prefix,
            *environment,
            "apt-get",
            "install",
            "-y",
            "-q",
            "--no-install-recommends",
            *wanted,
        ],
        check=True,
        timeout=1800,
        stdout=subprocess.DEVNULL,
    )


def build(peers, folder, rondo_build=None):
    """Returns ({peer: program}, {peer: why it is left out}); "limit" and "limits" are always
    built."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    programs, left_out = {}, {}
    with open(folder / "build.log", "w", encoding="utf-8") as log:
        for peer in peers:
            try:
                if peer == "rondo":
                    programs[peer] = _rondo(folder, log, rondo_build)
                elif peer == "gloo":
                    programs[peer] = _gloo(folder, log)
                else:
                    programs[peer] = _mpi(peer, folder, log)
            except Missing as e:
                left_out[peer] = str(e)
        programs["limit"] = _compile(
            folder, log, "exchange", ["exchange.c", "loop.c", "ranks.c", "sockets.c"]
        )
        programs["limits"] = _compile(
            folder,
            log,
            "limits",
            ["limits.c", "limits_memory.c", "limits_wire.c", "loop.c", "ranks.c", "sockets.c"],
            libraries=["-pthread"],
        )
    return programs, left_out
