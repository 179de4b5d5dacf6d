# SPDX-License-Identifier: MIT
"""Wrong options, wrong names of interfaces, wrong places of the rank."""

from harness import Programs, case, expect_error

# name, environment, rondo_config.options, what the error names
WRONG = (
    ("a transport that there is not", {"RONDO_TRANSPORT": "rdma"}, None,
     ("transport=rdma", "the environment, RONDO_TRANSPORT", r"auto\|shm\|tcp")),
    ("a size out of range", {"RONDO_CHUNK": "8M"}, None, ("chunk=8M", "RONDO_CHUNK", r"4K\.\.4M")),
    ("a time without sense", {}, "op_timeout=soon", ("op_timeout=soon", "the configuration's options", r"1ms\.\.168h")),
    ("an option that there is not", {}, "tranport=tcp", ("no option 'tranport'", "nearest is 'transport'")),
    ("an option without a value", {}, "slots", ("slots has no value", "slots=8")),
    ("an interface that there is not", {"RONDO_INTERFACE": "eth77"}, None,
     ("eth77", "interface", "there are: .*lo")),
    ("a subnet that there is not", {"RONDO_INTERFACE": "203.0.113.0/24", "RONDO_TRANSPORT": "tcp"}, None,
     ("203.0.113.0/24", "interface", "there are: .*lo")),
    ("a rank beyond the size", {"RANK": "7"}, None, ("RANK is 7", "WORLD_SIZE is 2", "below the size")),
    ("a size that is no number", {"WORLD_SIZE": "two"}, None, ("WORLD_SIZE is 'two'", "whole number from 1")),
    ("a port that is no number", {"MASTER_PORT": "http"}, None, ("MASTER_PORT is 'http'", "65535")),
    ("no host of rank 0", {"MASTER_ADDR": None, "LOCAL_RANK": None}, None, ("MASTER_ADDR", "rondo-run")),
)


def add(name, env, options, patterns):
    def on_every_rank(new_job):
        job = new_job()
        args = ("--options", options) if options else ()
        for rank in range(2):
            job.start(str(rank), [Programs.rank, *args],
                      **{"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, **env})
        job.wait(10)
        for p in job.processes:
            expect_error(p, *patterns, within=5)
    on_every_rank.__doc__ = name
    case("options")(on_every_rank)


for row in WRONG:
    add(*row)


@case("options")
def one_rank(new_job):
    """one rank of four with a wrong option: the others learn it at once"""
    job = new_job()
    for rank in range(4):
        job.rank(rank, 4, RONDO_SLOTS="1" if rank == 2 else None, RONDO_CONNECT_TIMEOUT="3s")
    job.wait(15)
    expect_error(job.processes[2], "slots=1", r"2\.\.64", within=5)
    for rank in (0, 1, 3):
        expect_error(job.processes[rank], r"rank 0 is waiting for ranks 2 \(1 of 4\)", "connect_timeout", within=10)


@case("options")
def different(new_job):
    """ranks without a common transport"""
    job = new_job()
    job.rank(0, 2, RONDO_TRANSPORT="shm")
    job.rank(1, 2, RONDO_TRANSPORT="tcp")
    job.wait(10)
    for p in job.processes:
        expect_error(p, "rank [01]", "transport", within=6)


@case("options")
def sizes(new_job):
    """ranks that were started with different world sizes"""
    job = new_job()
    job.rank(0, 2)
    job.rank(1, 3)
    job.wait(10)
    for p in job.processes:
        expect_error(p, "rank 1", "world size 3", "with 2", within=6)


@case("options")
def launcher(new_job):
    """rondo-run: a wrong option of the ranks, and its own"""
    job = new_job()
    ranks = job.run(3, Programs.rank, RONDO_ORDER="random")
    own = job.run(3, Programs.rank, options=("--grace", "soon"))
    none = job.run(2, "./no-such-program")
    job.wait(10)
    expect_error(ranks, "order=random", r"default\|strict", within=6, code=1 if ranks.code == 1 else 3)
    expect_error(own, "rondo-run: --grace=soon", "it can be", within=3, code=2)
    expect_error(none, "rondo-run: .*no-such-program", within=3, code=127)
