# SPDX-License-Identifier: MIT
"""c10d's ProcessGroup over a Rondo communicator.

The base class is ProcessGroup in every version: PyTorch's own c10d.Backend can be derived from in Python only lately, and
wraps works so that is_completed() and source ranks get lost. torch.distributed calls these methods by name, C++ code
(DDP's reducer) through pybind11's trampolines.
"""
from __future__ import annotations

from datetime import timedelta
from multiprocessing.util import Finalize
from typing import Any, Callable, List, Optional, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ._comm import Call, Comm
from ._device import Device
from ._monitor import barrier
from ._types import SUM, TYPES, U8, Reduction, milliseconds, reduction
from ._p2p import ANY, Mail
from ._sparse import sum_sparse
from ._work import Ready, Work

After = Callable[[], None]


def _one(tensors: Any, what: str) -> Tensor:
    """The one tensor of a call; several a rank exist in no backend's present interface."""
    if isinstance(tensors, Tensor):
        return tensors
    if len(tensors) != 1:
        raise ValueError(f"{what} takes one tensor a rank, not {len(tensors)}")
    return tensors[0]


def _root(opts: Any) -> int:
    """Of an options object, or of the number that short forms of the calls take."""
    return int(getattr(opts, "rootRank", opts if isinstance(opts, int) else 0))


def _wire(t: Tensor, dtype: Optional[torch.dtype]) -> Tensor:
    """`t` as contiguous memory of type `dtype` (None: its own); a view of it where that is possible."""
    x = t.detach()
    if x.is_complex():
        x = x.resolve_conj()
    if hasattr(x, "resolve_neg"):
        x = x.resolve_neg()
    if dtype is None or dtype == x.dtype:
        return x.contiguous()
    if x.is_complex():
        return torch.view_as_real(x).contiguous()
    if x.dtype == torch.bool:
        return x.contiguous().view(torch.uint8)
    return x.to(dtype).contiguous()


def _back(x: Tensor, t: Tensor) -> Optional[After]:
    """What copies the wire's tensor to the user's; None if they are the same memory."""
    if x.data_ptr() == t.data_ptr():
        return None

    def copy() -> None:
        y = torch.view_as_complex(x) if t.is_complex() and not x.is_complex() else x
        t.detach().copy_(y.view(t.shape) if y.numel() == t.numel() else y)

    return copy


def _unit(x: Tensor) -> "tuple[int, int]":
    """Count and type of a contiguous tensor that is moved as it is."""
    kind = TYPES.get(x.dtype)
    return (x.numel(), kind) if kind is not None else (x.numel() * x.element_size(), U8)


def _row(tensors: Sequence[Tensor]) -> Optional[Tensor]:
    """One tensor [len, numel] over tensors that lie one after the other in memory; None if they do not."""
    first = tensors[0]
    size = first.numel() * first.element_size()
    for i, t in enumerate(tensors):
        if not t.is_contiguous() or t.data_ptr() != first.data_ptr() + i * size:
            return None
        if hasattr(t, "untyped_storage"):
            same = t.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        else:
            same = t.storage().data_ptr() == first.storage().data_ptr()
        if not same:
            return None
    return first.detach().as_strided((len(tensors), first.numel()), (first.numel(), 1))


def _same_shapes(tensors: Sequence[Tensor], like: Tensor, count: int, what: str) -> None:
    if len(tensors) != count:
        raise ValueError(f"{what} needs a list of {count} tensors, one for each rank, not {len(tensors)}")
    for i, t in enumerate(tensors):
        if t.numel() != like.numel() or t.dtype != like.dtype:
            raise ValueError(
                f"{what}: tensor {i} is {t.dtype} {list(t.shape)}, but must be like the other one, {like.dtype} {list(like.shape)}"
            )


