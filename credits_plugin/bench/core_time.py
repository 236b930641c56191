"""How long something takes on a core, where others share the machine: wall time less the time spent waiting for a core.

The kernel counts each thread's waiting (``schedstat``); where it does not say, the wall time is what is measured.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Timer = Callable[[Callable[[], object]], float]


@contextlib.contextmanager
def core_timer(*, servers: Sequence[int] = ()) -> Iterator[Timer]:
    """Yield a function that calls another on this thread and returns its microseconds.

    ``servers`` are the processes that this thread waits for, one at a time, as a database connection does.
    """
    files = [Path("/proc/thread-self/schedstat"), *(Path(f"/proc/{server}/schedstat") for server in servers)]
    with contextlib.ExitStack() as stack:
        handles = [os.open(file, os.O_RDONLY) for file in files if file.exists()]
        for handle in handles:
            stack.callback(os.close, handle)

        def waited_ns() -> int:
            return sum(int(os.pread(handle, 64, 0).split()[1]) for handle in handles)

        def timed_us(call: Callable[[], object]) -> float:
            waited, started = waited_ns(), time.perf_counter_ns()
            call()
            wall = time.perf_counter_ns() - started
            return (wall - (waited_ns() - waited)) / 1_000

        yield timed_us
