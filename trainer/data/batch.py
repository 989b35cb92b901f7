"""Batch: examples put together as tensors that are small enough to send; what is large is made of them on the device.

Legend of shape suffixes: B examples, S the photo's side, s the labels', C channels, N objects or words, padded; 23 an affine map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from expert_zoo.spec import LabelSpec
from pipeline.errors import ExpertLabelsError
from trainer.data.examples import Example, LabelExample

#: Class id of an object that is not there.
PADDING = -1
_FEW_BYTES = 1 << 16


class _OfTensors:
    """Moves and cuts a dataclass's tensors, and those of the dataclasses in it. What begins with B rows is cut by rows."""

    def _changed(self, change: Callable[[Any], Any]) -> Self:
        values = {field.name: _each(getattr(self, field.name), change) for field in fields(self)}  # type: ignore[arg-type]
        return type(self)(**values)

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes torch gives every tensor a file of its own, which for a few numbers costs more than reading an image.
        values = [_each(getattr(self, field.name), _packed) for field in fields(self)]  # type: ignore[arg-type]
        return _rebuilt, (type(self), values)


def _packed(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) and value.nbytes < _FEW_BYTES and value.is_cpu else value


def _rebuilt(kind: Any, values: list[Any]) -> Any:
    return kind(*(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, _OfTensors):
        return value._changed(change)
    if isinstance(value, dict):
        return {key: _each(inner, change) for key, inner in value.items()}
    return change(value)


@dataclass(slots=True, eq=False)
class LabelBatch(_OfTensors):
    """One modality's labels. What its kind does not have is None.

    pixels_BCss: uint8 or uint16, as in examples.LabelExample; of examples without the label, whatever.
    present_B: bool, False where a label is missing or failed. Stays on the CPU, where asking it costs no wait.
    scale_B, bias_B: float32; a map's value is scale * pixel + bias, in the units of its spec.
    class_ids_BN: int32, PADDING where an example has fewer objects. boxes_BN4: float32, xyxy in units of the image's sides.
    texts: for each example its words. corners_BN42: float32, theirs.
    """

    pixels_BCss: Tensor
    present_B: Tensor
    scale_B: Tensor | None = None
    bias_B: Tensor | None = None
    class_ids_BN: Tensor | None = None
    boxes_BN4: Tensor | None = None
    texts: list[tuple[str, ...]] | None = None
    corners_BN42: Tensor | None = None

    @property
    def nothing(self) -> int:
        """The id in ``pixels_BCss`` that is no class, object or word."""
        return 255 if self.pixels_BCss.dtype == torch.uint8 else 65535


@dataclass(slots=True, eq=False)
class Batch(_OfTensors):
    """ids: of the images. photo_B3SS: uint8 RGB. to_photo_B23, turn_B22: float32, see geometry.Geometry. labels: by modality.

    positions_B: int64, in the epoch's order. items_B: int64, see selection. texts: of the dataset's ``text_of``. replaced: for each
    example, photos that could not be read and in whose place it stands.
    """

    photo_B3SS: Tensor
    to_photo_B23: Tensor
    turn_B22: Tensor
    labels: dict[str, LabelBatch]
    positions_B: Tensor
    items_B: Tensor
    ids: list[str]
    captions: list[tuple[str, ...]]
    texts: list[Any]
    replaced: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors: what is sent to the device."""
        total = 0

        def count(value: Any) -> Any:
            nonlocal total
            total += value.nbytes if isinstance(value, Tensor) else 0
            return value

        self._changed(count)
        return total

    def pin_memory(self) -> Batch:
        """In memory that a device copies from without waiting; torch's DataLoader calls it."""
        pinned = self._changed(lambda value: value.pin_memory() if isinstance(value, Tensor) else value)
        return _with_present(pinned, self)

    def to(self, device: torch.device | str) -> Batch:
        """On that device, ``present_B`` excepted. The copy may be under way still; what uses it there waits by itself."""
        there = self._changed(lambda value: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value)
        return _with_present(there, self)

    def split(self, parts: int) -> list[Batch]:
        """Consecutive parts, sizes differing by at most one: micro-batches. ValueError for more parts than examples."""
        if not 1 <= parts <= len(self):
            raise ValueError(f"a batch of {len(self)} in {parts} parts; expected at most as many parts as examples")
        ends = [len(self) * part // parts for part in range(parts + 1)]
        return [self._cut(slice(first, last)) for first, last in zip(ends[:-1], ends[1:], strict=True)]

    def _cut(self, rows: slice) -> Batch:
        return self._changed(lambda value: None if value is None else value[rows])


def _with_present(batch: Batch, before: Batch) -> Batch:
    for modality, label in batch.labels.items():
        label.present_B = before.labels[modality].present_B
    return batch


def collated(
    examples: Sequence[Example] | ExpertLabelsError, specs: Mapping[str, LabelSpec], label_size: int
) -> Batch | ExpertLabelsError:
    """Examples as a Batch; an error that came in place of them goes on. specs: of every modality."""
    if isinstance(examples, ExpertLabelsError):
        return examples
    return Batch(
        photo_B3SS=_stacked([example.photo_SS3 for example in examples]),
        to_photo_B23=_tensor([example.geometry.to_photo_23 for example in examples], np.float32),
        turn_B22=_tensor([example.geometry.turn_22() for example in examples], np.float32),
        labels={
            modality: _label_batch([example.labels[modality] for example in examples], spec, label_size)
            for modality, spec in specs.items()
        },
        positions_B=_tensor([example.position for example in examples], np.int64),
        items_B=_tensor([example.item for example in examples], np.int64),
        ids=[example.image_id for example in examples],
        captions=[example.captions for example in examples],
        texts=[example.text for example in examples],
        replaced=[example.replaced for example in examples],
    )


def _label_batch(labels: Sequence[LabelExample | None], spec: LabelSpec, size: int) -> LabelBatch:
    there = [label for label in labels if label is not None]
    # Ids are a byte wherever they can be, and a batch has one type.
    dtype = np.result_type(np.uint8, *(label.pixels_ssC.dtype for label in there))
    batch = LabelBatch(
        pixels_BCss=_stacked([_of_type(label, dtype, spec, size) for label in labels]),
        present_B=torch.tensor([label is not None for label in labels]),
    )
    match spec.kind:
        case "map":
            batch.scale_B = _tensor([label.scale if label else 1.0 for label in labels], np.float32)
            batch.bias_B = _tensor([label.bias if label else 0.0 for label in labels], np.float32)
        case "instances":
            batch.class_ids_BN = _padded(
                [label.class_ids_N if label else None for label in labels], (), np.int32, PADDING
            )
            batch.boxes_BN4 = _padded([label.boxes_N4 if label else None for label in labels], (4,), np.float32, 0)
        case "words":
            batch.texts = [label.texts or () if label else () for label in labels]
            batch.corners_BN42 = _padded(
                [label.corners_K42 if label else None for label in labels], (4, 2), np.float32, 0
            )
    return batch


def _of_type(label: LabelExample | None, dtype: Any, spec: LabelSpec, size: int) -> NDArray[np.unsignedinteger]:
    """Its pixels in the batch's type."""
    if label is None:
        fill = 0 if spec.kind == "map" else np.iinfo(dtype).max
        return np.full((size, size, spec.channels or 1), fill, dtype)
    if label.pixels_ssC.dtype == dtype:
        return label.pixels_ssC
    wider_ssC = label.pixels_ssC.astype(dtype)
    wider_ssC[label.pixels_ssC == np.iinfo(label.pixels_ssC.dtype).max] = np.iinfo(dtype).max
    return wider_ssC


def _stacked(images_SSC: Sequence[NDArray]) -> Tensor:
    """B x C x S x S, channels last in memory, as images lie there. In a worker, in memory that it shares with its reader."""
    stacked: Tensor = default_collate([torch.from_numpy(image_SSC) for image_SSC in images_SSC])
    return stacked.permute(0, 3, 1, 2)


def _tensor(values: Sequence[Any], dtype: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype))


def _padded(rows: Sequence[NDArray | None], shape: tuple[int, ...], dtype: Any, padding: float) -> Tensor:
    longest = max((len(row) for row in rows if row is not None), default=0)
    result = np.full((len(rows), longest, *shape), padding, dtype)
    for target, row in zip(result, rows, strict=True):
        if row is not None:
            target[: len(row)] = row
    return torch.from_numpy(result)
