# SPDX-License-Identifier: MIT
"""train_gpt on two ranks with bad files and options: one line, an exit code, and no rank that hangs."""

import os

from harness import Programs, Skipped, case, expect, expect_error

SMALL = ("--layers", 1, "--heads", 1, "--dim", 16, "--context", 8, "--batch", 4, "--steps", 3)


def train(new_job, prepare, code, *patterns):
    """Both ranks by hand: nobody but themselves ends them."""
    job = new_job()
    text = os.path.join(job.folder, "text")
    with open(text, "w", encoding="ascii") as f:
        f.write("The quick brown fox jumps over the lazy dog.\n" * 400)
    args = [x.replace("TEXT", text) if isinstance(x, str) else x for x in prepare(job)]
    for rank in range(2):
        job.start(str(rank), [Programs.train_gpt, *SMALL, *args], RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank,
                  RONDO_CONNECT_TIMEOUT="5s")
    job.wait(20)
    said = 0
    for p in job.processes:
        expect(p.code == code, f"{p.name}: exit code {p.code} instead of {code}")
        expect(p.seconds < 15, f"{p.name}: it took {p.seconds:.1f} s")
        said += any(pattern in p.text for pattern in patterns[:1])
    expect(said, f"no rank says \"{patterns[0]}\"")
    for p in job.processes:
        if patterns[0] in p.text:
            expect_error(p, *patterns, code=code)


def write(job, name, content=""):
    path = os.path.join(job.folder, name)
    with open(path, "w", encoding="ascii") as f:
        f.write(content)
    return path


def folder_without_rights(job):
    path = os.path.join(job.folder, "locked")
    os.mkdir(path, 0o500)
    if os.access(path, os.W_OK):   # root may write everywhere, but not here
        path = "/proc/self"
    return os.path.join(path, "checkpoint")


TABLE = (
    ("a data file that is not there", lambda job: ("--data", "/nonexistent/text"), 1,
     ("/nonexistent/text", "No such file")),
    ("an empty data file", lambda job: ("--data", write(job, "empty")), 1, ("empty", "it is empty")),
    ("a directory as data file", lambda job: ("--data", job.folder), 1, ("not a file",)),
    ("a data file that is too short", lambda job: ("--data", write(job, "tiny", "word")), 1, ("too short",)),
    ("a checkpoint that cannot be written", lambda job: ("--data", "TEXT", "--checkpoint", folder_without_rights(job)),
     1, ("cannot write", "checkpoint")),
    ("a checkpoint that is none", lambda job: ("--data", "TEXT", "--resume", write(job, "broken", "hello")), 1,
     ("broken", "not a checkpoint")),
    ("a number out of range", lambda job: ("--layers", 0), 2, ("layers 0", "allowed is an integer from 1 to")),
    ("an option that there is not", lambda job: ("--nonsense",), 2, ("no such option", "nonsense")),
    ("a value that is missing", lambda job: ("--steps",), 2, ("steps",)),
    ("a batch smaller than the ranks", lambda job: ("--data", "TEXT", "--batch", 1), 2,
     ("batch 1 is less than one sequence for each of the 2 ranks",)),
)

for _name, _prepare, _code, _patterns in TABLE:
    def one(new_job, prepare=_prepare, code=_code, patterns=_patterns):
        if Programs.train_gpt is None:
            raise Skipped("train_gpt was not built")
        train(new_job, prepare, code, *patterns)
    one.__doc__ = _name
    case("example")(one)


@case("example")
def without_shared_memory(new_job):
    """no shared memory at all: it trains over TCP"""
    job = new_job()
    text = write(job, "text", "The quick brown fox jumps over the lazy dog.\n" * 400)
    for rank in range(2):
        job.start(str(rank), [Programs.rank, "--deny", "shm", Programs.train_gpt, *SMALL, "--data", text],
                  RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank)
    job.wait(20)
    for p in job.processes:
        expect(p.code == 0, f"{p.name}: exit code {p.code}")


@case("example")
def one_rank_alone(new_job):
    """a data file that only one rank lacks: the other does not hang"""
    job = new_job()
    text = write(job, "text", "The quick brown fox jumps over the lazy dog.\n" * 400)
    for rank in range(2):
        job.start(str(rank), [Programs.train_gpt, *SMALL, "--data", text if rank == 0 else "/nonexistent/text"],
                  RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, RONDO_CONNECT_TIMEOUT="3s")
    job.wait(20)
    expect_error(job.processes[1], "/nonexistent/text", "No such file", code=1)
    expect_error(job.processes[0], "waiting for ranks 1", code=1)
