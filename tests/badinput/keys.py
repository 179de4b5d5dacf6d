# SPDX-License-Identifier: MIT
"""The job's key: missing, bad, or another job's. No case may show a key (the harness looks)."""

import os

from harness import Programs, case, expect, expect_error, expect_ok


def one_bad(new_job, path_of, *patterns):
    job = new_job()
    path = path_of(job)
    job.ranks(2, RONDO_KEY_FILE=path)
    job.wait(10)
    for p in job.processes:
        expect_error(p, os.path.basename(path), *patterns, within=3)


@case("keys")
def no_file(new_job):
    """a key file that is not there"""
    one_bad(new_job, lambda job: job.folder + "/none", "key file", "does not exist")


@case("keys")
def short(new_job):
    """a key that is too short"""
    one_bad(new_job, lambda job: job.make_key("short", "0123456789"), "10 bytes", r"16\.\.4096")


@case("keys")
def empty(new_job):
    """an empty key file"""
    one_bad(new_job, lambda job: job.make_key("empty", ""), "0 bytes", r"16\.\.4096")


@case("keys")
def large(new_job):
    """a key file that is no key"""
    one_bad(new_job, lambda job: job.make_key("large", "k" * 10000), r"16\.\.4096")


@case("keys")
def readable(new_job):
    """a key file that others may read"""
    one_bad(new_job, lambda job: job.make_key("readable", mode=0o644), "mode 0644", "chmod 600")


@case("keys")
def directory(new_job):
    """a directory as key file"""
    one_bad(new_job, lambda job: job.folder, "not a regular file|Is a directory|directory")


@case("keys")
def descriptor_closed(new_job):
    """a wrapper that closes the launcher's descriptor"""
    job = new_job()
    job.run(2, "sh", "-c", 'eval "exec $RONDO_KEY_FD<&-"; exec "$0"', Programs.rank)
    job.wait(10)
    expect_error(job.processes[0], "RONDO_KEY_FD", "wrapper", code=3, within=8)


@case("keys")
def no_home(new_job):
    """no key and no home directory: an error on several hosts, a warning on one"""
    job = new_job()
    several = dict(RONDO_KEY_FILE=None, HOME=None, MASTER_ADDR="192.0.2.1", LOCAL_WORLD_SIZE=1, LOCAL_RANK=0)
    for rank in range(2):
        job.start(str(rank), [Programs.rank], **{**several, "RANK": rank, "WORLD_SIZE": 2})
    job.wait(10)
    for p in job.processes:
        expect_error(p, "no key", "several hosts", "RONDO_KEY_FILE", "auth=none", within=3)
    job = new_job()
    job.ranks(2, RONDO_KEY_FILE=None, HOME=None)
    job.wait(10)
    expect_ok(job.processes)
    expect("this job has no key" in job.processes[0].text, "rank 0 does not warn")


@case("keys")
def other_key(new_job):
    """one rank has another job's key: it is told so, the others name it and the refusals"""
    job = new_job()
    other = job.make_key("other")
    for rank in range(3):
        job.rank(rank, 3, RONDO_CONNECT_TIMEOUT="3s", RONDO_KEY_FILE=other if rank == 2 else job.key_file)
    job.wait(15)
    expect_error(job.processes[2], "rank 2", f"port {job.port}", "does not have this job's key", "file .*other",
                 within=3)
    for p in job.processes[:2]:
        expect_error(p, r"waiting for ranks 2 \(1 of 3\)", r"connections? (was|were) refused", "127.0.0.1",
                     "key", within=8)


@case("keys")
def rank0_other_key(new_job):
    """rank 0 has another key than the others"""
    job = new_job()
    other = job.make_key("other")
    for rank in range(3):
        job.rank(rank, 3, RONDO_CONNECT_TIMEOUT="3s", RONDO_KEY_FILE=other if rank == 0 else job.key_file)
    job.wait(15)
    for p in job.processes[1:]:
        expect_error(p, f"rank {p.name}", "does not have this job's key", "file .*key", within=3)
    expect_error(job.processes[0], r"waiting for ranks 1, 2 \(2 of 3\)", "2 connections were refused", within=8)


@case("keys")
def without_key(new_job):
    """one rank with auth=none among ranks with a key"""
    job = new_job()
    job.rank(0, 2, RONDO_CONNECT_TIMEOUT="3s")
    job.rank(1, 2, RONDO_CONNECT_TIMEOUT="3s", RONDO_AUTH="none")
    job.wait(15)
    expect_error(job.processes[1], "rank 1", "auth", within=3)
    expect_error(job.processes[0], "waiting for ranks 1", "refused", within=8)


@case("keys")
def two_jobs(new_job):
    """two jobs meet on one port while they start"""
    first, second = new_job(), new_job()
    second.port = first.port
    first.rank(0, 3, "--seconds", 1)
    second.rank(1, 3, RONDO_CONNECT_TIMEOUT="4s")
    first.rank(1, 3, "--seconds", 1)
    second.rank(2, 3, RONDO_CONNECT_TIMEOUT="4s")
    second.wait(10)
    for p in second.processes:
        expect_error(p, f"rank {p.name}", f"port {first.port}", "does not have this job's key", within=4)
    first.rank(2, 3, "--seconds", 1)
    first.wait(10)
    expect_ok(first.processes)
