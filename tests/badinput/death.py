# SPDX-License-Identifier: MIT
"""Ranks that end without a word: all others return RONDO_ERR_PEER that names them, soon."""

import os
import re
import signal
import time

from harness import Programs, case, expect, expect_error, patience

SOON = 2


def expect_named(processes, rank, since):
    for p in processes:
        line = expect_error(p, "RONDO_ERR_PEER", rf"rank {rank}\b")
        at = float(re.search(r"failed at ([0-9.]+) with", line)[1])
        expect(at - since <= SOON * patience(), f"{p.name} noticed after {at - since:.2f} s")


def kill(new_job, transport, victim, count):
    job = new_job()
    ranks = job.ranks(4, "--seconds", 60, "--count", count, RONDO_TRANSPORT=transport)
    job.until("ready")
    time.sleep(0.3)   # into the loop
    since = time.monotonic()
    os.kill(ranks[victim].pid, signal.SIGKILL)
    job.wait(10)
    expect(ranks[victim].code == -signal.SIGKILL, "the victim ended otherwise")
    expect_named([p for p in ranks if p is not ranks[victim]], victim, since)


for _transport in ("shm", "tcp"):
    for _victim, _count in ((0, 1000), (2, 1 << 20)):
        def one(new_job, transport=_transport, victim=_victim, count=_count):
            kill(new_job, transport, victim, count)
        one.__doc__ = f"{_transport}: rank {_victim} of 4 is killed in a loop of {4 * _count} bytes"
        case("death")(one)


def leave(new_job, transport):
    job = new_job()
    ranks = job.ranks(3, "--seconds", 60, "--quit", 1, RONDO_TRANSPORT=transport)
    job.wait(20, [ranks[1]])
    since = ranks[1].ended
    job.wait(10)
    expect(ranks[1].code == 0, f"1: exit code {ranks[1].code}")
    expect_named([ranks[0], ranks[2]], 1, since)


for _transport in ("shm", "tcp"):
    def quits(new_job, transport=_transport):
        leave(new_job, transport)
    quits.__doc__ = f"{_transport}: a rank exits without destroying its communicator"
    case("death")(quits)


@case("death")
def while_meeting(new_job):
    """a rank is killed while the ranks meet"""
    job = new_job()
    for rank in (0, 1):
        job.rank(rank, 3, RONDO_CONNECT_TIMEOUT="10s")
    job.until("store at")
    time.sleep(0.5)
    os.kill(job.processes[1].pid, signal.SIGKILL)
    job.rank(2, 3, RONDO_CONNECT_TIMEOUT="10s")
    job.wait(20)
    for p in (job.processes[0], job.processes[2]):
        expect_error(p, "rank 1", "left while the ranks were meeting|waiting for ranks 1|RONDO_ERR_PEER", within=15)


@case("death")
def under_launcher(new_job):
    """rondo-run ends the others and names the rank"""
    job = new_job()
    run = job.run(3, "sh", "-c", '[ "$RANK" = 1 ] && (sleep 0.5; kill -9 $$) & exec "$0" --seconds 60', Programs.rank)
    job.wait(15)
    expect_error(run, "rondo-run: ", "rank 1", "signal 9|SIGKILL|Killed", code=137, within=10)
