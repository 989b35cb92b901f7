"""The expert that reads words."""

from __future__ import annotations

import hashlib
import os
import socket
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from expert_zoo.catalog import create
from expert_zoo.expert import Photo
from expert_zoo.labels import Label, Words
from expert_zoo.ocr import rapid as ocr
from expert_zoo.ocr.rapid import Ocr
from manifests.scenes import render, sample_world
from pipeline.photos import Limits, read_photo
from tests.test_photos import record_of

PHOTOS = Path(os.environ.get("EXPERT_LABELS_PHOTOS", Path(__file__).parents[2] / "shared" / "photos"))


@pytest.fixture(scope="module")
def expert() -> Ocr:
    made = Ocr()
    made.load("cpu")
    return made


def photo_of(pixels: np.ndarray) -> Photo:
    return Photo(image_id="a", uri="file:///a", pixels_HW3=pixels)


def sign(
    *texts: tuple[str, int, int], size: tuple[int, int] = (640, 240), height: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """White letters on dark red, and the ink's box (x0, y0, x1, y1) of each text."""
    image = Image.new("RGB", size, (120, 10, 20))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(height)
    boxes = []
    for text, x, y in texts:
        draw.text((x, y), text, "white", font)
        boxes.append(draw.textbbox((x, y), text, font))
    return np.asarray(image), np.array(boxes, np.float64)


def read(expert: Ocr, pixels: np.ndarray) -> Label:
    (label,) = expert.label([photo_of(pixels)])
    problem = expert.card.spec.problem_with(label, height=pixels.shape[0], width=pixels.shape[1])
    assert problem is None, problem
    return label


def texts_of(label: Label) -> list[str]:
    return list(label.value.texts) if isinstance(label.value, Words) else []


def overlap(polygon_42: np.ndarray, box: np.ndarray) -> float:
    """Intersection over union of the polygon's bounding box and a box."""
    low, high = polygon_42.min(axis=0), polygon_42.max(axis=0)
    inner = np.prod(np.maximum(0, np.minimum(high, box[2:]) - np.maximum(low, box[:2])))
    return float(inner / (np.prod(high - low) + np.prod(box[2:] - box[:2]) - inner))


def test_words_are_read_in_order_with_case_and_place(expert: Ocr) -> None:
    pixels, boxes = sign(
        ("Open", 40, 30), ("Daily", 150, 30), ("FRESH", 40, 130), ("Coffee", 200, 130), ("24h", 350, 130)
    )
    label = read(expert, pixels)
    assert texts_of(label) == ["Open", "Daily", "FRESH", "Coffee", "24h"]
    assert isinstance(label.value, Words) and label.value.scores_N.min() > 0.9
    for polygon, box in zip(label.value.polygons_N42, boxes, strict=True):
        assert overlap(polygon, box) > 0.5
        (x0, y0), (x1, _), (_, y2), _ = polygon
        assert x0 < x1 and y0 < y2, "clockwise from the top left"


def test_places_are_in_pixels_of_the_original(expert: Ocr) -> None:
    pixels, boxes = sign(("HARBOUR", 1500, 2100), size=(4000, 3000), height=160)
    label = read(expert, pixels)
    assert texts_of(label) == ["HARBOUR"] and isinstance(label.value, Words)
    assert overlap(label.value.polygons_N42[0], boxes[0]) > 0.6


def test_vertical_words_are_read_downwards_and_upwards(expert: Ocr) -> None:
    pixels, _ = sign(("Library", 60, 40), size=(300, 140), height=48)
    for turned, first_corner in ((np.rot90(pixels, -1), "right"), (np.rot90(pixels), "left")):
        label = read(expert, np.ascontiguousarray(turned))
        assert texts_of(label) == ["Library"] and isinstance(label.value, Words)
        polygon = label.value.polygons_N42[0]
        middle = polygon.mean(axis=0)
        assert (polygon[0] < middle).tolist() == ([False, True] if first_corner == "right" else [True, False])


def test_rows_of_a_tilted_page_stay_rows(expert: Ocr) -> None:
    texts = [
        ("Apple", 60, 120),
        ("1.20", 640, 120),
        ("Bread", 60, 190),
        ("3.40", 640, 190),
        ("Cheese", 60, 260),
        ("5.60", 640, 260),
    ]
    pixels, _ = sign(*texts, size=(800, 420), height=32)
    tilted = np.asarray(Image.fromarray(pixels).rotate(-6, Image.Resampling.BICUBIC, fillcolor=(120, 10, 20)))
    assert texts_of(read(expert, tilted)) == [text for text, _, _ in texts]


def test_nothing_to_read_is_empty(expert: Ocr) -> None:
    for height, width in ((1, 1), (10, 20000), (20000, 10), (2, 3), (240, 320)):
        assert read(expert, np.full((height, width, 3), 128, np.uint8)).status == "empty"
    random = np.random.default_rng(0)
    read(expert, random.integers(0, 256, (10, 20000, 3), np.uint8))


def test_a_strip_thinner_than_the_network_takes_is_padded(expert: Ocr) -> None:
    pixels, _ = sign(("Central Station", 4, -1), size=(180, 22), height=18)
    label = read(expert, pixels)
    assert texts_of(label) == ["Central", "Station"]


def test_min_score_leaves_out_exactly_the_words_below(expert: Ocr) -> None:
    pixels, _ = sign(
        *[
            (text, 20 + 210 * (i % 3), 20 + 70 * (i // 3))
            for i, text in enumerate(("Rain", "Wind", "Snow", "Hail", "Fog"))
        ]
    )
    noise = np.random.default_rng(3).normal(0, 90, pixels.shape)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    everything = Ocr(min_score=0.0)
    everything._engine = expert._engine
    label = read(everything, noisy)
    assert isinstance(label.value, Words)
    ranked = np.unique(label.value.scores_N)
    assert len(ranked) >= 2, "the noise was to make the scores differ"
    strict = Ocr(min_score=float(ranked[-2:].mean()))
    strict._engine = expert._engine
    kept = [text for text, score in zip(label.value.texts, label.value.scores_N, strict=True) if score == ranked[-1]]
    assert texts_of(read(strict, noisy)) == kept and len(kept) < len(label.value.texts)


def test_a_batch_equals_its_singles_and_a_repetition(expert: Ocr) -> None:
    photos = [photo_of(sign((text, 30, 40))[0]) for text in ("Alpha Beta", "Gamma", "Delta 12")]
    batch = expert.label(photos)
    for label, photo in zip(batch, photos, strict=True):
        (single,) = expert.label([photo])
        assert isinstance(label.value, Words) and isinstance(single.value, Words)
        assert label.value.texts == single.value.texts
        np.testing.assert_array_equal(label.value.polygons_N42, single.value.polygons_N42)
        np.testing.assert_array_equal(label.value.scores_N, single.value.scores_N)


def test_the_networks_get_blue_first(expert: Ocr, monkeypatch: pytest.MonkeyPatch) -> None:
    """PP-OCR was trained on images as OpenCV reads them."""
    seen: list[np.ndarray] = []
    run = expert._engine.run_ocr_steps
    monkeypatch.setattr(
        expert._engine, "run_ocr_steps", lambda image, record: (seen.append(image), run(image, record))[1]
    )
    read(expert, sign()[0])
    assert seen[0][0, 0].tolist() == [20, 10, 120]


@pytest.mark.parametrize(("wished", "threads"), [("", 1), ("1", 1), ("0", 1), ("many", 1), ("100000", os.cpu_count())])
def test_one_thread_unless_the_environment_says_more(
    wished: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wished)
    assert ocr._threads() == threads


def test_the_card_names_the_installed_weights_and_code() -> None:
    import rapidocr

    assert version("rapidocr") == ocr.RAPIDOCR
    for weights in Ocr().card.weights:
        data = (Path(rapidocr.__file__).parent / "models" / weights.file).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (weights.sha256, weights.bytes)


def test_loading_fetches_nothing_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    made = Ocr()
    made.load("cpu")
    assert texts_of(read(made, sign(("Quiet", 40, 30))[0])) == ["Quiet"]
    assert read(made, np.zeros((64, 64, 3), np.uint8)).status == "empty"
    made.release()
    assert made._engine is None
    assert capfd.readouterr() == ("", "")


def test_foreign_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rapidocr

    (tmp_path / "models").mkdir()
    monkeypatch.setattr(rapidocr, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ValueError, match="no such file.*install rapidocr=="):
        Ocr().load("cpu")
    (tmp_path / "models" / ocr.DETECTOR.file).write_bytes(b"another network")
    with pytest.raises(ValueError, match="the card states 090f04ab"):
        Ocr().load("cpu")


def test_options_are_part_of_the_version_and_are_checked() -> None:
    assert len({Ocr().card.version, Ocr(min_score=0.8).card.version, Ocr(detection_side=640).card.version}) == 3
    wrong = (
        {"min_score": 1.5},
        {"min_score": "high"},
        {"detection_side": 10},
        {"detection_side": 64.5},
        {"recipe": "worst"},
    )
    for options in wrong:
        with pytest.raises(ValueError, match="^ocr: [^\n]*expected"):
            create("ocr", options=options)


def test_the_version_that_stores_already_hold() -> None:
    """Later options must not change what a plain `ocr` is: its column would be filled again under another name."""
    assert Ocr().card.version == "8dd2a42392" == Ocr(recipe="best", min_score=0.5, detection_side=960).card.version


def test_prismer_squashes_the_photo_lowers_the_case_and_is_stricter(expert: Ocr) -> None:
    prismer = Ocr(recipe="prismer")
    prismer.load("cpu")
    pixels, boxes = sign(("Open", 100, 60), ("DAILY", 320, 240), size=(720, 400), height=80)
    label = read(prismer, pixels)
    assert texts_of(read(expert, pixels)) == ["Open", "DAILY"] and texts_of(label) == ["open", "daily"]
    assert isinstance(label.value, Words) and label.value.scores_N.min() >= 0.8
    for polygon, box in zip(label.value.polygons_N42, boxes, strict=True):
        assert overlap(polygon, box) > 0.5
    rules = prismer.card.preprocessing | prismer.card.processing
    assert (rules["squashed_side"], rules["detection_side"], rules["case"], rules["min_score"]) == (
        480,
        480,
        "lower",
        0.8,
    )
    assert "lower case" in prismer.card.spec.convention and prismer.card.version != expert.card.version


def test_prismer_sees_the_square_that_pillow_makes(monkeypatch: pytest.MonkeyPatch, expert: Ocr) -> None:
    prismer = Ocr(recipe="prismer")
    prismer._engine = expert._engine
    seen: list[np.ndarray] = []
    run = expert._engine.run_ocr_steps
    monkeypatch.setattr(
        expert._engine, "run_ocr_steps", lambda image, record: (seen.append(image), run(image, record))[1]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (700, 300, 3), np.uint8)
    read(prismer, pixels)
    square = np.asarray(Image.fromarray(pixels).resize((480, 480), Image.Resampling.BILINEAR))
    assert np.array_equal(seen[0], square[:, :, ::-1])


def test_words_on_rendered_signs_are_read(expert: Ocr) -> None:
    renderings = [render(sample_world(seed=500, index=index)) for index in range(20)]
    wanted = [text for rendering in renderings for text in rendering.texts_P]
    assert len(wanted) >= 10
    hits = 0
    for rendering in renderings:
        found = texts_of(read(expert, rendering.photo_HW3))
        hits += sum(text in found for text in rendering.texts_P)
    assert hits / len(wanted) >= 0.85


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no folder of real photos (set EXPERT_LABELS_PHOTOS)")
def test_signs_and_receipts_on_real_photos(expert: Ocr) -> None:
    for name, expected in {
        "easyocr__french.jpg": "Palais du LOUVRE LES ARTS DÉCORATIFS Musée du LOUVRE Théâtre du PALAIS-ROYAL",
        "mmocr__demo_kie.jpg": "Cashier: Eric H 9.90 SubTotal 117.25 Tax 11.02 Total 128.27 Master Card 128.27 Acct:XXXXXXXX8425",
        "text-detection-ctpn__007.jpg": "Halt für Verschubfahrten www.quanjing.com",
        "pytorchocr__00207393.jpg": "中国农业银行 AGRICULTURAL BANK OF CHINA",
        "coco-mini__000000107438.jpg": "WELCOME TO ARDNAMURCHAN POINT VISITOR",
        "mmocr__img_9.jpg": "EXIT",
    }.items():
        found = iter(texts_of(read(expert, read_photo(record_of(PHOTOS / name), Limits()).pixels_HW3)))
        missing = [word for word in expected.split() if word not in found]  # an iterator: the order counts too
        assert not missing, (name, missing)
