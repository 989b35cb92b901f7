"""The expert `ocr`: words read by PP-OCRv6 (small), whose weights come inside the rapidocr package; CPU only.

    photo -> at most READING_SIDE pixels -> text lines (detector) -> upright crops -> characters (recogniser) -> words

Lines are cut into words at the CTC columns of their characters (expert_zoo/ocr/words.py).

Source: PP-OCRv6 (arXiv:2606.13108); detection by differentiable binarisation (arXiv:1911.08947), recognition by a light SVTR
with CTC (arXiv:2205.00159). rapidocr's own word boxes are not used: they give a word the score of one of its characters.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard, Weights
from expert_zoo.expert import Expert, Needs, Photo
from expert_zoo.labels import Label
from expert_zoo.ocr.words import PRISMER_MIN_SCORE, PRISMER_RULES, PRISMER_SIDE, Line, squashed, words_of, words_spec
from expert_zoo.resize import resize_long_side

#: The version whose code stands between the weights and the words; another one may read differently.
RAPIDOCR = "3.10.0"

DETECTOR = Weights(
    file="PP-OCRv6_det_small.onnx",
    where=f"rapidocr=={RAPIDOCR}, models/",
    sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    bytes=9929594,
)
RECOGNISER = Weights(
    file="PP-OCRv6_rec_small.onnx",
    where=f"rapidocr=={RAPIDOCR}, models/",
    sha256="6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
    bytes=21234383,
)

#: Pixels. Crops for the recogniser are cut from the photo at this long side; a thin photo is padded to this short side.
READING_SIDE = 1920
PADDED_SIDE = 64
#: rapidocr turns a crop that is this much higher than wide by a quarter, anticlockwise, before it is read.
VERTICAL_RATIO = 1.5


class Ocr(Expert):
    """Words with polygons and scores, in reading order, text as read (case and accents kept).

    recipe: "best", or "prismer": what of the released pipeline's rules holds for other networks than its own (words.py):
    the photo squashed to 480x480 before it is read, words in lower case, a higher threshold.
    min_score: words whose characters' mean probability is below are left out, 0 to 1; None: 0.5, with prismer 0.8.
    detection_side: long side in pixels at which lines are looked for, 64 to 1920; larger photos are made smaller for it.
    None: 960, with prismer 480.

    Raises ValueError on other values, and from `load` where the installed rapidocr does not carry the weights of the card.
    """

    needs: ClassVar[Needs] = Needs(batch_size=4)

    def __init__(
        self,
        *,
        recipe: Literal["best", "prismer"] = "best",
        min_score: float | None = None,
        detection_side: int | None = None,
    ) -> None:
        if recipe not in ("best", "prismer"):
            raise ValueError(f"ocr: recipe is {recipe!r}; expected best or prismer")
        self.prismer = recipe == "prismer"
        if min_score is None:
            min_score = PRISMER_MIN_SCORE if self.prismer else 0.5
        if detection_side is None:
            detection_side = PRISMER_SIDE if self.prismer else 960
        if not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
            raise ValueError(f"ocr: min_score is {min_score!r}; expected a number from 0 to 1")
        if type(detection_side) is not int or not 64 <= detection_side <= READING_SIDE:
            raise ValueError(f"ocr: detection_side is {detection_side!r}; expected 64 to {READING_SIDE} pixels")
        self.min_score = float(min_score)
        self.detection_side = detection_side
        self._engine: Any = None
        self.card = ExpertCard(
            name="ocr",
            summary="Words read by PP-OCRv6 small: 50 languages, among them Chinese, Japanese and those in Latin script.",
            network="PP-OCRv6_small: DB detector (2,453,416 parameters), SVTR-CTC recogniser (5,267,734), both on LCNetV4",
            weights=(DETECTOR, RECOGNISER),
            preprocessing=(
                {"squashed_side": PRISMER_SIDE, "squashing_filter": "Pillow bilinear"} if self.prismer else {}
            )
            | {
                "channels": "BGR",
                "reading_side": READING_SIDE,
                "reading_filter": "area, never enlarged",
                "padded_side": PADDED_SIDE,
                "padding": "edge pixels",
                "detection_side": detection_side,
                "detection_filter": "bilinear to multiples of 32, never enlarged",
                "normalisation": "x / 127.5 - 1",
                "line_height": 48,
            },
            processing={
                "code": f"rapidocr {RAPIDOCR}",
                "pixel_threshold": 0.3,
                "box_threshold": 0.5,
                "unclip_ratio": 1.6,
                "max_lines": 1000,
                "vertical": f"lines {VERTICAL_RATIO} times higher than wide are read downwards and upwards, the better one is kept",
                "min_score": self.min_score,
                "words": "lines cut at spaces, corners at the CTC columns of their characters",
                "order": "rows top to bottom, in a row left to right",
            }
            | (PRISMER_RULES if self.prismer else {}),
            spec=words_spec(lower_case=self.prismer),
            parameters=2_453_416 + 5_267_734,
            licence="Apache-2.0",
            commercial_use=True,
            paper="PP-OCRv6, arXiv:2606.13108",
        )

    def load(self, device: str) -> None:
        """Load both networks on the CPU (whatever ``device`` is) and run each once. Nothing is ever downloaded."""
        import rapidocr

        folder = Path(rapidocr.__file__).parent / "models"
        self._engine = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.return_word_box": True,
                "Global.use_cls": False,
                "Global.use_preprocess_img": False,
                "Global.use_vertical_padding": False,
                "EngineConfig.onnxruntime.intra_op_num_threads": _threads(),
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.model_path": _verified(folder, DETECTOR),
                "Det.limit_type": "max",
                "Det.limit_side_len": self.detection_side,
                "Det.thresh": 0.3,
                "Det.box_thresh": 0.5,
                "Det.unclip_ratio": 1.6,
                "Det.max_candidates": 1000,
                "Rec.model_path": _verified(folder, RECOGNISER),
            }
        )
        blank = np.full((48, 160, 3), 255, np.uint8)
        self._engine.run_ocr_steps(blank, {})
        self._engine.recognize_txt([blank])

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        """Words, or ``empty``, for each photo; photos are read one by one, so a batch equals its singles."""
        if self._engine is None:
            self.load("cpu")
        return [self._read(photo.pixels_HW3) for photo in photos]

    def release(self) -> None:
        self._engine = None

    def _read(self, pixels_HW3: NDArray[np.uint8]) -> Label:
        height, width = pixels_HW3.shape[:2]
        small_HW3 = squashed(pixels_HW3) if self.prismer else resize_long_side(pixels_HW3, READING_SIDE)
        top, left = (max(0, PADDED_SIDE - side + 1) // 2 for side in small_HW3.shape[:2])
        padded_HW3 = np.pad(small_HW3, ((top, top), (left, left), (0, 0)), mode="edge")
        lines = self._lines(np.ascontiguousarray(padded_HW3[:, :, ::-1]))
        scale = np.array([width / small_HW3.shape[1], height / small_HW3.shape[0]])

        def to_photo(corners_42: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.clip((corners_42 - (left, top)) * scale, 0, (width, height))

        spelling = str.lower if self.prismer else str
        return words_of(lines, min_score=self.min_score, to_photo=to_photo, spelling=spelling)

    def _lines(self, image_HW3: NDArray[np.uint8]) -> list[Line]:
        """The lines of a BGR image, in its pixels, in the order of the detector."""
        found, _, read, crops = self._engine.run_ocr_steps(image_HW3, {})
        if found.boxes is None or read.txts is None:
            return []
        quads = [np.asarray(quad_42, np.float64) for quad_42 in found.boxes]
        lines = [_line(*line) for line in zip(quads, read.txts, read.word_results, strict=True)]
        vertical = [i for i, quad_42 in enumerate(quads) if _is_vertical(quad_42)]
        if vertical:
            upwards = self._engine.recognize_txt([np.rot90(crops[i], 2) for i in vertical])
            for k, i in enumerate(vertical):
                if upwards.scores[k] <= read.scores[i]:
                    lines[i] = _line(np.roll(quads[i], -1, axis=0), read.txts[i], read.word_results[i])
                else:
                    lines[i] = _line(np.roll(quads[i], 1, axis=0), upwards.txts[k], upwards.word_results[k])
        return lines


def _line(corners_42: NDArray[np.float64], text: str, info: Any) -> Line:
    """``info``: rapidocr's WordInfo: the CTC column of each character but spaces, the probability of each character and space."""
    columns = np.array([column for word in info.word_cols for column in word], np.float64)
    return Line(corners_42=corners_42, text=text, places_K=(columns + 0.5) / info.line_txt_len, scores=info.confs)


def _threads() -> int:
    """Workers run one per core, so one thread, unless OMP_NUM_THREADS says more."""
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return min(max(1, int(wished)), os.cpu_count() or 1) if wished.isdecimal() else 1


def _verified(folder: Path, weights: Weights) -> str:
    path = folder / weights.file
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != weights.sha256:
        raise ValueError(
            f"ocr: {path} has SHA-256 {found}, the card states {weights.sha256}; install rapidocr=={RAPIDOCR} (requirements.lock)"
        )
    return str(path)


def _is_vertical(quad_42: NDArray[np.float64]) -> bool:
    """Whether rapidocr turned the crop of this line: its rule, whole pixels included (utils/process_img.py)."""
    sides = [int(np.linalg.norm(quad_42[i] - quad_42[(i + 1) % 4])) for i in range(4)]
    return max(sides[1], sides[3]) / max(sides[0], sides[2]) >= VERTICAL_RATIO
