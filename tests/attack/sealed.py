# SPDX-License-Identifier: MIT
"""Option encrypt: what is heard between two ranks, what somebody there can do, and ranks that do not agree."""

import random
import re
import struct
import threading
import time

from harness import Programs, case, expect, expect_error
from wire import Middle, handshake_end, ranks_with_middle

ENCRYPT = {"RONDO_ENCRYPT": "yes"}
PREFIX, LENGTH = 24, 4   # transport/tcp/seal.h
NUMBERS = b"".join(struct.pack("<f", x) for x in range(4, 12))   # in what every rank sends
FRAME = re.compile(rb"\x52\x6e[\x01-\x04][\0-\x03]\0\0\0\0")     # see rdi_tcp_frame_write()


def damaged(job):
    """As ranks that ended well counted it."""
    return sum(int(n) for p in job.processes for n in re.findall(r"(\d+) damaged", p.text))


# ---- Listening ---------------------------------------------------------------------------------------

def heard(new_job, **env):
    """What was said on each connection behind its handshake, by the connector."""
    job = new_job()
    middle = Middle(job.port)
    ranks_with_middle(job, middle, "--seconds", 1.5, "--count", 3000, **env)
    job.wait(30)
    middle.close()
    expect(all(p.code == 0 for p in job.processes), f"exit codes {[p.code for p in job.processes]}")
    said = [b"".join(c.said)[handshake_end(c.said[0]):] for c in middle.data if handshake_end(c.said[0])]
    said = [s for s in said if len(s) > 200]
    # A link each way, and the watch's.
    expect(len(said) >= 3, f"{len(said)} connections were heard")
    return said


@case("sealed")
def tapped(new_job):
    """numbers and frames of data and watch are heard without encryption, and nothing of them with it"""
    clear = heard(new_job)
    expect(all(FRAME.search(s) for s in clear), "a connection without frames")
    expect(any(NUMBERS in s for s in clear), "no payload was heard without encryption")
    sealed = heard(new_job, **ENCRYPT)
    expect(not [s for s in sealed if FRAME.search(s)], "a frame was heard in spite of encryption")
    expect(not [s for s in sealed if NUMBERS in s], "payload was heard in spite of encryption")


# ---- Changing ----------------------------------------------------------------------------------------

def in_record(c, direction, data):
    """Where in the latest bytes of a direction there is one that belongs to a record's contents, not to a length; None:
    not known."""
    said = c.said[direction]
    if len(said) >= 1 << 20:   # no more is kept
        return None
    end = handshake_end(said)
    first = len(said) - len(data)
    if end is None or first < end + PREFIX:
        return None
    at, last = end + PREFIX, len(said) - 1
    while at + LENGTH <= len(said):
        inside = max(at + LENGTH, first)
        at += LENGTH + int.from_bytes(said[at:at + LENGTH], "little")
        if inside <= last and inside < at:
            return inside - first
    return None


class Spoiler:
    """Spoils some of what passes, `pause` seconds apart, until `limit` times."""

    def __init__(self, spoil, limit, pause):
        self.spoil, self.limit, self.pause = spoil, limit, pause
        self.done, self.again, self.lock = 0, 0.0, threading.Lock()

    def __call__(self, c, direction, data):
        with self.lock:
            if self.done >= self.limit or time.monotonic() < self.again:
                return data
            changed = self.spoil(c, direction, data)
            if changed is not data:
                self.done += 1
                self.again = time.monotonic() + self.pause
            return changed


def flip_inside(c, direction, data):
    at = in_record(c, direction, data)
    if at is None:
        return data
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1:]


@case("sealed")
def changed(new_job):
    """bits that are changed in a running job: each costs a connection, and the results stay right"""
    job = new_job()
    spoiler = Spoiler(flip_inside, 6, 0.2)
    middle = Middle(job.port, spoiler)
    ranks_with_middle(job, middle, "--seconds", 4, "--count", 100000, **ENCRYPT)
    job.wait(30)
    middle.close()
    expect(all(p.code == 0 for p in job.processes), f"exit codes {[p.code for p in job.processes]}")
    expect(spoiler.done == 6, f"{spoiler.done} bits were changed")
    expect(1 <= damaged(job) <= 6, f"{damaged(job)} of 6 were counted")
    expect(any("was changed on the way" in p.text for p in job.processes), "no rank's log tells")


