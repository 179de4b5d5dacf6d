# SPDX-License-Identifier: MIT
"""A communicator: made through PyTorch's Store, its order of operations, its thread, its end.

Operations of a communicator run in the order of submission, on all ranks the same; `lock` is held from the first to the
last request of a call. The thread, started when it is first needed, completes works that nobody waits for; sends and receives have lanes of their own.
"""
from __future__ import annotations

import ctypes
import os
import queue
import threading
import time
from collections import OrderedDict
from ctypes import byref, c_char_p, c_void_p
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ._lib import ERR_BOOTSTRAP, ERR_TIMEOUT, GET, OK, SET, Config, RondoError, StoreOps, check, error, library
from ._monitor import wait_key
from ._work import Operations, Result, Work

# Name of a collective without rondo_ and its arguments before the communicator.
Call = Tuple[Any, ...]

# Works that C++ code may still ask for a future; see Comm.seen().
_UNSEEN_MOST = 64
_GOODBYE_S = 1.0


class _Store:
    """rondo_store_ops over a torch.distributed.Store."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.failure: Optional[BaseException] = None
        libc = ctypes.CDLL(None)
        self._malloc = libc.malloc
        self._malloc.argtypes, self._malloc.restype = [ctypes.c_size_t], c_void_p
        self.ops = StoreOps(ctypes.sizeof(StoreOps), SET(self._set), GET(self._get))

    def _set(self, _: Any, key: bytes, value: Any, size: int, timeout_ms: int) -> int:
        try:
            self._store.set(key.decode(), ctypes.string_at(value, size))
            return OK
        except Exception as err:  # an exception must not cross C
            self.failure = err
            return ERR_BOOTSTRAP

    def _get(self, _: Any, key: bytes, value: Any, size: Any, timeout_ms: int) -> int:
        name = key.decode()
        try:
            if not wait_key(self._store, name, timeout_ms):
                return ERR_TIMEOUT
            data = self._store.get(name)
            memory = self._malloc(max(len(data), 1))
            if not memory:
                return ERR_BOOTSTRAP
            ctypes.memmove(memory, data, len(data))
            value[0], size[0] = memory, len(data)
            return OK
        except Exception as err:
            self.failure = err
            return ERR_BOOTSTRAP


class Comm:
    """Owns a rondo_comm. Threads may share it."""

    def __init__(self, store: Any, rank: int, size: int, timeout_ms: int) -> None:
        self.lib = library()
        self.rank, self.size = rank, size
        self.timeout_ms = timeout_ms
        self.lock = threading.RLock()
        self._set_ms = timeout_ms
        self._pid = os.getpid()
        self._closed = False
        self._pairs: Optional[c_void_p] = None
        self._live: Dict[int, Work] = {}
        self._unseen: OrderedDict[int, Work] = OrderedDict()
        self._lanes: Dict[Any, _Lane] = {}
        self._closers: List[Callable[[], None]] = []
        self._starts = {
            name: getattr(self.lib, f"rondo_{name}_start")
            for name in (
                "all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all", "send", "recv", "barrier",
            )
        }  # fmt: skip
        self.handle = self._join(store)

    def _join(self, store: Any) -> c_void_p:
        ops = _Store(store)
        # A FileStore whose file is not there yet waits for it without a deadline.
        store.set(f"rondo/came/{self.rank}", "1")
        # The group's timeout is PyTorch's word for both of the library's.
        options = f"connect_timeout={self.timeout_ms}ms,op_timeout={self.timeout_ms}ms"
        config = Config(
            size=ctypes.sizeof(Config), rank=self.rank, world_size=self.size, local_rank=-1, master_port=-1,
            options=options.encode(), store_ops=ctypes.pointer(ops.ops),
        )  # fmt: skip
        handle = c_void_p()
        status = self.lib.rondo_init(byref(config), byref(handle))
        if status < 0:
            raise error(status) from ops.failure
        return handle

    def pairs(self) -> c_void_p:
        """A second communicator of the same ranks, for collectives made of sends and receives: their order must not
        mix with that of the user's. Collective at the first call, which blocks."""
        self.ensure_open()
        if self._pairs is None:
            handle = c_void_p()
            # Without the lock: receives go on meanwhile, which other ranks may need before they come here.
            check(self.lib.rondo_comm_split(self.handle, 0, self.rank, byref(handle)))
            self._pairs = handle
            self._set_ms = -1  # the new one has its own
        return self._pairs

    # ---- Operations ----

    def ensure_open(self) -> None:
        if self._closed:
            raise RondoError("this process group was destroyed")
        if os.getpid() != self._pid:
            raise RondoError("this process group belongs to the parent process; a forked child must make its own")

    def start(
        self,
        name: str,
        calls: Sequence[Call],
        result: Result,
        after: Optional[Callable[[], None]] = None,
        keep: Any = None,
        timeout_ms: int = 0,
        on: Optional[c_void_p] = None,
        background: bool = True,
        lane: Any = None,
    ) -> Work:
        """Starts `calls`, in order, as one work. `keep` lives until it is complete. background: the lane's thread
        completes it if nobody waits; otherwise somebody has to."""
        requests: List[c_void_p] = []
        handle = on or self.handle
        with self.lock:
            self.ensure_open()
            self._apply_timeout(timeout_ms or self.timeout_ms)
            for call in calls:
                request = c_void_p()
                status = self._starts[call[0]](*call[1:], handle, byref(request))
                if status < 0:
                    failure = error(status)
                    self._keep_failed(name, requests, keep)
                    raise failure
                requests.append(request)
            work = Operations(self, name, result, requests, after, keep)
            work.lane = lane
            self.adopt(work)
        if background:
            self.enqueue(work)
        return work

    def _apply_timeout(self, ms: int) -> None:
        if ms != self._set_ms:
            for handle in (self.handle, self._pairs):
                if handle is not None:
                    check(self.lib.rondo_set_timeout(handle, ms))
            self._set_ms = ms

    def _keep_failed(self, name: str, requests: List[c_void_p], keep: Any) -> None:
        """The rest of a call whose later part was refused: its buffers are in use until it ends."""
        if requests:
            work = Operations(self, name, [], requests, None, keep)
            self._live[id(work)] = work
            self.enqueue(work)

    def adopt(self, work: Work) -> None:
        """Keeps the work alive until it is complete, and until C++ code has got hold of it: PyTorch 1.13 drops the
        Python object of a work that a group returns to C++."""
        self._live[id(work)] = work
        self._unseen[id(work)] = work
        while len(self._unseen) > _UNSEEN_MOST:
            self._unseen.popitem(last=False)

    def seen(self, work: Work) -> None:
        self._unseen.pop(id(work), None)

    def retire(self, work: Work) -> None:
        self._live.pop(id(work), None)

    def enqueue(self, work: Work) -> None:
        """Lets the thread of the work's lane complete it, unless somebody else does before."""
        self.later(work.lane, work.settle)

    def later(self, lane: Any, task: Callable[[], Any]) -> None:
        """Runs `task` on the lane's thread, after what was given to it before."""
        found = self._lanes.get(lane)
        if found is None:
            with self.lock:
                self.ensure_open()
                found = self._lanes.get(lane) or self._lanes.setdefault(lane, _Lane())
        found.tasks.put(task)

    # ---- The end ----

    def on_close(self, closer: Callable[[], None]) -> None:
        self._closers.append(closer)

    def abort(self, reason: str) -> None:
        """Ends all operations on all ranks."""
        if not self._closed and os.getpid() == self._pid:
            self.lib.rondo_comm_abort(self.handle, c_char_p(reason.encode()))

    def close(self) -> None:
        """Says good-bye to the peers. What is still under way a second later is aborted. Also at the process's end."""
        with self.lock:
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
        for closer in self._closers:
            closer()
        end = time.monotonic() + _GOODBYE_S
        for work in list(self._live.values()):
            if not work.settle(block=False):
                work.pause(max(0.0, end - time.monotonic()))
        if self._live:
            reason = f"rank {self.rank} left with {len(self._live)} operations under way"
            self.lib.rondo_comm_abort(self.handle, c_char_p(reason.encode()))
            for work in list(self._live.values()):
                work.settle()  # fails at once now
        for lane in self._lanes.values():
            lane.tasks.put(None)
        for lane in self._lanes.values():
            lane.thread.join(_GOODBYE_S)
        self._unseen.clear()
        for handle in (self._pairs, self.handle):
            if handle is not None:
                self.lib.rondo_comm_destroy(handle)


class _Lane:
    """A thread that completes works one after the other."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Optional[Callable[[], Any]]] = queue.SimpleQueue()
        # It must not hold the communicator: a group that nobody has any more is closed.
        self.thread = threading.Thread(target=_work_off, args=(self.tasks,), name="rondo", daemon=True)
        self.thread.start()


def _work_off(tasks: queue.SimpleQueue[Optional[Callable[[], Any]]]) -> None:
    while True:
        task = tasks.get()
        if task is None:
            return
        task()
        del task  # not kept while nothing comes
