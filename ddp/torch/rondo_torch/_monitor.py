# SPDX-License-Identifier: MIT
"""A barrier that says who did not come. It goes through the Store, so that a rank that is late harms nothing else."""
from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, List

from ._lib import ERR_TIMEOUT, RondoError


def wait_key(store: Any, key: str, ms: int) -> bool:
    """Until the key is there; false if it is not within `ms`. As store.wait(), which newer versions accompany with
    warnings each time that it ends without the key."""
    if not hasattr(store, "check"):  # before 2.0
        try:
            store.wait([key], timedelta(milliseconds=max(ms, 1)))
            return True
        except RuntimeError:
            return False
    end, pause = time.monotonic() + ms / 1000, 0.001
    while not store.check([key]):
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, 0.05)
    return True


def barrier(store: Any, number: int, rank: int, size: int, ms: int, all_ranks: bool) -> None:
    """Returns on all ranks when all have called it. Otherwise rank 0 raises and names the first rank that had not come
    when `ms` had passed, or all such with all_ranks; the others raise as well."""
    if ms <= 0:
        raise RondoError(f"Rank {rank} timed out in monitoredBarrier after {ms} ms", ERR_TIMEOUT)
    if rank != 0:
        store.set(f"monitored/{number}/{rank}", "1")
        # Rank 0 may have begun as much later as it may wait.
        key = f"monitored/{number}/over"
        if not wait_key(store, key, 2 * ms) or store.get(key) != b"ok":
            raise RondoError(
                f"Rank {rank} successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0. "
                "Please check rank 0 logs for faulty rank.",
                ERR_TIMEOUT,
            )
        return
    missing: List[int] = []
    end = time.monotonic() + ms / 1000
    for other in range(1, size):
        left = int((end - time.monotonic()) * 1000)
        if not wait_key(store, f"monitored/{number}/{other}", max(left, 1)):
            missing.append(other)
            if not all_ranks:
                break
    store.set(f"monitored/{number}/over", "failed" if missing else "ok")
    if missing:
        names = ", ".join(map(str, missing))
        raise RondoError(
            f"Rank{'s' if len(missing) > 1 else ''} {names} failed to pass monitoredBarrier in {ms} ms", ERR_TIMEOUT
        )

