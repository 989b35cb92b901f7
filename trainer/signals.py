"""The wish to stop: SIGTERM from a scheduler, Ctrl-C from a person. The step in work is finished, and a checkpoint written."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """As a context manager: ``caught`` is the first signal that came meanwhile. A second Ctrl-C interrupts at once.

    Processes that are forked inside inherit the handler, so that loader workers outlive a signal to the whole group.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        try:
            self._before = {number: signal.signal(number, self._catch) for number in STOPPING}
        except ValueError:  # not in the main thread, as under Ray Train: whoever owns that decides there
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        if self.caught == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.caught = self.caught or number
