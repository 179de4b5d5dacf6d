# SPDX-License-Identifier: MIT
"""Out of file descriptors: wherever it happens, the error says so, and no other rank hangs."""

import re
import resource

from harness import Programs, case, expect, expect_error

LIMITS = (6, 8, 10, 12, 14, 16, 18, 20, 24, 48)   # from too few for anything to enough for all
RANKS = 3


def sweep(new_job, transport, only):
    """Nothing but success or a clear error on all ranks, and somebody names the remedy."""
    jobs = {}
    for limit in LIMITS:
        job = jobs[limit] = new_job()
        for rank in range(RANKS):
            low = only is None or rank == only
            job.rank(rank, RANKS, RONDO_TRANSPORT=transport, RONDO_CONNECT_TIMEOUT="3s",
                     limits={resource.RLIMIT_NOFILE: limit} if low else None)
    seen = set()
    for limit, job in jobs.items():
        job.wait(30)
        codes = {p.code for p in job.processes}
        expect(codes in ({0}, {3}), f"limit {limit}: exit codes {[p.code for p in job.processes]}")
        seen |= codes
        if codes == {3}:
            # Some rank's error, not only its log: one may first learn that a peer has given up on it.
            named = any(re.search("failed at .*ulimit -n", p.text) for p in job.processes)
            expect(named, f"limit {limit}: nobody names \"ulimit -n\"")
            for p in job.processes:
                expect_error(p, "rank", within=20)
    expect(seen == {0, 3}, f"these limits make no difference: {seen}")


for _transport in ("shm", "tcp"):
    for _only in (None, 0, 2):
        def one(new_job, transport=_transport, only=_only):
            sweep(new_job, transport, only)
        one.__doc__ = f"{_transport}, low limits on {'all ranks' if _only is None else f'rank {_only} alone'}"
        case("descriptors")(one)


@case("descriptors")
def launcher(new_job):
    """rondo-run itself has too few"""
    job = new_job()
    run = job.start("run", [Programs.rondo_run, "-n", 8, Programs.rank], RONDO_KEY_FILE=None,
                    limits={resource.RLIMIT_NOFILE: 16})
    job.wait(20)
    expect(run.code != 0, "exit code 0")
    expect_error(run, "ulimit -n", code=run.code, within=10)
