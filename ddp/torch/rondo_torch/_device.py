# SPDX-License-Identifier: MIT
"""Tensors in CUDA memory: Rondo's calls on a stream of the group's own, between two events, so that they overlap with
what the current stream does."""
from __future__ import annotations

from ctypes import c_void_p
from typing import Any, Callable, List, Optional, Sequence

import torch
from torch.futures import Future

from ._lib import check, error
from ._types import milliseconds
from ._work import Result, Work


class DeviceWork(Work):
    """Complete, for the program, as soon as it is enqueued: wait() makes the current stream wait, not the caller."""

    def __init__(self, comm: Any, name: str, result: Result, stream: Any) -> None:
        super().__init__(comm, name, result)
        self._stream = stream
        self._event = torch.cuda.Event()
        self._event.record(stream)

    def _advance(self, block: bool) -> bool:
        return bool(self._event.query())

    def wait(self, timeout: Any = None) -> bool:
        self._comm.seen(self)
        self._comm.retire(self)
        if milliseconds(timeout, 0):
            self._event.synchronize()
        torch.cuda.current_stream(self._stream.device).wait_event(self._event)
        status = self._comm.lib.rondo_comm_error(self._comm.handle)
        if status < 0:
            raise error(status)
        return True

    def get_future(self) -> Any:
        self._comm.seen(self)
        if self._future is None:
            self._future = Future(devices=[self._stream.device])
            # The future takes down the current stream; who waits for it waits for that.
            with torch.cuda.stream(self._stream):
                self._future.set_result(self._result)
        self._comm.retire(self)
        return self._future


class Device:
    """The device of a communicator."""

    def __init__(self, comm: Any, device: torch.device) -> None:
        self._comm = comm
        self.device = device
        check(comm.lib.rondo_comm_attach(comm.handle, device.index or 0))
        self._stream = torch.cuda.Stream(device)

    def start(
        self, name: str, calls: Sequence[Any], result: List[torch.Tensor], after: Optional[Callable[[], None]], keep: Any
    ) -> Work:
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with self._comm.lock, torch.cuda.stream(stream), torch.no_grad():
            self._comm.ensure_open()
            for call in calls:
                run = getattr(self._comm.lib, f"rondo_{call[0]}_stream")
                check(run(*call[1:], self._comm.handle, c_void_p(stream.cuda_stream)))
            if after is not None:
                after()
            work = DeviceWork(self._comm, name, result, stream)
        for t in _tensors(keep):
            if t.is_cuda:
                t.record_stream(stream)  # its memory is not to be used again before
        self._comm.adopt(work)
        self._comm.retire(work)
        return work


def _tensors(what: Any) -> List[torch.Tensor]:
    if isinstance(what, torch.Tensor):
        return [what]
    if isinstance(what, (list, tuple)):
        return [t for part in what for t in _tensors(part)]
    return []