class Group(dist.ProcessGroup):
    """A process group of backend "rondo"."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self._rank, self._size, self._store = rank, size, store
        self._sequence = 0
        self._mail: Optional[Mail] = None
        self._device: Optional[Device] = None
        self._monitored = 0
        self._comm = Comm(store, rank, size, milliseconds(timeout, 30 * 60 * 1000))
        # Also when a process ends without destroy_process_group(). Not weakref's: a child of multiprocessing that was forked
        # runs no atexit functions, and peers would take its end for a crash.
        self._finalizer = Finalize(self, self._comm.close, exitpriority=100)

    # ---- One call of the library, or several as one work ----

    def _run(
        self,
        name: str,
        calls: Sequence[Call],
        result: List[Tensor],
        opts: Any,
        after: Optional[After] = None,
        keep: Any = None,
        on: Any = None,
    ) -> Work:
        self._sequence += 1
        # Newer versions say that wait() follows at once: then it needs no thread.
        background = getattr(opts, "asyncOp", True)
        if any(t.is_cuda for t in result):
            return self._on_device(result[0].device).start(name, calls, result, after, keep)
        ms = milliseconds(getattr(opts, "timeout", None), 0)
        return self._comm.start(name, calls, result, after, keep, ms, on, background)

    def _on_device(self, device: torch.device) -> Device:
        if self._device is None:
            self._device = Device(self._comm, device)
        elif self._device.device != device:
            raise ValueError(f"rondo: this group works on {self._device.device}, not on {device}: make another one for that")
        return self._device

    # ---- Reductions ----

    def allreduce(self, tensors: Any, opts: Any = None) -> Work:
        return self._allreduce(tensors, opts, "all_reduce")

    def _allreduce(self, tensors: Any, opts: Any, name: str) -> Work:
        t = _one(tensors, name)
        if t.is_sparse:
            return self._sparse(t, opts)
        how = reduction(opts if opts is not None else dist.ReduceOp.SUM, t.dtype)
        if how.fold is not None:
            return self._fold(t, t, how, opts, name)
        x = _wire(t, how.wire)
        call = ("all_reduce", x.data_ptr(), x.data_ptr(), x.numel(), TYPES[x.dtype], how.op)
        return self._run(name, [call], [t], opts, _back(x, t), (x, t))

    def _sparse(self, t: Tensor, opts: Any) -> Work:
        how = reduction(opts if opts is not None else dist.ReduceOp.SUM, t.dtype)
        if how.op != SUM or how.fold is not None or t.is_cuda:
            raise TypeError("rondo: all_reduce of sparse tensors is a SUM in host memory")
        sum_sparse(self, t)
        return Ready(self._comm, "all_reduce", [t])

    def _fold(self, t: Tensor, out: Optional[Tensor], how: Reduction, opts: Any, name: str) -> Work:
        """What Rondo has no operation for: everybody gathers all and folds by itself, in the order of ranks."""
        x = _wire(t, None)
        all_ = torch.empty((self._size, *x.shape), dtype=x.dtype, device=x.device)
        fold = how.fold

        def after() -> None:
            total = all_[0]
            for r in range(1, self._size):
                total = fold(total, all_[r])  # type: ignore[misc]
            if out is not None:
                out.detach().copy_(total)

        call = ("all_gather", x.data_ptr(), all_.data_ptr(), *_unit(x))
        return self._run(name, [call], [t], opts, after, (x, all_, t))

    def broadcast(self, tensors: Any, opts: Any = None, root: Optional[int] = None) -> Work:
        t = _one(tensors, "broadcast")
        x = _wire(t, None)
        root = _root(opts) if root is None else root
        call = ("broadcast", x.data_ptr(), x.data_ptr(), *_unit(x), root)
        return self._run("broadcast", [call], [t], opts, _back(x, t), (x, t))

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> Work:
        tensors = list(tensors)
        calls: List[Call] = []
        afters: List[After] = []
        keep: List[Any] = [tensors]
        seen: List[int] = []
        for t in tensors:
            how = reduction(opts if opts is not None else dist.ReduceOp.SUM, t.dtype)
            if how.fold is not None:
                raise TypeError("rondo: all_reduce_coalesced takes SUM, PRODUCT, MIN, MAX and AVG")
            x = _wire(t, how.wire)
            # A tensor that is listed twice is reduced once: in place, the second call would reduce the first one's result.
            if x.numel() > 0 and x.data_ptr() in seen:
                x = x.clone()
            seen.append(x.data_ptr())
            calls.append(("all_reduce", x.data_ptr(), x.data_ptr(), x.numel(), TYPES[x.dtype], how.op))
            afters.append(_back(x, t) or _nothing)
            keep.append(x)
        return self._run("all_reduce_coalesced", calls, tensors, opts, _each(afters), keep)

    def reduce(self, tensors: Any, opts: Any = None) -> Work:
        t = _one(tensors, "reduce")
        root = _root(opts)
        how = reduction(opts if opts is not None else dist.ReduceOp.SUM, t.dtype)
        mine = self._rank == root
        if how.fold is not None:
            return self._fold(t, t if mine else None, how, opts, "reduce")
        x = _wire(t, how.wire)
        to = x.data_ptr() if mine else None
        call = ("reduce", x.data_ptr(), to, x.numel(), TYPES[x.dtype], how.op, root)
        return self._run("reduce", [call], [t], opts, _back(x, t) if mine else None, (x, t))

    def reduce_scatter(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        out = _one(outputs, "reduce_scatter")
        ins = list(inputs[0]) if isinstance(inputs[0], (list, tuple)) else list(inputs)
        _same_shapes(ins, out, self._size, "reduce_scatter")
        row = _row(ins)
        if row is None:
            row = torch.stack([t.detach().reshape(-1) for t in ins])
        return self._reduce_scatter(out, row, opts)

    def _reduce_scatter_base(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        self._whole(input, output, "reduce_scatter_tensor: the input")
        return self._reduce_scatter(output, input, opts)

    def _reduce_scatter(self, out: Tensor, row: Tensor, opts: Any) -> Work:
        call, after, keep = self._scatter_call(out, row, opts)
        return self._run("reduce_scatter", [call], [out], opts, after, keep)

    def _scatter_call(self, out: Tensor, row: Tensor, opts: Any) -> "tuple[Call, Optional[After], Any]":
        how = reduction(opts if opts is not None else dist.ReduceOp.SUM, out.dtype)
        if how.fold is not None:
            raise TypeError("rondo: reduce_scatter takes SUM, PRODUCT, MIN, MAX and AVG")
        x, y = _wire(row, how.wire), _wire(out, how.wire)
        call = ("reduce_scatter", x.data_ptr(), y.data_ptr(), y.numel(), TYPES[y.dtype], how.op)
        return call, _back(y, out), (x, y, row, out)

    def reduce_scatter_tensor_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        parts = [self._scatter_call(o, i, opts) for o, i in zip(outputs, inputs)]
        after = _each([p[1] or _nothing for p in parts])
        return self._run("reduce_scatter_coalesced", [p[0] for p in parts], list(outputs), opts, after, parts)

    # ---- Gathering ----

    def _whole(self, whole: Tensor, part: Tensor, what: str) -> None:
        if whole.numel() != part.numel() * self._size or whole.dtype != part.dtype:
            raise ValueError(
                f"{what} must have {self._size} times the elements of the other tensor: it has {whole.numel()} of "
                f"{whole.dtype}, the other one {part.numel()} of {part.dtype}"
            )

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        t = _one(inputs, "all_gather")
        outs = list(outputs[0]) if isinstance(outputs[0], (list, tuple)) else list(outputs)
        call, after, keep = self._list_call(outs, t)
        return self._run("all_gather", [call], outs, opts, after, keep)

    def _list_call(self, outs: List[Tensor], t: Tensor) -> "tuple[Call, Optional[After], Any]":
        _same_shapes(outs, t, self._size, "all_gather")
        x, row = _wire(t, None), _row(outs)
        after: Optional[After] = None
        if row is None:
            row = torch.empty((self._size, x.numel()), dtype=x.dtype, device=x.device)
            after = _spreader(row, outs)
        return ("all_gather", x.data_ptr(), row.data_ptr(), *_unit(x)), after, (x, row, outs)

    def allgather_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        if len(outputs) != self._size or any(len(o) != len(inputs) for o in outputs):
            raise ValueError(
                f"all_gather_coalesced needs {self._size} lists of {len(inputs)} tensors, one for each rank, not lists of "
                f"{[len(o) for o in outputs]}"
            )
        parts = [self._list_call([outputs[r][i] for r in range(self._size)], t) for i, t in enumerate(inputs)]
        after = _each([p[1] or _nothing for p in parts])
        result = [t for o in outputs for t in o]
        return self._run("all_gather_coalesced", [p[0] for p in parts], result, opts, after, parts)

    def _allgather_base(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        call, after, keep = self._whole_call(output, input)
        return self._run("all_gather_into_tensor", [call], [output], opts, after, keep)

    def _whole_call(self, output: Tensor, input: Tensor) -> "tuple[Call, Optional[After], Any]":
        self._whole(output, input, "all_gather_into_tensor: the output")
        x, y = _wire(input, None), _wire(output, None)
        return ("all_gather", x.data_ptr(), y.data_ptr(), *_unit(x)), _back(y, output), (x, y, output)

    def allgather_into_tensor_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        parts = [self._whole_call(o, i) for o, i in zip(outputs, inputs)]
        after = _each([p[1] or _nothing for p in parts])
        return self._run("all_gather_into_tensor_coalesced", [p[0] for p in parts], list(outputs), opts, after, parts)

    # ---- Between pairs of ranks, all of them in one call ----

    def _exchange(
        self,
        name: str,
        sends: Sequence[Optional[Tensor]],
        recvs: Sequence[Optional[Tensor]],
        result: List[Tensor],
        opts: Any,
    ) -> Work:
        """sends[r] goes to rank r, recvs[r] comes from it; None: nothing, there and here."""
        calls: List[Call] = []
        afters: List[After] = []
        keep: List[Any] = []
        me, n = self._rank, self._size
        if any(t is not None and t.is_cuda for t in (*sends, *recvs)):
            return self._exchange_by_host(name, sends, recvs, result, opts)
        own, here = sends[me], recvs[me]
        for d in range(1, n):  # each rank begins with another one
            to, source = (me + d) % n, (me - d) % n
            t = sends[to]
            if t is not None:
                x = _wire(t, None)
                calls.append(("send", x.data_ptr(), *_unit(x), to))
                keep.append(x)
            t = recvs[source]
            if t is not None:
                x = _wire(t, None)
                calls.append(("recv", x.data_ptr(), *_unit(x), source))
                afters.append(_back(x, t) or _nothing)
                keep.append(x)
        if own is not None and here is not None:
            with torch.no_grad():
                here.detach().copy_(own.detach().view(here.shape))
        return self._run(name, calls, result, opts, _each(afters), (keep, sends, recvs), self._comm.pairs())

    def _exchange_by_host(
        self,
        name: str,
        sends: Sequence[Optional[Tensor]],
        recvs: Sequence[Optional[Tensor]],
        result: List[Tensor],
        opts: Any,
    ) -> Work:
        """The same for device memory, whose sends would have to be in the order of a stream. Blocks."""
        to = [None if t is None else t.detach().cpu() for t in sends]
        back = [None if t is None else torch.empty(t.shape, dtype=t.dtype) for t in recvs]
        self._exchange(name, to, back, [], opts).wait()
        for t, x in zip(recvs, back):
            if t is not None and x is not None:
                t.detach().copy_(x)
        return Ready(self._comm, name, result)

    def _rank_in(self, root: int) -> int:
        if not 0 <= root < self._size:
            raise ValueError(f"rondo: the root is {root}, but this group's ranks are 0 to {self._size - 1}")
        return root

    def gather(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        t = _one(inputs, "gather")
        root = self._rank_in(_root(opts))
        nothing: List[Optional[Tensor]] = [None] * self._size
        if self._rank != root:
            if outputs and outputs[0]:
                raise ValueError(f"gather: only rank {root}, the root, may pass a list for what is gathered")
            sends = list(nothing)
            sends[root] = t
            return self._exchange("gather", sends, nothing, [], opts)
        outs = list(outputs[0]) if outputs and isinstance(outputs[0], (list, tuple)) else list(outputs)
        _same_shapes(outs, t, self._size, "gather")
        sends = list(nothing)
        sends[root] = t
        return self._exchange("gather", sends, outs, outs, opts)

    def scatter(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        out = _one(outputs, "scatter")
        root = self._rank_in(_root(opts))
        recvs: List[Optional[Tensor]] = [None] * self._size
        recvs[root] = out
        if self._rank != root:
            if inputs and inputs[0]:
                raise ValueError(f"scatter: only rank {root}, the root, may pass a list of what is scattered")
            return self._exchange("scatter", [None] * self._size, recvs, [out], opts)
        ins = list(inputs[0]) if inputs and isinstance(inputs[0], (list, tuple)) else list(inputs)
        _same_shapes(ins, out, self._size, "scatter")
        return self._exchange("scatter", ins, recvs, [out], opts)

    def alltoall(self, outputs: Any, inputs: Any, opts: Any = None) -> Work:
        outs, ins = list(outputs), list(inputs)
        if len(outs) != self._size or len(ins) != self._size:
            raise ValueError(f"all_to_all needs two lists of {self._size} tensors, not of {len(outs)} and {len(ins)}")
        return self._exchange("all_to_all", ins, outs, outs, opts)

    def alltoall_base(
        self, output: Tensor, input: Tensor, output_splits: Any = None, input_splits: Any = None, opts: Any = None
    ) -> Work:
        if output_splits or input_splits:
            outs = self._parts(output, output_splits, "output")
            ins = self._parts(input, input_splits, "input")
            y = output if output.is_contiguous() else None
            if y is None:
                raise ValueError("all_to_all_single with splits needs a contiguous output")
            return self._exchange("all_to_all_single", ins, outs, [output], opts)
        x, y = _wire(input, None), _wire(output, None)
        count, kind = _unit(x)
        if x.numel() != y.numel() or x.dtype != y.dtype or input.dim() == 0 or input.size(0) % self._size:
            raise ValueError(
                f"all_to_all_single without splits needs two tensors of one size and type, whose first dimension is a "
                f"multiple of {self._size}, not {list(input.shape)} {input.dtype} and {list(output.shape)} {output.dtype}"
            )
        call = ("all_to_all", x.data_ptr(), y.data_ptr(), count // self._size, kind)
        return self._run("all_to_all_single", [call], [output], opts, _back(y, output), (x, y, output))

    def _parts(self, t: Tensor, splits: Any, what: str) -> List[Tensor]:
        splits = list(splits) if splits else [t.size(0) // self._size] * self._size
        if len(splits) != self._size or sum(splits) != t.size(0):
            raise ValueError(
                f"all_to_all_single: the {what} splits {splits} must be {self._size} numbers whose sum is the first "
                f"dimension, {t.size(0)}"
            )
        return list(torch.split(t.detach(), splits))

    # ---- Two ranks ----

    def _post(self) -> Mail:
        if self._mail is None:
            self._mail = Mail(self._comm)
        return self._mail

    def send(self, tensors: Any, to: int, tag: int = 0) -> Work:
        t = _one(tensors, "send")
        return self._post().send(_wire(t, None).cpu(), [t], to, tag)

    def recv(self, tensors: Any, source: int, tag: int = 0) -> Work:
        t = _one(tensors, "recv")
        x = torch.empty(t.shape, dtype=t.dtype) if t.is_cuda else _wire(t, None)
        return self._post().receive(x, [t], source, tag, _back(x, t))

    def recv_anysource(self, tensors: Any, tag: int = 0) -> Work:
        return self.recv(tensors, ANY, tag)

    def barrier(self, opts: Any = None) -> Work:
        return self._run("barrier", [("barrier",)], [], opts)

    def monitored_barrier(self, timeout: Any = None, wait_all_ranks: bool = False) -> None:
        """A barrier after which rank 0 names the ranks that did not come in time. The group can be used further."""
        timeout = getattr(timeout, "timeout", timeout)
        if isinstance(timeout, (int, float)):
            timeout = timedelta(seconds=timeout)
        ms = self._comm.timeout_ms if timeout is None else int(timeout.total_seconds() * 1000)
        self._monitored += 1
        barrier(self._store, self._monitored, self._rank, self._size, ms, wait_all_ranks)

    # ---- Names of newer versions ----

    all_gather_single = _allgather_base
    all_gather_single_coalesced = allgather_into_tensor_coalesced
    reduce_scatter_single = _reduce_scatter_base
    reduce_scatter_single_coalesced = reduce_scatter_tensor_coalesced
    all_to_all_single = alltoall_base

    # ---- What c10d asks a group ----

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size

    def name(self) -> str:
        return "rondo"

    # What torch.distributed calls this group.
    _group_name = "undefined"
    _group_desc = "undefined"

    @property
    def group_name(self) -> str:
        return self._group_name

    @property
    def group_desc(self) -> str:
        return self._group_desc

    def _set_group_name(self, name: str) -> None:
        self._group_name = name

    def _set_group_desc(self, text: str) -> None:
        self._group_desc = text

    def getGroupName(self) -> str:
        return self._group_name

    def getGroupDesc(self) -> str:
        return self._group_desc

    # What C++ calls.
    getRank = rank
    getSize = size
    getBackendName = name
    _get_backend_name = name
    setGroupName = _set_group_name
    setGroupDesc = _set_group_desc

    def _set_sequence_number_for_group(self) -> None:
        self._sequence = 0

    def _get_sequence_number_for_group(self) -> int:
        return self._sequence

    @property
    def supports_coalescing(self) -> bool:
        return False

    # _device_types stays empty, as that of the base class: PyTorch attaches recorders of its own where it is not.
    def _get_backend(self, device: Any) -> "Group":
        """The backend of a device: it is the group itself."""
        return self

    def set_timeout(self, timeout: Any) -> None:
        """Of operations that follow."""
        self._comm.timeout_ms = milliseconds(timeout, self._comm.timeout_ms)

    _set_default_timeout = set_timeout

    def shutdown(self) -> None:
        self._finalizer()

    def abort(self) -> None:
        self._comm.abort(f"rank {self._rank} aborted its process group")


def _nothing() -> None:
    pass


def _each(afters: Sequence[After]) -> After:
    def run() -> None:
        for after in afters:
            after()

    return run


def _spreader(row: Tensor, outs: Sequence[Tensor]) -> After:
    def spread() -> None:
        for i, out in enumerate(outs):
            out.detach().copy_(row[i].view(out.shape))

    return spread
