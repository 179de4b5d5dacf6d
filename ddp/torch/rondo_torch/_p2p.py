# SPDX-License-Identifier: MIT
"""Sends and receives with tags.

Rondo matches the k-th send with the k-th recv of two ranks. c10d lets receives come in any order of tags, and from any
rank. So each tensor is preceded by a header (tag, bytes), and a receiver probes, takes the header, and only then decides
where the data goes: to a receive that waits for this tag, or aside until one comes.

One thread at a time takes what a rank sends (`driving`): the one in wait(), or the lane's thread. It serves all receives that
wait for that rank.
"""
from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from ctypes import byref, c_int, c_void_p
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

import torch
from torch import Tensor

from ._lib import AGAIN, ERR_TIMEOUT, RondoError, check
from ._types import U8
from ._work import Work

I64 = 8
ANY = -1
_SLICE_MS = 100  # how soon a thread that waits for a rank notices that it need not any more
Header = ctypes.c_int64 * 2


class Receive(Work):
    """A receive of `x`, contiguous host memory; `after` copies to the user's tensor if that is another one."""

    def __init__(self, mail: Mail, x: Tensor, result: List[Tensor], source: int, tag: int, ms: int) -> None:
        super().__init__(mail.comm, "recv", result)
        self.mail, self.x, self.source, self.tag = mail, x, source, tag
        self.ms = ms
        self.deadline = time.monotonic() + ms / 1000
        self.arrived = False
        self.lane = ("from", source)
        self.failure: Optional[Exception] = None
        self.after: Optional[Callable[[], None]] = None

    def _advance(self, block: bool) -> bool:
        if not self.arrived:
            self.mail.drive(self, self.source, block)
        if not self.arrived:
            return False
        if self.failure is not None:
            raise self.failure
        if self.after is not None:
            with torch.no_grad():
                self.after()
        return True

    def source_rank(self) -> int:
        return self.source


