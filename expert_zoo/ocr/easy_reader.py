"""From a photo to lines of text with easyocr's networks and rules, but with weights that are only ever read as weights.

    photo -> CRAFT: where are characters, where are they linked -> boxes of lines -> grey crops 64 pixels high -> CRNN -> lines

easyocr's own Reader unpickles whatever its files hold (torch.load with weights_only=False), wants its own MD5 sums and says of a
line neither where its characters are nor how sure each is. So its networks, its boxes (craft_utils, group_text_box) and its crops
(get_image_list) are used from here; the texts and the confidence of lines are the ones that its readtext gives.

Sources: CRAFT (arXiv:1904.01941), CRNN with CTC (arXiv:1507.05717), easyocr 1.7.2 (easyocr.py, detection.py, recognition.py).
Shapes: H x W pixels of the photo, h x w of CRAFT's maps, N crops of width V, T columns of the recogniser.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expert_zoo.networks.network_expert import NOT_FINITE, keep_float32_whole, to_host
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD
from expert_zoo.networks.state_dict import fill, read_state_dict
from expert_zoo.ocr.easy_recognisers import DETECTOR, EASYOCR, Recogniser
from expert_zoo.ocr.words import Line

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Pixels: height of the recogniser's input, and how far two of its columns are apart in it.
LINE_HEIGHT = 64
COLUMN_STEP = 4
#: A crop that is this much higher than wide is read upright, downwards and upwards.
VERTICAL_RATIO = 1.5
#: easyocr's defaults (readtext).
TEXT_THRESHOLD, LINK_THRESHOLD, LOW_TEXT = 0.7, 0.4, 0.4
MIN_SIZE = 20
#: A box this many times longer than high is no line; a strip of 10x3000 pixels would take minutes to read in vain.
LONGEST_LINE = 100
LOW_CONFIDENCE, TARGET_CONTRAST = 0.1, 0.5
#: Crops of one width that are read in one go.
MOST_CROPS = 64

Quad = NDArray[np.float64]
Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """What the recogniser says of one crop: line without corners, and easyocr's confidence in it."""

    text: str
    places: list[float]
    scores: list[float]
    confidence: float


def networks(recogniser: Recogniser) -> tuple[nn.Module, nn.Module]:
    """CRAFT and ``recogniser``'s CRNN with random weights. Raises ValueError where easyocr is not the version of the card."""
    _check_version()
    craft = _part("craft").CRAFT(pretrained=False)
    package, width = ("model.model", 512) if recogniser.generation == 1 else ("model.vgg_model", 256)
    crnn = _part(package).Model(input_channel=1, output_channel=width, hidden_size=width, num_class=recogniser.classes)
    return craft, crnn


