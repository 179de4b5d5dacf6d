# SPDX-License-Identifier: MIT
"""Shared memory that is refused or small, locked memory that is short."""

import os
import resource
import subprocess

from harness import Programs, Skipped, case, expect, expect_error, expect_ok


def deny(new_job, what, ranks=2, *args, limit=20, **env):
    job = new_job()
    job.ranks(ranks, "--deny", what, *args, **env)
    job.wait(limit)
    if any(p.code == 77 for p in job.processes):
        raise Skipped("seccomp filters are not permitted here")
    return job


@case("memory")
def no_memfd(new_job):
    """memfd_create() is refused: files in /dev/shm serve"""
    job = deny(new_job, "memfd", 2, "--count", 200000, "--mem", RONDO_TRANSPORT="shm")
    expect_ok(job.processes)


@case("memory")
def no_shm_auto(new_job):
    """no shared memory at all: transport=auto goes on over TCP and says so"""
    job = deny(new_job, "shm", 3, "--count", 200000)
    expect_ok(job.processes)
    for p in job.processes:
        expect("transport shm is not used: " in p.text, f"{p.name} does not log that it does without shm")


@case("memory")
def no_shm_wanted(new_job):
    """no shared memory at all and transport=shm: an error with the remedy"""
    job = deny(new_job, "shm", 2, RONDO_TRANSPORT="shm")
    for p in job.processes:
        expect_error(p, r"memfd_create\(\) is refused", "/dev/shm", "RONDO_TRANSPORT=tcp|transport=tcp", within=5)


@case("memory")
def no_shm_on_one(new_job):
    """no shared memory on one rank of three: its edges go over TCP"""
    job = new_job()
    for rank in range(3):
        job.rank(rank, 3, *(("--deny", "shm") if rank == 1 else ()), "--count", 200000)
    job.wait(20)
    if job.processes[1].code == 77:
        raise Skipped("seccomp filters are not permitted here")
    expect_ok(job.processes)


@case("memory")
def no_mem_alloc(new_job):
    """rondo_mem_alloc() without shared memory gives ordinary memory"""
    job = deny(new_job, "shm", 2, "--mem", "--count", 200000)
    expect_ok(job.processes)


def small_shm(new_job, mib, ranks, *args, **env):
    """All ranks in one mount namespace with a /dev/shm of so many MiB."""
    probe = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL)
    if os.geteuid() != 0 or probe.returncode != 0:
        raise Skipped("mount namespaces are not permitted here")
    job = new_job()
    script = f'mount -t tmpfs -o size={mib}m rondo /dev/shm && exec "$@"'
    run = job.start("run", ["unshare", "-m", "sh", "-c", script, "sh", Programs.rondo_run, "-n", ranks,
                            Programs.rank, *args], RONDO_KEY_FILE=None, **env)
    job.wait(60)
    return run


@case("memory")
def small(new_job):
    """/dev/shm of 64 MiB: 8 ranks with 16 MiB each"""
    expect_ok([small_shm(new_job, 64, 8, "--count", 4 << 20, "--steps", 3, "--mem")], 8)


@case("memory")
def small_and_no_memfd(new_job):
    """/dev/shm of 64 MiB and no memfd: 8 ranks with 1 MiB each"""
    run = small_shm(new_job, 64, 8, "--deny", "memfd", "--count", 1 << 18, "--steps", 3, "--mem",
                    RONDO_TRANSPORT="shm")
    if run.code != 0:
        expect_error(run, "/dev/shm has only", "--shm-size|enlarge", code=3, within=30)


@case("memory")
def full(new_job):
    """/dev/shm of 1 MiB and no memfd: an error, or TCP, and never SIGBUS"""
    run = small_shm(new_job, 1, 4, "--deny", "memfd", "--count", 1 << 20, "--steps", 3, RONDO_TRANSPORT="shm")
    expect_error(run, "/dev/shm has only", "shm-size|enlarge", "RONDO_TRANSPORT=tcp", code=3, within=30)
    run = small_shm(new_job, 1, 4, "--deny", "memfd", "--count", 1 << 20, "--steps", 3)
    if run.code != 0:
        expect_error(run, "/dev/shm has only", "shm-size|enlarge", "RONDO_TRANSPORT=tcp", code=3, within=30)


@case("memory")
def memlock(new_job):
    """locked memory of 64 KiB: everything works"""
    for transport in ("shm", "tcp"):
        job = new_job()
        job.ranks(3, "--count", 1 << 20, "--mem", "--steps", 4, RONDO_TRANSPORT=transport,
                  limits={resource.RLIMIT_MEMLOCK: 64 << 10})
        job.wait(30)
        expect_ok(job.processes)


@case("memory")
def file_size(new_job):
    """a limit on file sizes of 64 KiB: an error, and never SIGXFSZ"""
    job = new_job()
    job.ranks(2, RONDO_TRANSPORT="shm", limits={resource.RLIMIT_FSIZE: 64 << 10})
    job.wait(30)
    for p in job.processes:
        expect_error(p, "file sizes", "ulimit -f", within=10)