class Mail:
    """The sends and receives of one communicator."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self._changed = threading.Condition()  # guards all below
        self._waiting: List[Receive] = []
        self._aside: Dict[Tuple[int, int], Deque[Tensor]] = {}
        self._driving: Set[int] = set()
        self._closing = False
        comm.on_close(self.close)

    # ---- Sending ----

    def send(self, x: Tensor, result: List[Tensor], to: int, tag: int) -> Work:
        size = x.numel() * x.element_size()
        header = Header(tag, size)
        calls: List[Tuple[Any, ...]] = [("send", ctypes.addressof(header), 2, I64, to)]
        if size:
            calls.append(("send", x.data_ptr(), size, U8, to))
        # A lane of its own: a rank that receives late must not delay the completion of anything else.
        work = self.comm.start("send", calls, result, None, (x, header), lane=("to", to), background=False)
        if not work.settle(block=False):
            self.comm.enqueue(work)
        return work

    # ---- Receiving ----

    def receive(self, x: Tensor, result: List[Tensor], source: int, tag: int, after: Any = None) -> Work:
        """source: a rank, or ANY."""
        self.comm.ensure_open()
        work = Receive(self, x, result, source, tag, self.comm.timeout_ms)
        work.after = after
        self.comm.adopt(work)
        with self._changed:
            found = self._take_aside(work)
            if not found:
                self._waiting.append(work)
        if found:
            work.settle()
        elif source == ANY:
            for rank in range(self.comm.size):
                if rank != self.comm.rank:
                    self.comm.later(("from", rank), lambda rank=rank: self._watch(work, rank))
        elif not work.settle(block=False):
            self.comm.enqueue(work)
        return work

    def _take_aside(self, work: Receive) -> bool:
        for (source, tag), data in self._aside.items():
            if data and tag == work.tag and work.source in (ANY, source):
                self._deliver(work, source, data.popleft())
                return True
        return False

    def _deliver(self, work: Receive, source: int, data: Tensor) -> None:
        """Data that was put aside, to the receive that asked for it."""
        work.source = source
        to = work.x.view(-1).view(torch.uint8) if work.x.numel() else work.x.new_empty(0, dtype=torch.uint8)
        if data.numel() == to.numel():
            to.copy_(data)
        else:
            work.failure = self._misfit(work, source, data.numel(), to.numel())
        work.arrived = True

    def _misfit(self, work: Receive, source: int, sent: int, room: int) -> RondoError:
        return RondoError(
            f"rank {source} sent {sent} bytes with tag {work.tag} to rank {self.comm.rank}, whose tensor takes {room} bytes: "
            "send and recv need tensors of the same size and type"
        )

    def _watch(self, work: Receive, rank: int) -> None:
        """The part of rank's lane in a receive from any rank."""
        try:
            self._drive_rank(work, rank, block=True)
        except Exception as err:
            with self._changed:
                if not work.arrived and work in self._waiting:
                    self._waiting.remove(work)
                    work.failure, work.arrived = err, True
                self._changed.notify_all()
        work.settle(block=False)

    def drive(self, work: Receive, source: int, block: bool) -> None:
        """Until `work` has arrived, or once without waiting."""
        try:
            if source != ANY:
                self._drive_rank(work, source, block)
            elif block:
                with self._changed:
                    self._changed.wait_for(lambda: work.arrived)
        except Exception:
            with self._changed:
                if work in self._waiting:
                    self._waiting.remove(work)
            raise

    def _drive_rank(self, work: Receive, rank: int, block: bool) -> None:
        with self._changed:
            while rank in self._driving and not work.arrived:
                if not block:
                    return
                self._changed.wait()
            if work.arrived:
                return
            self._driving.add(rank)
        try:
            while not work.arrived and (self._take_one(work, rank, block) or block):
                pass
        finally:
            with self._changed:
                self._driving.discard(rank)
                self._changed.notify_all()

    def _take_one(self, work: Receive, rank: int, block: bool) -> bool:
        """Takes the next tensor that rank sends, for whoever waits for it; false if none came. `rank` is being driven."""
        left = int((work.deadline - time.monotonic()) * 1000)
        if self._closing:
            raise RondoError("the process group was destroyed while a receive was under way")
        if left <= 0:
            raise RondoError(
                f"Timed out waiting {work.ms}ms for recv operation to complete: rank {self.comm.rank} got nothing with tag "
                f"{work.tag} from {'any rank' if work.source == ANY else f'rank {work.source}'}",
                ERR_TIMEOUT,
            )
        who = c_int()
        status = self.comm.lib.rondo_probe(self.comm.handle, rank, min(left, _SLICE_MS) if block else 0, byref(who))
        check(status)
        if status == AGAIN:
            return False
        header = Header()
        self._read(ctypes.addressof(header), 2, I64, rank)
        self._accept(rank, int(header[0]), int(header[1]))
        return True

    def _claim_taker(self, rank: int, tag: int) -> Optional[Receive]:
        """The first receive that waits for this, which then waits no more."""
        taker = next((w for w in self._waiting if w.tag == tag and w.source in (ANY, rank)), None)
        if taker is not None:
            self._waiting.remove(taker)
        return taker

    def _accept(self, rank: int, tag: int, size: int) -> None:
        with self._changed:
            taker = self._claim_taker(rank, tag)
        fits = taker is not None and taker.x.numel() * taker.x.element_size() == size
        data = taker.x if taker is not None and fits else torch.empty(size, dtype=torch.uint8)
        failure: Optional[Exception] = None
        try:
            if size:
                self._read(data.data_ptr(), size, U8, rank)
        except RondoError as err:
            if taker is None:
                raise
            failure = err
        with self._changed:
            if taker is None:
                taker = self._claim_taker(rank, tag)  # one that came meanwhile
                if taker is not None:
                    self._deliver(taker, rank, data)
                else:
                    self._aside.setdefault((rank, tag), deque()).append(data)
            elif fits or failure is not None:
                taker.source, taker.failure, taker.arrived = rank, failure, True
            else:
                self._deliver(taker, rank, data)
            self._changed.notify_all()
        if taker is not None:
            taker.settle(block=False)  # its own thread, if it has one, is busy with this

    def _read(self, pointer: int, count: int, kind: int, rank: int) -> None:
        request = c_void_p()
        check(self.comm.lib.rondo_recv_start(pointer, count, kind, rank, self.comm.handle, byref(request)))
        check(self.comm.lib.rondo_wait(byref(request)))

    def close(self) -> None:
        with self._changed:
            self._closing = True
