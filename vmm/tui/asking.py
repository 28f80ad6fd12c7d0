"""Asking a machine over its control socket, on a thread of its own: the screen never waits."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

from vmm.control.client import Client
from vmm.control.protocol import ControlError

__all__ = ["Asker", "said"]


class Asker:
    """Calls of one client, one after the other.

    Args:
        client: is closed with this.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jobs: queue.SimpleQueue[tuple[str, dict[str, Any], Future[dict[str, Any]]] | None]
        self._jobs = queue.SimpleQueue()
        self.gone = False
        """The machine's process does not answer any more."""
        self._thread = threading.Thread(target=self._work, name="asker", daemon=True)
        self._thread.start()

    def ask(self, op: str, **arguments: Any) -> Future[dict[str, Any]]:
        """Ask for one thing."""
        future: Future[dict[str, Any]] = Future()
        if self.gone:
            future.set_exception(ControlError(f"{self._client.name} is gone"))
        else:
            self._jobs.put((op, arguments, future))
        return future

    def close(self) -> None:
        """Hang up, when what was asked is done."""
        self._jobs.put(None)
        self._thread.join(1.0)
        self._client.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            op, arguments, future = job
            try:
                result = self._client.call(op, **arguments)
            except ControlError as error:
                self.gone = self.gone or str(error).endswith("is gone")
                future.set_exception(error)
            except Exception as error:
                self.gone = True
                future.set_exception(ControlError(f"{self._client.name} is gone: {error}"))
            else:
                future.set_result(result)


def said(command: str, answer: dict[str, Any]) -> str:
    """What a command has done, in a line."""
    if command == "pause":
        return "paused: s runs to the next exit, i one instruction, space goes on"
    if command == "resume":
        return "it runs"
    if command == "step_exit":
        return "stands behind the next exit" if answer.get("stepped") else "no exit came in time"
    if command == "step":
        return "one instruction done"
    if command == "save":
        return f"saved: {answer.get('path')}"
    if command == "stop_at":
        return f"stop {answer.get('number')} is set"
    if command == "remove_stop":
        return f"no stop at {answer.get('condition')} any more"
    if command == "mark":
        return f"mark {answer.get('mark')}"
    return command