class EasyOcrReader:
    """Both networks on ``device`` with the weights in ``folder``; ``half``: the detector computes in mixed float16.

    Raises ValueError where a file does not hold the weights of its network, or easyocr is not there in the version of the card.
    """

    def __init__(
        self, *, folder: Path, recogniser: Recogniser, languages: Sequence[str], device: str, half: bool
    ) -> None:
        import torch

        keep_float32_whole()
        self.device = torch.device(device)
        self._half = half
        self._craft, self._crnn = networks(recogniser)
        for network, file in ((self._craft, DETECTOR.path), (self._crnn, recogniser.file)):
            _fill(network, folder / file)
            network.eval().requires_grad_(False).to(self.device)
        self._craft.to(memory_format=torch.channels_last)
        trained = _part("config").recognition_models[f"gen{recogniser.generation}"][recogniser.name]
        self._characters: str = trained["characters"]
        asked = set(trained["symbols"]).union(*map(_characters_of, languages))
        unasked = [place for place, char in enumerate(self._characters, start=1) if char not in asked]
        self._unasked = torch.tensor(unasked, dtype=torch.long, device=self.device)

    def lines(self, pixels_HW3: Tensor, grey_HW: Grey, *, side: int) -> list[Line]:
        """The lines of a photo, in its pixels, in no order.

        pixels_HW3: uint8 RGB on the device; grey_HW: the same photo in grey on the host. side: the photo is made smaller for the
        detector until its long side has that many pixels.
        """
        text_hw, link_hw = self.heat(pixels_HW3, side=side)
        if not (np.isfinite(text_hw).all() and np.isfinite(link_hw).all()):
            raise ValueError(NOT_FINITE)
        boxes, _, _ = _part("craft_utils").getDetBoxes(text_hw, link_hw, TEXT_THRESHOLD, LINK_THRESHOLD, LOW_TEXT)
        height, width = grey_HW.shape
        small_height, small_width = _shrunk(height, width, side)
        scale = 2 * np.array([width / small_width, height / small_height], np.float32)
        flat = [(box_42 * scale).astype(np.int32).reshape(8) for box_42 in boxes]
        return self.read(grey_HW, *_part("utils").group_text_box(flat, 0.1, 0.5, 0.5, 0.5, 0.1))

    def heat(self, pixels_HW3: Tensor, *, side: int) -> list[NDArray[np.float32]]:
        """CRAFT's two maps, h x w, of half the resolution: how much a place is text, and a link between two characters."""
        import torch
        from torch.nn.functional import interpolate, pad

        image_13HW = pixels_HW3.permute(2, 0, 1).float()[None]
        size = _shrunk(pixels_HW3.shape[0], pixels_HW3.shape[1], side)
        if size != tuple(pixels_HW3.shape[:2]):
            image_13HW = interpolate(image_13HW, size, mode="bilinear", antialias=True, align_corners=False)
        image_13HW = pad(image_13HW, (0, -size[1] % 32, 0, -size[0] % 32))  # black, at the right and below
        mean, std = (torch.tensor(x, device=self.device).view(3, 1, 1) * 255 for x in (IMAGENET_MEAN, IMAGENET_STD))
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=self._half):
            maps_1hw2, _ = self._craft(((image_13HW - mean) / std).contiguous(memory_format=torch.channels_last))
        return to_host(maps_1hw2[0, :, :, 0], maps_1hw2[0, :, :, 1])

    def read(self, grey_HW: Grey, upright: Sequence[Sequence[int]], tilted: Sequence[Sequence[Any]]) -> list[Line]:
        """Reads boxes: ``upright`` ones (left, right, top, bottom), then ``tilted`` ones (corners from the top left)."""
        boxes = list(_crops(grey_HW, upright, tilted))
        # Quarter turns anticlockwise: a line that runs downwards has its letters' tops at the right.
        tries = [
            (n, turn) for n, (_, crop, _) in enumerate(boxes) for turn in ((0, 1, -1) if _is_vertical(crop) else (0,))
        ]
        readings = self._readings([np.rot90(boxes[n][1], turn) for n, turn in tries], [boxes[n][2] for n, _ in tries])
        best: dict[int, tuple[int, _Reading]] = {}
        for (n, turn), reading in zip(tries, readings, strict=True):
            if n not in best or reading.confidence > best[n][1].confidence:
                best[n] = (turn, reading)
        return [
            Line(
                corners_42=np.roll(boxes[n][0], -turn, axis=0),
                text=reading.text,
                places_K=np.array(
                    [x for x, char in zip(reading.places, reading.text, strict=True) if not char.isspace()]
                ),
                scores=reading.scores,
            )
            for n, (turn, reading) in best.items()
            if reading.text.strip()
        ]

    def _readings(self, crops: Sequence[Grey], widths: Sequence[int]) -> list[_Reading]:
        """What each crop says; what is hardly legible is read once more with more contrast, and the better kept."""
        readings = self._read_once([_fit(crop) for crop in crops], widths)
        poor = [n for n, reading in enumerate(readings) if reading.confidence < LOW_CONFIDENCE]
        stretched = [_fit(_part("recognition").adjust_contrast_grey(crops[n], TARGET_CONTRAST)) for n in poor]
        for n, again in zip(poor, self._read_once(stretched, [widths[n] for n in poor]), strict=True):
            if again.confidence >= readings[n].confidence:
                readings[n] = again
        return readings

    def _read_once(self, crops: Sequence[Grey], widths: Sequence[int]) -> list[_Reading]:
        """``widths``: pixels to which each crop is padded; those of one width are computed together."""
        groups: dict[int, list[int]] = {}
        for n, width in enumerate(widths):
            groups.setdefault(width, []).append(n)
        readings: dict[int, _Reading] = {}
        for width, members in groups.items():
            for part in (members[k : k + MOST_CROPS] for k in range(0, len(members), MOST_CROPS)):
                padded_NHV = np.stack(
                    [np.pad(crops[n], ((0, 0), (0, width - crops[n].shape[1])), "edge") for n in part]
                )
                for n, scores_T, ids_T in zip(part, *self._columns(padded_NHV), strict=True):
                    readings[n] = self._decoded(scores_T, ids_T, width / crops[n].shape[1], width)
        return [readings[n] for n in range(len(crops))]

    def _columns(self, crops_NHV: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """(probability N x T, class N x T) of the best class in each column, those of other languages left out."""
        import torch

        crops_N1HV = torch.from_numpy(crops_NHV).to(self.device)[:, None].float()
        with torch.inference_mode():
            shares_NTC = self._crnn(crops_N1HV / 127.5 - 1, None).softmax(2)
            shares_NTC.index_fill_(2, self._unasked, 0.0)
            scores_NT, ids_NT = (shares_NTC / shares_NTC.sum(2, keepdim=True)).max(2)
        return to_host(scores_NT, ids_NT)

    def _decoded(self, scores_T: NDArray[np.float32], ids_T: NDArray[np.int64], wider: float, width: int) -> _Reading:
        """Greedy CTC: a run of one class is one character, class 0 none. ``wider``: padded over own width of the crop."""
        starts = np.flatnonzero(np.diff(ids_T, prepend=-1))
        runs = [(s, e) for s, e in zip(starts, [*starts[1:], len(ids_T)], strict=True) if ids_T[s] != 0]
        middle = (len(ids_T) - 1) / 2
        read = scores_T[ids_T != 0]
        return _Reading(
            text="".join(self._characters[ids_T[s] - 1] for s, _ in runs),
            places=[
                min(max((0.5 + ((s + e - 1) / 2 - middle) * COLUMN_STEP / width) * wider, 0.0), 1.0) for s, e in runs
            ],
            scores=[min(float(scores_T[s:e].max()), 1.0) for s, e in runs],  # a share of a rounded sum may be 1.0000001
            confidence=float(read.prod() ** (2 / math.sqrt(len(read)))) if len(read) else 0.0,
        )


def _fit(crop: Grey) -> Grey:
    """The crop LINE_HEIGHT high: those that stand upright though they are higher than wide come larger."""
    from PIL import Image

    height, width = crop.shape
    if height == LINE_HEIGHT:
        return crop
    size = (math.ceil(LINE_HEIGHT * width / height), LINE_HEIGHT)
    return np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize(size, Image.Resampling.BICUBIC))


