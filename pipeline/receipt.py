"""Receipt: the small JSON whose existence makes a cell real. Written last; a resume lists receipts and reads none."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DamagedCell, StoreError, UnknownFormat
from pipeline.statistics import Statistics

#: 1 for cells of images that the store was planned with, 2 for those that came later: a version that knows nothing of growth
#: takes such a cell for one of another version, and leaves it as it is.
FORMATS = (1, 2)
PACKAGES = (
    "expert-labels",
    "torch",
    "ray",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "onnxruntime",
    "rapidocr",
    "transformers",
    "tokenizers",
    "timm",
    "easyocr",
    "detectron2",
)


#: Code of the reason in rows of images that the store's input lost before their cell was filled.
DROPPED = "dropped"


class FileEntry(BaseModel):
    """One data file of a cell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str


class Seconds(BaseModel):
    """Where the time of a cell went.

    ``read``, ``encode``, ``write`` are summed over threads that run beside the model; ``wait`` is what the model's own
    thread spent waiting for photos, ``compute`` what it spent in the expert. ``read`` and ``wait`` of a pack are shared
    out evenly among its cells.
    """

    model_config = ConfigDict(extra="forbid")

    read: float = 0.0
    wait: float = 0.0
    compute: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def add(self, other: Seconds) -> None:
        for phase in Seconds.model_fields:
            setattr(self, phase, getattr(self, phase) + getattr(other, phase))


class Rows(BaseModel):
    """How many rows of each status, and how many rows (failed, or ok with a note) for each reason code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ok: int = 0
    empty: int = 0
    failed: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def count(cls, rows: Iterable[tuple[str, str]]) -> Rows:
        """From (status, reason) pairs; a reason's code is what stands before its first colon."""
        rows = list(rows)
        statuses = Counter(status for status, _ in rows)
        reasons = Counter(reason.split(":", 1)[0] for _, reason in rows if reason)
        return cls(**statuses, reasons=dict(reasons.most_common()))

    @property
    def dropped(self) -> int:
        """Failed rows for which no expert was asked: of images that are not in the input any more."""
        return self.reasons.get(DROPPED, 0)

    def __len__(self) -> int:
        return self.ok + self.empty + self.failed


class _Stated(BaseModel):
    """What a receipt of any format says first."""

    format: object = 1


class Receipt(BaseModel):
    """What was committed, from which plan, by whom and at what cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    column: str
    shard: int
    attempt: str
    plan: str
    rows: Rows
    table: FileEntry
    tar: FileEntry | None = None
    seconds: Seconds
    licence: str
    commercial_use: bool
    random_weights: bool = False
    committed_at: str
    host: str
    packages: dict[str, str]
    worker: str = ""
    statistics: Statistics | None = None

    @classmethod
    def read(cls, data: bytes) -> Receipt:
        """The receipt in a store's JSON; fields that a newer version added are ignored.

        Raises UnknownFormat, and pydantic's ValidationError for what is no receipt.
        """
        found = _Stated.model_validate_json(data).format
        if found not in FORMATS:
            raise UnknownFormat(
                f"the receipt has format {found}; this version knows 1 and 2: use the version of expert-labels that wrote it"
            )
        return cls.model_validate_json(data, extra="ignore")

    @classmethod
    def of_cell(cls, data: bytes, name: str, plan: str, column: str, shard: int) -> Receipt:
        """The receipt called ``name`` of that cell. Raises UnknownFormat, DamagedCell for what is no receipt, and StoreError
        for one of another cell or plan.
        """
        try:
            receipt = cls.read(data)
        except UnknownFormat as error:
            raise UnknownFormat(f"{name}: {error}") from error
        except ValidationError as error:
            raise DamagedCell(f"{name} is not a receipt: {error.errors()[0]['msg']}") from error
        if receipt.plan != plan or receipt.column != column or receipt.shard != shard:
            raise StoreError(
                f"{name} belongs to plan {receipt.plan}, {receipt.column}, shard {receipt.shard}; expected plan "
                f"{plan}, {column}, shard {shard}: it came from another store; `expert-labels audit --repair` takes it back"
            )
        return receipt

    @property
    def stored(self) -> int:
        """Bytes of the cell's data files."""
        return self.table.bytes + (self.tar.bytes if self.tar else 0)

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


@functools.cache
def worker() -> str:
    """What tells this worker from others of its host: the GPUs that it was given, or its process."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"GPU {gpus}" if gpus not in ("", "-1") else f"process {os.getpid()}"


@functools.cache
def installed_packages() -> dict[str, str]:
    """Versions of Python and of the packages that can change a label."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
