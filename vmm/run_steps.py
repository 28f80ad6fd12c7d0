"""A run that stands still behind every exit, for somebody who looks at each.

One vCPU runs on the thread that iterates. Several have a thread each, which hands over its exit and
waits until it was looked at; the others run on meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue

from vmm.endings import Ending
from vmm.exits import Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.run import RunControl
    from vmm.vcpu import Vcpu

__all__ = ["run_by_exits"]

_Feed = SimpleQueue[tuple[Exit | None, threading.Semaphore | None]]


def run_by_exits(
    control: RunControl, timeout: float | None, max_exits: int | None
) -> Generator[Exit | Ending, None, None]:
    """Run all vCPUs and hand out every exit after it was handled, then the ending."""
    state = control.state
    goal = control.begin(timeout, max_exits)
    try:
        if len(state.vcpus) == 1:
            while state.ending is None:
                with state.ctrl_c():
                    event = _step(control, state.vcpus[0], goal)
                if event is not None:
                    yield event
        else:
            yield from _exits_of_all(control, goal)
    finally:
        # Whoever stops iterating stops the guest.
        state.end(Ending("stopped"))
        ending = state.finish()
    yield ending


def _step(control: RunControl, vcpu: Vcpu, goal: int | None) -> Exit | None:
    """Run one vCPU for one exit."""
    before = vcpu.exits
    with control.state.heartbeat():
        control.execute(vcpu, goal, freely=False)
    return vcpu.last_exits(1)[-1] if vcpu.exits != before else None


def _exits_of_all(control: RunControl, goal: int | None) -> Iterator[Exit]:
    """The exits of several vCPUs, each of which waits until its exit was looked at."""
    feed: _Feed = SimpleQueue()
    workers = control.start_workers(lambda vcpu: _feed(control, vcpu, goal, feed))
    running = len(workers)
    taken: threading.Semaphore | None = None
    try:
        while running:
            with control.state.ctrl_c():
                event, taken = feed.get()
            if taken is None:
                running -= 1
                continue
            if event is not None:
                yield event
            taken.release()
            taken = None
    finally:
        control.state.end(Ending("stopped"))
        if taken is not None:
            taken.release()
        while running:
            _, taken = feed.get()
            if taken is None:
                running -= 1
            else:
                taken.release()
        for worker in workers:
            worker.join()


def _feed(control: RunControl, vcpu: Vcpu, goal: int | None, feed: _Feed) -> None:
    """Run one vCPU exit by exit, waiting for each to be taken."""
    taken = threading.Semaphore(0)
    try:
        while control.state.ending is None:
            event = _step(control, vcpu, goal)
            if event is not None:
                feed.put((event, taken))
                taken.acquire()
    finally:
        feed.put((None, None))
