"""Expert: a frozen model. Load once, label batches, release. No I/O in `label`, no state between calls."""

from __future__ import annotations

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard
from expert_zoo.labels import Label


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False, kw_only=True)
class Photo:
    """One image as experts get it.

    ``pixels_HW3``: uint8 RGB, upright (EXIF orientation applied). ``data``: the file's bytes as they came, None where the
    photo was rendered and never was a file; ``format``: jpg, png, ... of ``data``. ``note``: what the decoder had to
    forgive ("truncated: ..."), else "". ``said``: by column what experts with texts said of it, for those that read these.
    """

    image_id: str
    uri: str
    pixels_HW3: NDArray[np.uint8]
    data: bytes | None = None
    format: str = ""
    captions: tuple[str, ...] = ()
    note: str = ""
    said: dict[str, str] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return int(self.pixels_HW3.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels_HW3.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an expert wants of its worker: micro-batch (images a call), device memory, and whether a GPU helps."""

    batch_size: int = 8
    device_memory_gib: float = 0.0
    gpu: bool = False


class Expert(ABC):
    """A frozen model behind one contract.

    The constructor takes keyword options (those of the job file), is cheap, imports nothing heavy and sets ``card``, so
    that a driver knows every column before a model is loaded anywhere. `load` is called once on the worker.
    """

    card: ExpertCard
    needs: ClassVar[Needs] = Needs()
    #: Columns (name@version) of kind text that this expert reads: it finds in `Photo.said` what they say of a photo, where they
    #: say anything, and is not asked about a photo on which one of them failed.
    reads: tuple[str, ...] = ()

    def load(self, device: str) -> None:
        """Bring the model to ``device`` ("cpu", "cuda:0"). Nothing to do for an expert without one."""

    def prefetch(self, photo: Photo) -> None:
        """A chance to begin moving ``photo`` to the device ahead of `label`. Called by the threads that read photos."""

    @abstractmethod
    def label(self, photos: Sequence[Photo]) -> list[Label]:
        """One Label per photo, in order. Must not depend on the photos' neighbours or on earlier calls.

        May raise: the caller then narrows the batch down to the photo that did it and fails only that row.
        """

    def release(self) -> None:
        """Give device memory back; called after an out-of-memory error and before the worker ends."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the device's or the host's memory ran out, told without importing torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = str(error).lower()
    # cuBLAS and cuDNN say it in a word of their own.
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or "out of memory" in said or "status_alloc_failed" in said


def line_of(error: BaseException, kind: type[Expert]) -> str:
    """ " (my_experts.py:41)": the innermost line of the files of ``kind`` and its ancestors that ``error`` came through; "" if none.

    That is the line of whoever wrote the expert, and not one of the library that it called.
    """
    files = {getattr(sys.modules.get(ancestor.__module__), "__file__", None) for ancestor in kind.__mro__}
    through = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename in files
    ]
    return f" ({Path(through[-1][0]).name}:{through[-1][1]})" if through else ""