def _is_vertical(crop: Grey) -> bool:
    return bool(crop.shape[0] >= VERTICAL_RATIO * crop.shape[1])


def _crops(
    grey_HW: Grey, upright: Sequence[Sequence[int]], tilted: Sequence[Sequence[Any]]
) -> Iterator[tuple[Quad, Grey, int]]:
    """(corners, crop, width to pad it to) of each box that is large enough and on the photo."""
    height, width = grey_HW.shape
    cut = _part("utils").get_image_list
    for left, right, top, bottom in upright:
        inside = [int(max(left, 0)), int(min(right, width)), int(max(top, 0)), int(min(bottom, height))]
        across, down = inside[1] - inside[0], inside[3] - inside[2]
        if max(right - left, bottom - top) > MIN_SIZE and _is_line(across, down):
            ((corners, crop),), padded = cut([inside], [], grey_HW, model_height=LINE_HEIGHT)
            yield np.array(corners, np.float64), crop, padded
    for corners in tilted:
        quad_42 = np.array(corners, np.float64)
        sides = np.linalg.norm(quad_42 - np.roll(quad_42, -1, axis=0), axis=1)
        if np.ptp(quad_42, axis=0).max() > MIN_SIZE and _is_line(max(sides[::2]), max(sides[1::2])):
            ((_, crop),), padded = cut([], [corners], grey_HW, model_height=LINE_HEIGHT)
            yield quad_42, crop, padded


def _is_line(across: float, down: float) -> bool:
    """Boxes beyond the edge of the photo may have no pixel left on it; crops of tilted ones need two."""
    return min(across, down) >= 2 and max(across, down) <= LONGEST_LINE * min(across, down)


def _shrunk(height: int, width: int, side: int) -> tuple[int, int]:
    """(h, w) with a long side of at most ``side`` pixels; never enlarged."""
    ratio = min(1.0, side / max(height, width))
    return max(1, int(height * ratio)), max(1, int(width * ratio))


def _fill(network: nn.Module, path: Path) -> None:
    """BatchNorm's counters may be missing, as for load_state_dict: files from before PyTorch 0.4.1 have none."""
    counters = {name: slot for name, slot in network.state_dict().items() if name.endswith("num_batches_tracked")}
    fill(network, counters | read_state_dict(path), path=path)


def in_reading_order(word: str) -> str:
    """The word of a script that runs from right to left; the recogniser says characters from left to right."""
    return str(_part("easyocr").get_display(word))


def _characters_of(language: str) -> str:
    characters = Path(_part("config").BASE_PATH) / "character" / f"{language}_char.txt"
    return "".join(characters.read_text(encoding="utf-8-sig").splitlines())


def _part(name: str) -> Any:
    """The module easyocr.``name``. Its import sets LRU_CACHE_CAPACITY, which would slow every other network on a CPU."""
    before = os.environ.get("LRU_CACHE_CAPACITY")
    try:
        return import_module(f"easyocr.{name}")
    finally:
        if before is None:
            os.environ.pop("LRU_CACHE_CAPACITY", None)
        else:
            os.environ["LRU_CACHE_CAPACITY"] = before


def _check_version() -> None:
    try:
        found = metadata.version("easyocr")
    except metadata.PackageNotFoundError:
        found = "none"
    if found != EASYOCR:
        raise ValueError(
            f"ocr_easyocr: the installed easyocr is {found}, the card's {EASYOCR}; install easyocr=={EASYOCR} (requirements.lock)"
        )
