# SPDX-License-Identifier: MIT
"""librondo.so through ctypes: where it is, what is declared of <rondo/ring.h>, and errors as exceptions.

Calls go through ctypes.CDLL, which gives the interpreter's lock away while C runs.
"""
from __future__ import annotations

import ctypes
import os
import threading
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any, List, Optional

import torch.distributed as dist

OK = 0
AGAIN = 1
ERR_TIMEOUT = -5
ERR_BOOTSTRAP = -15

_Base: Any = getattr(dist, "DistBackendError", RuntimeError)


class RondoError(_Base):
    """A call of Rondo failed. `status` is the rondo_status; the text names the rank, the place and the remedy."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


SET = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_size_t, c_int)
GET = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, POINTER(c_void_p), POINTER(c_size_t), c_int)


class StoreOps(ctypes.Structure):
    """rondo_store_ops"""

    _fields_ = [("size", c_size_t), ("set", SET), ("get", GET)]


class Config(ctypes.Structure):
    """rondo_config"""

    _fields_ = [
        ("size", c_size_t),
        ("rank", c_int),
        ("world_size", c_int),
        ("local_rank", c_int),
        ("master_addr", c_char_p),
        ("master_port", c_int),
        ("key", c_void_p),
        ("key_len", c_size_t),
        ("options", c_char_p),
        ("store_ops", POINTER(StoreOps)),
        ("store", c_void_p),
        ("log", c_void_p),
        ("log_arg", c_void_p),
    ]


# Arguments of each collective, before those that all have in common. P: pointer, N: count, I: int or enum.
_COLLECTIVES = {
    "all_reduce": "PPNII",
    "reduce_scatter": "PPNII",
    "all_gather": "PPNI",
    "broadcast": "PPNII",
    "reduce": "PPNIII",
    "all_to_all": "PPNI",
    "send": "PNII",
    "recv": "PNII",
    "barrier": "",
}
_CTYPES = {"P": c_void_p, "N": c_size_t, "I": c_int}


def _candidates() -> List[str]:
    """What to try, in this order, when RONDO_LIBRARY does not say."""
    here = Path(__file__).resolve().parent
    found = [str(here / "librondo.so.0"), str(here / "librondo.so")]
    found.append("librondo.so.0")  # the loader's path
    root = here.parents[2]  # of PREFIX/lib/python3/dist-packages/rondo_torch, or ddp/torch/rondo_torch in the sources
    found.append(str(root / "librondo.so.0"))
    if (root / "ring" / "ring.h").is_file():
        found.append(str(root / "build" / "release" / "librondo.so.0"))
    return found


def _open() -> ctypes.CDLL:
    given = os.environ.get("RONDO_LIBRARY")
    tried = []
    for path in [given] if given else _candidates():
        if not given and "/" in path and not os.path.exists(path):
            tried.append(f"{path}: no such file")
            continue
        try:
            return ctypes.CDLL(path)
        except OSError as err:
            tried.append(f"{path}: {err}")
    raise ImportError(
        "rondo_torch cannot load Rondo's library. "
        + ("RONDO_LIBRARY names it: " if given else "Set RONDO_LIBRARY to the path of librondo.so.0. Tried: ")
        + "; ".join(tried)
    )


def _declare(lib: ctypes.CDLL) -> None:
    def row(name: str, *args: Any, result: Any = c_int) -> None:
        try:
            f = getattr(lib, name)
        except AttributeError:
            raise ImportError(
                f"{lib._name} has no {name}(): it is older than this package; install both from one version"
            ) from None
        f.argtypes, f.restype = args, result

    ref = c_void_p  # rondo_request **, rondo_comm **: given by byref()
    for name, code in _COLLECTIVES.items():
        own = [_CTYPES[c] for c in code]
        row(f"rondo_{name}_start", *own, c_void_p, ref)
        if code:
            row(f"rondo_{name}_stream", *own, c_void_p, c_void_p)
    row("rondo_init", POINTER(Config), ref)
    row("rondo_comm_split", c_void_p, c_int, c_int, ref)
    row("rondo_comm_destroy", c_void_p)
    row("rondo_comm_abort", c_void_p, c_char_p)
    row("rondo_comm_attach", c_void_p, c_int)
    row("rondo_comm_error", c_void_p)
    row("rondo_set_timeout", c_void_p, c_int)
    row("rondo_probe", c_void_p, c_int, c_int, POINTER(c_int))
    row("rondo_wait", ref)
    row("rondo_test", ref)
    row("rondo_last_error", result=c_char_p)
    row("rondo_status_name", c_int, result=c_char_p)
    row("rondo_version", result=c_char_p)


_lock = threading.Lock()
_lib: Optional[ctypes.CDLL] = None


def library() -> ctypes.CDLL:
    """The library, loaded at the first call. ImportError says what was tried."""
    global _lib
    with _lock:
        if _lib is None:
            lib = _open()
            _declare(lib)
            _lib = lib
        return _lib


def error(status: int) -> RondoError:
    """The exception for a call that just failed on this thread."""
    lib = library()
    text = lib.rondo_last_error().decode(errors="replace")
    if status == ERR_TIMEOUT:
        text = f"rondo: Timed out : {text}"  # programs look for the words that Gloo has
    return RondoError(text or lib.rondo_status_name(status).decode(), status)


def check(status: int) -> None:
    """Raises RondoError for a failure."""
    if status < 0:
        raise error(status)