def spoil_anything(c, direction, data):
    end = handshake_end(c.said[direction])
    if end is None or len(c.said[direction]) - len(data) < end:
        return data
    at = random.randrange(len(data))
    some = data[at:at + random.randrange(1, 100)]
    how = random.randrange(5)
    if how == 0:
        return data[:at] + data[at + len(some):]
    if how == 1:
        return data[:at] + some + data[at:]
    if how == 2:
        return data[:at] + random.randbytes(len(some)) + data[at:]
    if how == 3:
        return data[at:] + data[:at] if at else data + data
    return c.said[direction][end:end + len(data)] if len(data) > 60 else data + data


@case("sealed")
def wild(new_job):
    """bytes dropped, repeated, put in, moved and replayed: right results, or an error in time"""
    for _ in range(3):
        job = new_job()
        spoiler = Spoiler(spoil_anything, 8, 0.1)
        middle = Middle(job.port, spoiler)
        ranks_with_middle(job, middle, "--seconds", 2, "--count", 100000, RONDO_OP_TIMEOUT="4s", RONDO_PATH_GRACE="4s",
                          **ENCRYPT)
        job.wait(30)
        middle.close()
        expect(spoiler.done > 0, "nothing was spoiled")
        # 3 is an error; a wrong result or a crash is another.
        expect(all(p.code in (0, 3) for p in job.processes), f"exit codes {[p.code for p in job.processes]}")
        expect(any("was changed on the way" in p.text or p.code == 3 for p in job.processes), "nobody noticed")


# ---- Disagreeing -------------------------------------------------------------------------------------

def both_named(p):
    expect_error(p, r"rank \d.* has encrypt=(yes.* has encrypt=no|no.* has encrypt=yes)", "RONDO_ENCRYPT")


@case("sealed")
def disagreed(new_job):
    """ranks with different values: all of them fail at once, and say which"""
    job = new_job()
    env = {"RONDO_TRANSPORT": "tcp", "RONDO_INTERFACE": "lo"}
    job.rank(0, 3, **env, **ENCRYPT)
    job.rank(1, 3, **env)
    job.rank(2, 3, **env, **ENCRYPT)
    job.wait(10)
    for p in job.processes:
        both_named(p)


class Liar(Middle):
    """Tells each rank at the store that the other one has its own value."""

    lies = 0

    def rewrite(self, connection, direction, data):
        def lie(m):
            self.lies += 1
            return m.group(1) + bytes([1 - m.group(2)[0]]) + m.group(3)
        return re.sub(rb"(RND4....)([\0\1])(\0\0\0)", lie, super().rewrite(connection, direction, data), flags=re.DOTALL)


@case("sealed")
def talked_out(new_job):
    """somebody at the store hides that ranks differ: their connections find out"""
    job = new_job()
    middle = Liar(job.port)
    job.rank(0, 2, RONDO_TRANSPORT="tcp", RONDO_INTERFACE="lo", RONDO_FAMILY="ipv4", **ENCRYPT)
    job.rank(1, 2, RONDO_TRANSPORT="tcp", RONDO_INTERFACE="lo", RONDO_FAMILY="ipv4", MASTER_PORT=middle.port)
    job.wait(15)
    middle.close()
    expect(middle.lies >= 2, f"{middle.lies} lies were told")
    for p in job.processes:
        both_named(p)


@case("sealed")
def no_key(new_job):
    """encryption without a key, and over RDMA: refused with the remedy"""
    job = new_job()
    for r in range(2):
        job.rank(r, 2, RONDO_AUTH="none", **ENCRYPT)
    job.wait(10)
    for p in job.processes:
        expect_error(p, "encrypt=yes needs a key", "auth=none", "key_file")
    job = new_job()
    run = job.run(2, Programs.rank, RONDO_TRANSPORT="verbs", **ENCRYPT)
    job.wait(10)
    expect("transport=verbs and encrypt=yes exclude each other" in run.text, "RDMA was not refused")
