# SPDX-License-Identifier: MIT
"""What a collective call returns: c10d.Work over Rondo's requests.

Who completes a work? Whoever comes first claims it: the thread that calls wait() drives its requests inline, without a
hand-off; otherwise the communicator's thread does (`Comm.enqueue`). Everybody else waits at `_gate`, a lock that is
held until the work is done.
"""
from __future__ import annotations

import _thread
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence

import torch
from torch._C import _distributed_c10d as c10d
from torch.futures import Future

from ._lib import AGAIN, ERR_TIMEOUT, OK, RondoError, error
from ._types import milliseconds

if TYPE_CHECKING:
    from ._comm import Comm

Result = List[torch.Tensor]


class Work(c10d.Work):
    """State of one call. Subclasses say how it is completed."""

    def __init__(self, comm: Comm, name: str, result: Result) -> None:
        super().__init__()
        self._comm = comm
        self.lane: Any = None  # whose thread completes it
        self._name = name
        self._result = result
        self._claim = _thread.allocate_lock()
        self._mutex = _thread.allocate_lock()
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._stays = False
        self._done = False
        self._error: Optional[BaseException] = None
        self._base: Optional[Any] = None
        self._future: Optional[Any] = None

    # ---- For subclasses and the communicator ----

    def _advance(self, block: bool) -> bool:
        """Moves the work forward; true when _finish() is to be called. Only the claimer calls it."""
        raise NotImplementedError

    def settle(self, block: bool = True) -> bool:
        """Completes the work on this thread, or leaves it to one that is at it. True if it is complete now."""
        if self._done:
            return True
        if not self._claim.acquire(False):
            # One that only looks may give it back unfinished; one that stays does not.
            if not block or self._stays:
                return self._done
            self._claim.acquire()
        self._stays = block
        try:
            if self._done:
                return True
            try:
                done = self._advance(block)
            except Exception as err:  # reported by wait() and the future
                self._error, done = err, True
            if done:
                self._finish()
            return done
        finally:
            self._claim.release()

    def pause(self, seconds: float) -> bool:
        """Until another thread has completed the work; false if it has not within this time."""
        if not self._gate.acquire(timeout=seconds):
            return False
        self._gate.release()
        return True

    def _finish(self) -> None:
        with self._mutex:
            self._done = True
            base = self._base
        self._comm.retire(self)
        self._gate.release()
        if base is not None:
            base.set_result(None)

    def _outcome(self, _: Any) -> Result:
        # An exception here is a C++ error, which set_exception() would not be.
        if self._error is not None:
            raise self._error
        return self._result

    # ---- c10d.Work ----

    def wait(self, timeout: Any = None) -> bool:
        """Until the result is there; raises what went wrong. A timeout that passes leaves the operation under way."""
        self._comm.seen(self)
        ms = milliseconds(timeout, 0)
        if ms == 0:
            if not self.settle():
                with self._gate:
                    pass
        elif not self._done:
            self._comm.enqueue(self)
            if not self.pause(ms / 1000):
                raise RondoError(f"Timed out waiting {ms}ms for {self._name} to complete", ERR_TIMEOUT)
        if self._error is not None:
            raise self._error
        return True

    def get_future(self) -> Any:
        """A future of the list of result tensors."""
        self._comm.seen(self)
        with self._mutex:
            if self._future is None:
                self._base = Future()
                self._future = self._base.then(self._outcome)
                late = self._done
            else:
                return self._future
        if late:
            self._base.set_result(None)
        else:
            self._comm.enqueue(self)
        return self._future

    def is_completed(self) -> bool:
        return self._done or self.settle(block=False)

    def is_success(self) -> bool:
        return self.is_completed() and self._error is None

    def exception(self) -> Optional[BaseException]:
        return self._error if self.is_completed() else None

    def result(self) -> Result:
        return self._result

    def synchronize(self) -> None:
        self.wait()

    def source_rank(self) -> int:
        raise RondoError(f"only a receive has a source rank, {self._name} has none")

    def _source_rank(self) -> int:
        return self.source_rank()


class Operations(Work):
    """A work of one or more requests; `after` runs on the completing thread once all are done, e.g. to copy out."""

    def __init__(
        self,
        comm: Comm,
        name: str,
        result: Result,
        requests: Sequence[c_void_p],
        after: Optional[Callable[[], None]],
        keep: Any,
    ) -> None:
        super().__init__(comm, name, result)
        self._requests = list(requests)
        self._after = after
        self._keep = keep  # buffers that the requests use

    def _advance(self, block: bool) -> bool:
        call = self._comm.lib.rondo_wait if block else self._comm.lib.rondo_test
        failed: Optional[RondoError] = None
        while self._requests:
            status = call(byref(self._requests[-1]))
            if status == AGAIN:
                return False
            self._requests.pop()
            if status != OK and failed is None:
                failed = error(status)
                call = self._comm.lib.rondo_wait  # all fail now; their buffers are in use until they say so
        try:
            if failed is not None:
                raise failed
            if self._after is not None:
                with torch.no_grad():
                    self._after()
        finally:
            self._after = self._keep = None
        return True


class Ready(Work):
    """A work that was complete when its call returned."""

    def __init__(self, comm: Comm, name: str, result: Result, failure: Optional[BaseException] = None) -> None:
        super().__init__(comm, name, result)
        self._error = failure
        self._done = True
        self._gate.release()
