"""What is large, made of a Batch on its device: photos and label maps as a network takes them.

Legend of shape suffixes: B examples, S the photo's side, s the labels', C channels, N objects or words, padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from expert_zoo.spec import LabelSpec
from trainer.data.batch import Batch, LabelBatch

#: Mean and deviation of the photos that CLIP was trained on (arXiv:2103.00020), red, green, blue, of values 0 to 1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_SMALL = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How maps come to lie within -1 to 1.

    by: "label": what the whole label spans, so that a crop changes no pixel's value; "crop": from the least to the greatest value
        that is seen in the crop (of normals: of all three channels).
    outside: the value of pixels beyond the photo.
    x_left: normals' x points to the left. dark_edges: edges are low on high, as drawn on paper. nearness: depth in metres is made
        inverse depth first. All three are how the labels of Prismer's authors were; ours are turned to fit.
    """

    by: Literal["label", "crop"] = "label"
    outside: float = 0.0
    x_left: bool = False
    dark_edges: bool = False
    nearness: bool = False


#: What the released checkpoints of Prismer were trained on (arXiv:2303.02506, and the code that loads its labels).
AS_RELEASED = Scaling(by="crop", outside=-1.0, x_left=True, dark_edges=True, nearness=True)


def photos(batch: Batch) -> Tensor:
    """B x 3 x S x S, float32, as CLIP wants them."""
    mean, deviation = (
        torch.tensor(values, device=batch.photo_B3SS.device)[:, None, None] for values in (CLIP_MEAN, CLIP_DEVIATION)
    )
    return (batch.photo_B3SS / 255 - mean) / deviation


def inside(batch: Batch, size: int) -> Tensor:
    """Which pixels have their centres in the photo: bool, B x 1 x size x size."""
    a_B16 = batch.to_photo_B23.flatten(1)[:, :, None, None]
    place_s = (torch.arange(size, device=a_B16.device, dtype=a_B16.dtype) + 0.5) / size
    x_1s, y_s1 = place_s[None], place_s[:, None]
    s_Bss = a_B16[:, 0] * x_1s + (a_B16[:, 1] * y_s1 + a_B16[:, 2])
    t_Bss = a_B16[:, 3] * x_1s + (a_B16[:, 4] * y_s1 + a_B16[:, 5])
    return ((torch.minimum(s_Bss, t_Bss) >= 0) & (torch.maximum(s_Bss, t_Bss) <= 1))[:, None]


def maps(label: LabelBatch, spec: LabelSpec, batch: Batch, scaling: Scaling) -> Tensor:
    """A label of kind map as B x C x s x s, float32, -1 to 1; normals turned with the photo. Of who has none, whatever.

    Source of the range: Prismer, arXiv:2303.02506, section 3.
    """
    assert spec.kind == "map" and label.scale_B is not None and label.bias_B is not None, (
        f"kind {spec.kind!r} is no map"
    )
    steps = 65535 if spec.dtype == "uint16" else 255
    # Channel by channel in memory, in which arithmetic on a CPU is several times as fast.
    pixels_BCss = label.pixels_BCss.to(torch.float32, memory_format=torch.contiguous_format)
    if spec.quantity == "depth" and scaling.nearness:
        metres_BCss = pixels_BCss * label.scale_B[:, None, None, None] + label.bias_B[:, None, None, None]
        values_BCss = 1 / metres_BCss.clamp(min=_SMALL)
    else:
        values_BCss = pixels_BCss.mul_(2 / steps).sub_(1)
    if spec.quantity == "normal":
        values_BCss = _turned(values_BCss, batch.turn_B22, x_left=scaling.x_left)
    if spec.quantity == "edge" and scaling.dark_edges:
        values_BCss = -values_BCss
    here_B1ss = inside(batch, values_BCss.shape[-1])
    if scaling.by == "crop":
        low_B111, high_B111 = (
            values_BCss.masked_fill(~here_B1ss, fill).flatten(1).aminmax(dim=1)[which][:, None, None, None]
            for which, fill in ((0, float("inf")), (1, -float("inf")))
        )
        values_BCss = 2 * (values_BCss - low_B111) / (high_B111 - low_B111 + _SMALL) - 1
    return values_BCss.masked_fill(~here_B1ss, scaling.outside)


def _turned(normals_B3ss: Tensor, turn_B22: Tensor, *, x_left: bool) -> Tensor:
    """Unit vectors again, after what interpolation has left of them, turned as the photo was."""
    x_Bss, y_Bss, z_Bss = normals_B3ss.unbind(1)
    (a_B11, b_B11), (c_B11, d_B11) = (row.unbind(1) for row in turn_B22[..., None, None].unbind(1))
    sign = -1.0 if x_left else 1.0
    across_Bss, up_Bss = sign * a_B11 * x_Bss + sign * b_B11 * y_Bss, c_B11 * x_Bss + d_B11 * y_Bss
    length_Bss = (across_Bss * across_Bss).addcmul_(up_Bss, up_Bss).addcmul_(z_Bss, z_Bss).sqrt_().clamp_(min=_SMALL)
    return torch.stack([across_Bss, up_Bss, z_Bss], dim=1).div_(length_Bss[:, None])


def ids(label: LabelBatch) -> Tensor:
    """The class, object or word that every pixel shows, -1 for none; objects and words from 0, the best first.

    int64, B x s x s.
    """
    ids_Bss = label.pixels_BCss[:, 0].to(torch.int64)
    return torch.where(ids_Bss == label.nothing, -1, ids_Bss)


def rows(label: LabelBatch, rows_of: Callable[[Sequence[str]], Sequence[int]]) -> Tensor:
    """What every pixel shows as a row of a table of names, -1 for none: the class, the object's class, the word.

    rows_of: rows of words, -1 for those that the table lacks. int64, B x s x s.
    """
    ids_Bss = ids(label)
    if label.texts is not None:
        found = [torch.tensor(list(rows_of(words)), dtype=torch.int64) for words in label.texts]
        rows_BN = torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)
    elif label.class_ids_BN is not None:
        rows_BN = label.class_ids_BN.to(torch.int64)
    else:
        return ids_Bss
    # One column more, for none: it is what -1 means to an index.
    table_BN = torch.nn.functional.pad(rows_BN.to(ids_Bss.device, non_blocking=True), (0, 1), value=-1)
    return table_BN.gather(1, (ids_Bss % table_BN.shape[1]).flatten(1)).view_as(ids_Bss)
