from __future__ import annotations

import os
import threading
import time

import pytest

from vmm.virtio.worker import QueueWorker

PATIENCE = 20.0


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.0005)


@pytest.fixture
def started():
    made = []

    def start(serve, fail=None, **options):
        worker = QueueWorker("worker", serve, fail or made.append, **options)
        made.append(worker)
        return worker

    yield start
    for worker in made:
        worker.close()


def test_it_serves_when_kicked(started):
    served = []
    worker = started(lambda: bool(served.append(threading.current_thread().name)))
    worker.kick()
    until(lambda: served == ["worker"])
    worker.kick()
    until(lambda: served == ["worker"] * 2)


def test_it_serves_again_where_there_is_more(started):
    served = []

    def serve():
        served.append(1)
        return len(served) < 5

    started(serve).kick()
    until(lambda: len(served) == 5)


def test_it_stands_still_while_it_is_paused(started):
    inside, go_on, served = threading.Event(), threading.Event(), []

    def serve():
        inside.set()
        assert go_on.wait(PATIENCE)
        served.append(1)
        return True

    worker = started(serve)
    worker.kick()
    assert inside.wait(PATIENCE)
    threading.Timer(0.02, go_on.set).start()
    worker.pause()
    worker.pause()
    count = len(served)
    assert count >= 1, "what was under way is finished"
    time.sleep(0.02)
    assert len(served) == count
    worker.resume()
    worker.resume()
    until(lambda: len(served) > count)


def test_it_serves_when_there_is_input(started):
    source, served = os.eventfd(0), []
    wanted = [source]

    def serve():
        served.append(1)
        return False

    worker = started(serve, input_fd=lambda: wanted[0])
    worker.kick()
    until(lambda: len(served) == 1)
    worker.kick()
    until(lambda: len(served) == 2)
    wanted[0] = -1
    os.eventfd_write(source, 1)
    until(lambda: len(served) == 3)
    worker.kick()
    until(lambda: len(served) == 4)
    time.sleep(0.02)
    assert len(served) == 4, "the file is still readable, and nobody asks"
    os.close(source)


def test_what_it_raises_is_told(started):
    told = []

    def serve():
        raise ZeroDivisionError

    started(serve, told.append).kick()
    until(lambda: told)
    assert isinstance(told[0], ZeroDivisionError)


def test_it_need_not_have_begun():
    QueueWorker("worker", lambda: False, print).close()
