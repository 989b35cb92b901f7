"""The watchdog: ends a worker process that gives no sign of life, so that no job hangs on one image.

Signs of life are a photo that was read, a batch that an expert answered, a row that was written. The patience with a worker is a floor
and many times what its batches usually take. A worker that exhausts it is killed, for nothing less ends a call into a
driver; Ray starts another one, and the journal narrows down which image it was, as it does for images that kill.

Two look: a thread, which can write down what the worker was at; and a process beside the worker, for calls that hold the interpreter's
lock, under which no thread runs. Both count only time in which they run themselves: a machine that was suspended is no hang.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from pipeline.journal import Journal

#: Seconds that the process waits longer than the thread.
GRACE = 15.0
#: Batches whose times are remembered.
REMEMBERED = 64
_OTHER = """
import os, select, signal, sys
patience, silent = float(sys.argv[2]), 0
while True:
    if select.select([0], [], [], patience / 2)[0]:
        told = os.read(0, 4096)
        if not told:
            sys.exit()
        patience, silent = float(told.split()[-1]), 0
    else:
        silent += 1
        if silent > 2:
            os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


class Patience(BaseModel):
    """How long a worker may be silent, in seconds: ``floor`` + ``times`` x what its batches usually take; ``loading``: until its
    experts are loaded. ``late``: how long, at least, an idle worker leaves a unit to the one that began it (pipeline/speculation.py).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    floor: float = Field(600.0, gt=0)
    times: float = Field(20.0, ge=0)
    loading: float = Field(1800.0, gt=0)
    late: float = Field(120.0, gt=0)


class Watchdog:
    """Watches the process that makes it. ``tell``: called with what hung before the process is killed."""

    def __init__(self, patience: Patience, *, tell: Callable[[str], None]) -> None:
        self._patience = patience
        self._tell = tell
        self._journal: Journal | None = None
        self._watching = False
        self._limit = patience.loading
        self._silent = 0.0
        self._usual: deque[float] = deque(maxlen=REMEMBERED)
        self._tick = min(1.0, patience.floor / 10, patience.loading / 10)
        longest = str(max(patience.loading, patience.floor) + GRACE)
        self._other = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _OTHER, str(os.getpid()), longest],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begin(self, journal: Journal | None) -> None:
        """From here on silence counts: in a unit with this journal, or without one while experts are loaded."""
        self._journal = journal
        self.beat()
        self._watching = True
        self._tell_other()  # at once: the first call may hold the lock, and the other would wait as long as for loading

    def end(self) -> None:
        self._watching = False

    def beat(self) -> None:
        """A sign of life."""
        usual = statistics.median(self._usual) if self._usual else 0.0
        self._limit = self._patience.floor + self._patience.times * usual if self._journal else self._patience.loading
        self._silent = 0.0

    def answered(self, seconds: float) -> None:
        """An expert answered a batch in so many seconds."""
        self._usual.append(seconds)
        self.beat()

    def _watch(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(self._tick)
            now = time.monotonic()
            self._silent += min(now - last, 2 * self._tick)
            last = now
            if not self._watching:
                self._silent = 0.0
            elif self._silent > self._limit:
                self._kill()
            self._tell_other()

    def _tell_other(self) -> None:
        try:
            assert self._other.stdin is not None
            self._other.stdin.write(f"{self._limit + GRACE}\n".encode())
            self._other.stdin.flush()
        except OSError:  # somebody ended it; the thread goes on alone
            pass

    def _kill(self) -> None:
        try:
            what = self._journal.hung(self._silent) if self._journal else "loading the experts"
            self._tell(f"no sign of life for {self._silent:.0f} s, at {what}")
        finally:  # whatever the store says
            os.kill(os.getpid(), signal.SIGKILL)
