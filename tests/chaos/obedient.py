"""An expert that obeys orders from outside while it labels: hang, fail a write, be slow at writing, have a wrong clock.

Orders are files in a folder. Whoever meets one first takes it by renaming it, so each is carried out once, and what was carried out can be
counted afterwards. The labels are the same with and without orders.
"""

from __future__ import annotations

import ctypes
import datetime
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from expert_zoo.expert import Photo
from expert_zoo.labels import Label
from tests.stand_ins import Grey

#: Seconds by which the clock of a driver is wrong, in its environment.
DRIVERS_CLOCK = "CHAOS_CLOCK"
#: How the name of an order ends when it was taken: the process that took it follows.
TAKEN = ".taken-by-"
SLOW = "slow"
SLOWED = "slowed"


class Orders:
    """The folder as both sides use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def give(self, kind: str, number: int, what: str = "") -> str:
        """The name of the new order."""
        name = f"{kind}-{number:03d}"
        beside = self.folder / f".{name}"
        beside.write_text(what)
        beside.rename(self.folder / name)
        return name

    def take(self, kind: str) -> str | None:
        """What an order of that kind says, if there is one left that nobody took."""
        with suppress(FileNotFoundError):
            for path in sorted(self.folder.glob(f"{kind}-*")):
                if TAKEN not in path.name:
                    return path.rename(f"{path}{TAKEN}{os.getpid()}").read_text()
        return None

    def taken_by(self, name: str) -> int | None:
        """The process that took the order."""
        return next((int(path.name.partition(TAKEN)[2]) for path in self.folder.glob(f"{name}{TAKEN}*")), None)

    def withdraw(self, name: str) -> None:
        """Nobody takes it any more."""
        (self.folder / name).unlink(missing_ok=True)


class Obedient(Grey):
    """`Grey` with orders. A photo on which it hung once is spared from then on: the fault is not the photo's."""

    def __init__(self, *, orders: str, delay: float = 0.0) -> None:
        super().__init__(name="obedient", delay=delay)
        self._orders = Orders(Path(orders))
        if seconds := os.environ.get(DRIVERS_CLOCK):
            shift_clock(float(seconds))
        _disturb_writing(self._orders)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        if seconds := self._orders.take("clock"):
            shift_clock(float(seconds))
        hung = [self._orders.folder / f"hung.{photo.image_id}" for photo in photos]
        if not any(path.exists() for path in hung) and (how := self._orders.take("hang")) is not None:
            for path in hung:
                path.touch()
            hang(holding_the_lock=how == "holding the lock")
        return super().label(photos)


def hang(*, holding_the_lock: bool) -> None:
    if holding_the_lock:
        ctypes.PyDLL(None).sleep(3600)  # PyDLL, unlike CDLL, keeps the interpreter's lock during the call
    time.sleep(3600)


_right_time = time.time
_disturbed: list[Callable[..., Any]] = []


def shift_clock(seconds: float) -> None:
    """From here on what this process takes for the time of day is wrong; intervals and the file system's times are not.

    The class `datetime.datetime` itself stays as it is: libraries in C take it for their own. Only our modules see another one.
    """

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Shifted:
            return super().now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: _right_time() + seconds
    wrong = SimpleNamespace(**{name: getattr(datetime, name) for name in datetime.__all__} | {"datetime": Shifted})
    for name, module in list(sys.modules.items()):
        if name.startswith(("pipeline.", "jobs.")) and hasattr(module, "datetime"):
            module.datetime = wrong  # type: ignore[attr-defined]


def _disturb_writing(orders: Orders) -> None:
    """Puts orders between this process and what a store on a disk is made durable with."""
    if _disturbed:
        return

    def disturbed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if orders.take("io") is not None:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(arguments[0]))
            with suppress(FileNotFoundError, ValueError):
                seconds = float((orders.folder / SLOW).read_text())
                with (orders.folder / SLOWED).open("a") as log:
                    log.write("x")
                time.sleep(seconds)
            return real(*arguments, **options)

        return call

    for name in ("fsync", "link"):
        _disturbed.append(getattr(os, name))
        setattr(os, name, disturbed(_disturbed[-1]))
