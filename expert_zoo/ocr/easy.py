"""The expert `ocr_easyocr`: words read by easyocr's CRAFT detector and one of its CRNN recognisers, which the languages decide.

    photo -> lines with text, places and scores of the characters (expert_zoo/ocr/easy_reader.py) -> words (expert_zoo/ocr/words.py)

Beyond what easyocr's readtext does by itself: lines that run downwards or upwards are read too, lines are cut into words at the
columns where the recogniser saw their characters, and a word's score is its own characters' and not a power of the line's.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Needs, Photo
from expert_zoo.labels import Label
from expert_zoo.ocr.easy_reader import (
    LINE_HEIGHT,
    LINK_THRESHOLD,
    LONGEST_LINE,
    LOW_CONFIDENCE,
    LOW_TEXT,
    MIN_SIZE,
    TARGET_CONTRAST,
    TEXT_THRESHOLD,
    VERTICAL_RATIO,
    EasyOcrReader,
    in_reading_order,
    networks,
)
from expert_zoo.ocr.easy_recognisers import DETECTOR, DETECTOR_PARAMETERS, EASYOCR, recogniser_for
from expert_zoo.ocr.words import PRISMER_MIN_SCORE, PRISMER_RULES, PRISMER_SIDE, squashed, words_of, words_spec
from expert_zoo.weights.checkpoint import Checkpoint
from expert_zoo.weights.folder import WeightsFolder

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_SIDE = 4096


class EasyOcr(Expert):
    """Words with polygons and scores, in reading order, text as read (case and accents kept).

    recipe: "best", or "prismer": what of the released pipeline's rules holds for other networks than its own (words.py):
    the photo squashed to 480x480 before it is read, words in lower case, a higher threshold.
    languages: easyocr's codes, of one script, with "en" beside it where wanted. They decide the recogniser, and which of its
    characters may be read.
    min_score: words whose characters' mean probability is below are left out, 0 to 1; None: 0.5, with prismer 0.8.
    detection_side: long side in pixels at which lines are looked for, 64 to 4096; larger photos are made smaller for it. None:
    2560, with prismer 480. Crops for the recogniser are cut from the photo itself, with prismer from the squashed one.
    weights_folder, precision: as for every NetworkExpert.

    Raises ValueError on other values, and from `load` where weights or easyocr are missing or are not those of the card.
    """

    needs: ClassVar[Needs] = Needs(batch_size=4, device_memory_gib=4.0, gpu=True)

    def __init__(
        self,
        *,
        recipe: Literal["best", "prismer"] = "best",
        languages: Sequence[str] = ("en",),
        min_score: float | None = None,
        detection_side: int | None = None,
        weights_folder: str | None = None,
        precision: Literal["auto", "float32"] = "auto",
    ) -> None:
        if recipe not in ("best", "prismer"):
            raise ValueError(f"ocr_easyocr: recipe is {recipe!r}; expected best or prismer")
        if isinstance(languages, str) or not languages or not all(isinstance(code, str) for code in languages):
            raise ValueError(f"ocr_easyocr: languages is {languages!r}; expected a list of codes, such as [de, en]")
        self.prismer = recipe == "prismer"
        if min_score is None:
            min_score = PRISMER_MIN_SCORE if self.prismer else 0.5
        if detection_side is None:
            detection_side = PRISMER_SIDE if self.prismer else 2560
        if not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
            raise ValueError(f"ocr_easyocr: min_score is {min_score!r}; expected a number from 0 to 1")
        if type(detection_side) is not int or not 64 <= detection_side <= LARGEST_SIDE:
            raise ValueError(f"ocr_easyocr: detection_side is {detection_side!r}; expected 64 to {LARGEST_SIDE} pixels")
        if precision not in ("auto", "float32"):
            raise ValueError(f"ocr_easyocr: precision is {precision!r}; expected auto or float32")
        self.languages = tuple(sorted(set(languages)))
        self.recogniser = recogniser_for(self.languages)
        self.min_score = float(min_score)
        self.detection_side = detection_side
        self.folder = WeightsFolder(weights_folder)
        self.checkpoint = Checkpoint(
            name=f"easyocr-{self.recogniser.name}",
            files=(DETECTOR, self.recogniser.weights),
            licence="Apache-2.0",
            commercial_use=True,
            page="https://github.com/JaidedAI/EasyOCR",
        )
        self._precision = precision
        self._device = "cpu"
        self._reader: EasyOcrReader | None = None
        self.card = ExpertCard(
            name="ocr_easyocr",
            summary="Words read by easyocr: CRAFT finds them, a recogniser for the script of the chosen languages reads them.",
            network=f"CRAFT on VGG16-BN ({DETECTOR_PARAMETERS:,} parameters), CRNN {self.recogniser.name} "
            f"({self.recogniser.parameters:,}, {self.recogniser.classes} classes with the CTC blank)",
            weights=self.folder.weights(self.checkpoint),
            preprocessing=(
                {"squashed_side": PRISMER_SIDE, "squashing_filter": "Pillow bilinear"} if self.prismer else {}
            )
            | {
                "channels": "RGB, the recogniser grey",
                "detection_side": detection_side,
                "detection_filter": "bilinear, antialiased, never enlarged",
                "padding": "black to multiples of 32, right and below",
                "mean": "0.485 0.456 0.406",
                "std": "0.229 0.224 0.225",
                "line_height": LINE_HEIGHT,
                "line_padding": "last column, to whole multiples of the height",
                "line_normalisation": "x / 127.5 - 1",
                "precision": "float32" if precision == "float32" else "float32, the detector mixed float16 on CUDA",
            },
            processing={
                "code": f"easyocr {EASYOCR}",
                "languages": " ".join(self.languages),
                "text_threshold": TEXT_THRESHOLD,
                "link_threshold": LINK_THRESHOLD,
                "low_text": LOW_TEXT,
                "min_size": MIN_SIZE,
                "longest_line": f"{LONGEST_LINE} times as long as high, or left out",
                "lines": "slope 0.1, centres 0.5, heights 0.5, gaps 0.5, margin 0.1",
                "decoder": "greedy CTC, characters of other languages left out",
                "contrast": f"lines of a confidence below {LOW_CONFIDENCE} once more at contrast {TARGET_CONTRAST}, the better one is kept",
                "vertical": f"crops {VERTICAL_RATIO} times higher than wide upright, downwards and upwards, the best one is kept",
                "min_score": self.min_score,
                "words": "lines cut at spaces, corners at the CTC columns of their characters, score the characters' mean",
                "order": f"rows top to bottom, in a row {'right to left' if self.recogniser.right_to_left else 'left to right'}",
            }
            | (PRISMER_RULES if self.prismer else {}),
            spec=words_spec(lower_case=self.prismer),
            parameters=DETECTOR_PARAMETERS + self.recogniser.parameters,
            licence=self.checkpoint.licence,
            commercial_use=self.checkpoint.commercial_use,
            paper="CRAFT, arXiv:1904.01941; CRNN, arXiv:1507.05717",
        )

    def load(self, device: str) -> None:
        """Raises ValueError where a checkpoint is missing, damaged or another network's. Nothing is ever downloaded."""
        self._device = device
        self._reader = EasyOcrReader(
            folder=self.folder.verified(self.checkpoint, expert="ocr_easyocr"),
            recogniser=self.recogniser,
            languages=self.languages,
            device=device,
            half=self._precision == "auto" and device.startswith("cuda"),
        )

    def release(self) -> None:
        self._reader = None
        if self._device != "cpu":
            import torch

            from expert_zoo.networks import upload

            upload.forget()
            gc.collect()
            torch.cuda.empty_cache()

    def prefetch(self, photo: Photo) -> None:
        if self._device != "cpu" and not self.prismer:
            import torch

            from expert_zoo.networks import upload

            upload.send(torch.device(self._device), photo)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        """Words, or ``empty``, for each photo; photos are read one by one, so a batch equals its singles."""
        if self._reader is None:
            self.load(self._device)
        assert self._reader is not None
        return [self._read(self._reader, photo) for photo in photos]

    def _read(self, reader: EasyOcrReader, photo: Photo) -> Label:
        import cv2

        from expert_zoo.networks.upload import pixels_on

        seen = replace(photo, pixels_HW3=squashed(photo.pixels_HW3)) if self.prismer else photo
        grey_HW = cv2.cvtColor(seen.pixels_HW3, cv2.COLOR_RGB2GRAY)
        lines = reader.lines(pixels_on(reader.device, seen), grey_HW, side=self.detection_side)
        scale = np.array([photo.width / seen.width, photo.height / seen.height])

        def to_photo(corners_42: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.clip(corners_42 * scale, 0, (photo.width, photo.height))

        return words_of(
            lines,
            min_score=self.min_score,
            to_photo=to_photo,
            spelling=self._spelt,
            right_to_left=self.recogniser.right_to_left,
        )

    def _spelt(self, word: str) -> str:
        if self.recogniser.right_to_left:
            word = in_reading_order(word)
        return word.lower() if self.prismer else word

    def seed(self, folder: Path, *, small: bool) -> None:
        """easyocr has these networks in one size, so ``small`` changes nothing.

        Random weights find and read nothing; these are scaled until they do, so that all that comes after them has work.
        """
        import torch

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            craft, crnn = networks(self.recogniser)
            blocks_13HW = torch.randn(1, 3, 8, 12).repeat_interleave(16, 2).repeat_interleave(16, 3)
            _settle(craft, blocks_13HW, spread=0.25)
            _settle(crnn, blocks_13HW[:, :1, :LINE_HEIGHT], None, spread=6.0)
        for network, file in ((craft, DETECTOR.path), (crnn, self.recogniser.file)):
            torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, folder / file)


def _settle(network: nn.Module, *inputs: Tensor | None, spread: float) -> None:
    """Fits norms and last layer of a random network to ``inputs``: each of its channels then has mean 0 and this deviation."""
    import torch

    *layers, last = network.modules()
    for layer in layers:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    network.train()(*inputs)
    said: list[Tensor] = []
    hook = last.register_forward_hook(lambda _, __, output: said.append(output))
    network.eval()(*inputs)
    hook.remove()
    channels_CK = said[0].movedim(1 if said[0].ndim == 4 else 2, 0).flatten(1)
    gain_C = spread / channels_CK.std(1)
    weight, bias = last.weight, last.bias
    assert isinstance(weight, torch.Tensor) and isinstance(bias, torch.Tensor)
    weight.mul_(gain_C.view(-1, *[1] * (weight.ndim - 1)))
    bias.copy_((bias - channels_CK.mean(1)) * gain_C)
