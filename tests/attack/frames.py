# SPDX-License-Identifier: MIT
"""Frames that somebody between two ranks changes: each ends the job with an error that tells, or changes nothing."""

import re
import threading

from harness import case, expect, expect_error
from wire import Middle, handshake_end, ranks_with_middle

MAGIC, DATA, ACK, CTRL = b"\x52\x6e", 1, 2, 3


class Changer:
    """Changes the first frame of that type, from the n-th step on, of a connection that has passed its handshake."""

    def __init__(self, kind, change, skip=40):
        self.kind, self.change, self.skip = kind, change, skip
        self.done, self.lock = False, threading.Lock()

    def __call__(self, c, _direction, data):
        with self.lock:
            if self.done or not handshake_end(c.said[0]) or data[:3] != MAGIC + bytes([self.kind]):
                return data
            self.skip -= 1
            if self.skip > 0:
                return data
            self.done = True
            return self.change(data)


def put(at, value, n):
    return lambda data: data[:at] + value.to_bytes(n, "little") + data[at + n:]


def spoiled(new_job, change, kind=DATA, patterns=("broke the protocol",)):
    job = new_job()
    changer = Changer(kind, change)
    middle = Middle(job.port, changer)
    ranks_with_middle(job, middle, "--seconds", 30)
    job.wait(20)
    middle.close()
    expect(changer.done, "no frame was changed")
    expect(all(p.code == 3 for p in job.processes), f"exit codes {[p.code for p in job.processes]}")
    expect(any(all(re.search(x, line) for x in patterns) for p in job.processes for line in p.text.splitlines()
               if " failed at " in line), f"no rank's error says all of {patterns}")


@case("frames")
def too_long(new_job):
    """a length beyond what was agreed"""
    spoiled(new_job, put(16, 0xfffffff0, 4), patterns=("broke the protocol", "longer than agreed"))


@case("frames")
def other_epoch(new_job):
    """an epoch of the future"""
    spoiled(new_job, put(4, 5, 4), patterns=("broke the protocol", "another epoch"))


@case("frames")
def out_of_order(new_job):
    """a number that is not the next"""
    spoiled(new_job, put(8, 1 << 40, 8), patterns=("broke the protocol", "out of order"))


@case("frames")
def acknowledged_unsent(new_job):
    """an acknowledgement of what was not sent"""
    spoiled(new_job, put(8, 1 << 40, 8), kind=ACK, patterns=("broke the protocol", "not sent"))


@case("frames")
def other_tag(new_job):
    """a tag that no operation has"""
    spoiled(new_job, put(24, 0xfedcba9876543210, 8), patterns=("rank",))


@case("frames")
def cut_short(new_job):
    """a frame's end is missing, and other bytes follow"""
    spoiled(new_job, lambda data: data[:20] + b"\xff" * 40 + data[20:])


@case("frames")
def repeated(new_job):
    """a frame that comes twice"""
    spoiled(new_job, lambda data: data + data)
