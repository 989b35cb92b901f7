"""The expert that reads words with easyocr's networks.

Nobody trained the weights here, so what is read comes from two stand-ins for the networks, which are given real pixels and answer
as the networks would: CRAFT marks what is bright, the recogniser spells a bar's text by its brightness. All between is the expert's.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import pickle
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expert_zoo.catalog import create
from expert_zoo.expert import Photo
from expert_zoo.labels import Label, Words
from expert_zoo.networks.seeding import seed
from expert_zoo.ocr import easy_recognisers as easyocr_recognisers
from expert_zoo.ocr.easy import EasyOcr
from expert_zoo.ocr.easy_reader import EasyOcrReader, networks
from expert_zoo.ocr.easy_recognisers import RECOGNISERS, recogniser_for
from manifests.scenes import render_uri, scene_uri
from tests.conftest import run_python
from tests.test_ocr import overlap, photo_of, texts_of

torch = pytest.importorskip("torch")

#: What the stand-in reads off a bar of that brightness, and how sure it is of each character.
SPELT = {100: ("Open Daily", 0.99), 130: ("24h", 0.9), 160: ("ÉCOLE", 0.7), 190: ("Dim", 0.4)}
LEVELS = np.array(list(SPELT))
MARK = 250


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    seed(["ocr_easyocr"], root=root)
    return root


@pytest.fixture(scope="module")
def seeded(weights: Path) -> EasyOcr:
    made = EasyOcr(weights_folder=str(weights), min_score=0)
    made.load("cpu")
    return made


class BrightIsText(torch.nn.Module):
    """In CRAFT's place: 1 where the red channel is bright, at half the resolution, edges cut off as CRAFT's blobs are thinner than
    letters; never a link."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, images_13HW: Any) -> tuple[Any, None]:
        self.sizes.append(tuple(images_13HW.shape[2:]))
        red_1HW = (images_13HW[:, 0] * 0.229 + 0.485) * 255
        dark_1hw = torch.nn.functional.max_pool2d((red_1HW < 60).float(), 2)
        text_1hw = 1 - torch.nn.functional.max_pool2d(dark_1hw, 7, stride=1, padding=3)
        return torch.stack([text_1hw, torch.zeros_like(text_1hw)], dim=3), None


class SpelledByBrightness(torch.nn.Module):
    """In the CRNN's place: spells the text of the bar's level evenly over the bar; unsure where its mark is not at the top left."""

    def __init__(self, characters: str) -> None:
        super().__init__()
        self.characters = characters

    def forward(self, crops_N1HV: Any, _: Any) -> Any:
        return torch.stack([self._one((crop_HV.numpy() + 1) * 127.5) for crop_HV in crops_N1HV[:, 0]])

    def _one(self, crop_HV: np.ndarray) -> Any:
        columns = crop_HV.shape[1] // 4 - 1
        logits_TC = torch.zeros(columns, len(self.characters) + 1)
        logits_TC[:, 0] = 20.0
        bright = np.flatnonzero(crop_HV[20:44].mean(axis=0) > 60)
        if len(bright) == 0:
            return logits_TC
        level = LEVELS[np.abs(LEVELS - np.median(crop_HV[20:44, bright])).argmin()]
        text, share = SPELT[int(level)]
        if crop_HV[: crop_HV.shape[0] // 2, bright[0] : bright[0] + 9].max() < 220:
            share = 0.2
        ends = np.linspace(bright[0], bright[-1] + 1, len(text) + 1)
        for char, x in zip(text, (ends[:-1] + ends[1:]) / 2, strict=True):
            column = int(round(float(x) / 4 - 1))
            logits_TC[column] = float(np.log((1 - share) / len(self.characters)))
            logits_TC[column, self.characters.index(char) + 1] = float(np.log(share))
        return logits_TC


@pytest.fixture
def reading(seeded: EasyOcr, monkeypatch: pytest.MonkeyPatch) -> Iterator[EasyOcr]:
    """The expert with stand-ins for its networks."""
    reader = seeded._reader
    assert reader is not None
    monkeypatch.setattr(reader, "_craft", BrightIsText())
    monkeypatch.setattr(reader, "_characters", reader._characters + "É")
    monkeypatch.setattr(reader, "_crnn", SpelledByBrightness(reader._characters))
    yield seeded


def with_options(reading: EasyOcr, **options: Any) -> EasyOcr:
    made = EasyOcr(**options)
    made._reader = reading._reader
    return made


def read(expert: EasyOcr, pixels: np.ndarray) -> Label:
    (label,) = expert.label([photo_of(pixels)])
    problem = expert.card.spec.problem_with(label, height=pixels.shape[0], width=pixels.shape[1])
    assert problem is None, problem
    return label


def bars(*placed: tuple[int, int, int, int, int], size: tuple[int, int] = (600, 240)) -> np.ndarray:
    """Bars (level, x0, y0, x1, y1) on black; the first fifth of each is marked at its top, where a line begins."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for level, x0, y0, x1, y1 in placed:
        pixels[y0:y1, x0:x1] = level
        pixels[y0 + 2 : y0 + (y1 - y0) // 4, x0 + 2 : x0 + (x1 - x0) // 5] = MARK
    return pixels


def test_words_are_in_reading_order_with_text_place_and_score(reading: EasyOcr) -> None:
    label = read(reading, bars((160, 40, 150, 240, 190), (130, 400, 42, 490, 80), (100, 60, 40, 260, 80)))
    assert texts_of(label) == ["Open", "Daily", "24h", "ÉCOLE"]
    assert isinstance(label.value, Words)
    np.testing.assert_allclose(label.value.scores_N, [0.99, 0.99, 0.9, 0.7], atol=1e-4)
    for polygon, box in zip(
        label.value.polygons_N42,
        ((60, 40, 140, 80), (160, 40, 260, 80), (400, 42, 490, 80), (40, 150, 240, 190)),
        strict=True,
    ):
        assert overlap(polygon, np.array(box, float)) > 0.6
        (x0, y0), (x1, _), (_, y2), _ = polygon
        assert x0 < x1 and y0 < y2, "clockwise from the top left"


def test_a_character_is_placed_where_the_recogniser_saw_it(reading: EasyOcr) -> None:
    """The space of "Open Daily" is its fifth of ten characters: the words meet around 45 % of the bar, padding or not."""
    for width in (200, 230, 330):
        label = read(reading, bars((100, 60, 40, 60 + width, 80)))
        assert isinstance(label.value, Words)
        ends, begins = label.value.polygons_N42[0, 1, 0], label.value.polygons_N42[1, 0, 0]
        assert np.abs([(ends - 60) / width - 0.4, (begins - 60) / width - 0.5]).max() < 0.03


def test_lines_that_run_down_and_up_are_read(reading: EasyOcr) -> None:
    upright = bars((130, 30, 60, 180, 100), size=(240, 160))
    for quarters, start in ((-1, [False, True]), (1, [True, False])):
        label = read(reading, np.ascontiguousarray(np.rot90(upright, quarters)))
        assert texts_of(label) == ["24h"] and isinstance(label.value, Words)
        polygon = label.value.polygons_N42[0]
        assert (polygon[0] < polygon.mean(axis=0)).tolist() == start
        np.testing.assert_allclose(label.value.scores_N, 0.9, atol=1e-4)


def test_tilted_lines_are_read(reading: EasyOcr) -> None:
    import cv2

    turn = cv2.getRotationMatrix2D((300, 120), 15, 1.0)
    pixels = cv2.warpAffine(bars((100, 200, 100, 400, 140)), turn, (600, 240))
    label = read(reading, pixels)
    assert texts_of(label) == ["Open", "Daily"] and isinstance(label.value, Words)
    (x0, y0), (x1, y1), *_ = label.value.polygons_N42[0]
    assert np.degrees(np.arctan2(y0 - y1, x1 - x0)) == pytest.approx(15, abs=3)


def test_places_are_in_pixels_of_the_photo_whatever_the_detector_sees(reading: EasyOcr) -> None:
    pixels = bars((130, 600, 1000, 900, 1080), size=(1000, 1500))
    label = read(with_options(reading, detection_side=750), pixels)
    assert reading._reader is not None and reading._reader._craft.sizes == [(768, 512)]  # 750 x 500, in whole 32s
    assert texts_of(label) == ["24h"] and isinstance(label.value, Words)
    assert overlap(label.value.polygons_N42[0], np.array([600, 1000, 900, 1080], float)) > 0.6


def test_prismer_squashes_the_photo_lowers_the_case_and_is_stricter(reading: EasyOcr) -> None:
    pixels = bars((100, 300, 40, 900, 80), (130, 60, 140, 300, 190), (160, 600, 140, 900, 190), size=(1200, 240))
    assert texts_of(read(reading, pixels)) == ["Open", "Daily", "24h", "ÉCOLE"]
    prismer = with_options(reading, recipe="prismer")
    label = read(prismer, pixels)
    assert texts_of(label) == ["open", "daily", "24h"] and isinstance(label.value, Words), "ÉCOLE scores 0.7"
    np.testing.assert_allclose(label.value.polygons_N42[2].mean(axis=0), (180, 165), atol=6)
    assert overlap(label.value.polygons_N42[2], np.array([60, 140, 300, 190], float)) > 0.5
    assert reading._reader is not None and reading._reader._craft.sizes[-1] == (480, 480)
    rules = prismer.card.preprocessing | prismer.card.processing
    assert (rules["squashed_side"], rules["case"], rules["min_score"]) == (480, "lower", 0.8)
    assert "lower case" in prismer.card.spec.convention and "squashed_side" not in EasyOcr().card.preprocessing


def test_min_score_leaves_out_the_words_below(reading: EasyOcr) -> None:
    pixels = bars((190, 40, 40, 200, 80), (160, 300, 40, 460, 80))
    assert texts_of(read(reading, pixels)) == ["Dim", "ÉCOLE"]
    assert texts_of(read(with_options(reading), pixels)) == ["ÉCOLE"]
    assert texts_of(read(with_options(reading, min_score=0.75), pixels)) == []


def test_characters_of_other_languages_are_never_read(reading: EasyOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reading._reader
    assert reader is not None
    places = [reader._characters.index(char) + 1 for char in "É4"]
    monkeypatch.setattr(reader, "_unasked", torch.tensor(places))
    label = read(reading, bars((130, 40, 40, 200, 80), (160, 300, 40, 460, 80)))
    assert texts_of(label) == ["2h", "COLE"]


def test_the_detector_gets_red_first_and_black_beyond_the_photo(
    seeded: EasyOcr, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    assert seeded._reader is not None
    whole = seeded._reader._craft
    monkeypatch.setattr(seeded._reader, "_craft", lambda images: (seen.append(images), whole(images))[1])
    read(seeded, np.full((40, 50, 3), (255, 0, 127), np.uint8))
    pixels_3hw = seen[0][0] * torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1) + torch.tensor(
        (0.485, 0.456, 0.406)
    ).view(3, 1, 1)
    assert tuple(pixels_3hw.shape) == (3, 64, 64)
    np.testing.assert_allclose(pixels_3hw[:, 39, 49] * 255, (255, 0, 127), atol=1e-3)
    np.testing.assert_allclose(pixels_3hw[:, 40:, :], 0, atol=1e-5)
    np.testing.assert_allclose(pixels_3hw[:, :, 50:], 0, atol=1e-5)


def test_a_detector_that_overflows_is_not_taken_for_a_photo_without_words(
    seeded: EasyOcr, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seeded._reader is not None
    monkeypatch.setattr(seeded._reader, "_craft", lambda images: (torch.full((1, 32, 32, 2), torch.nan), None))
    with pytest.raises(ValueError, match="not finite"):
        seeded.label([photo_of(np.zeros((64, 64, 3), np.uint8))])


def theirs(expert: EasyOcr, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """easyocr's own Reader on the same files, without its conversion to 8 bits on a CPU."""
    import easyocr
    from easyocr import config

    for model, file in (
        (config.detection_models["craft"], "craft_mlt_25k.pth"),
        (config.recognition_models["gen2"]["english_g2"], "english_g2.pth"),
    ):
        found = hashlib.md5((expert.folder.path(expert.checkpoint) / file).read_bytes()).hexdigest()
        monkeypatch.setitem(model, "md5sum", found)
    return easyocr.Reader(
        ["en"],
        gpu=False,
        model_storage_directory=str(expert.folder.path(expert.checkpoint)),
        user_network_directory=str(folder),
        download_enabled=False,
        verbose=False,
        quantize=False,
    )


def lines_of(expert: EasyOcr, pixels: np.ndarray) -> list[tuple[str, list[float]]]:
    import cv2

    assert expert._reader is not None
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    lines = expert._reader.lines(torch.from_numpy(pixels), grey, side=2560)
    return sorted((line.text, line.corners_42.ravel().tolist()) for line in lines)


def lines_of_theirs(reader: Any, pixels: np.ndarray) -> list[tuple[str, list[float]]]:
    grey_as_rgb = np.ascontiguousarray(pixels)
    said = reader.readtext(grey_as_rgb)
    return sorted((text, np.asarray(box, float).ravel().tolist()) for box, text, _ in said if text.strip())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lines_are_those_of_easyocr(seeded: EasyOcr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On random weights that find and read much; grey pictures, since readtext takes an array for blue first."""
    reader = theirs(seeded, tmp_path, monkeypatch)
    found = 0
    for index in range(3, 7):
        pixels = render_uri(scene_uri(7, index, 96)).photo_HW3
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
        assert lines_of(seeded, pixels) == lines_of_theirs(reader, pixels)
        found += len(lines_of(seeded, pixels))
    assert found >= 4


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lines_of_what_is_found_and_read_are_those_of_easyocr(
    reading: EasyOcr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = theirs(reading, tmp_path, monkeypatch)
    assert reading._reader is not None
    reader.detector, reader.recognizer = reading._reader._craft, reading._reader._crnn
    reader.converter = type(reader.converter)(reading._reader._characters)
    pixels = bars((100, 60, 40, 260, 80), (130, 400, 42, 490, 80), (130, 40, 150, 240, 190), (190, 480, 150, 520, 190))
    ours = lines_of(reading, pixels)
    assert [text for text, _ in ours] == ["24h", "24h", "Dim", "Open Daily"]
    assert ours == lines_of_theirs(reader, pixels)


def test_strips_and_noise_are_labelled_in_time(seeded: EasyOcr) -> None:
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (1, 400), (400, 1), (10, 6000), (31, 33)):
        read(seeded, rng.integers(0, 256, (height, width, 3), np.uint8))


def test_a_batch_equals_its_singles_and_words_are_found(seeded: EasyOcr) -> None:
    photos = [photo_of(render_uri(scene_uri(7, index, 96)).photo_HW3) for index in (3, 4, 5)]
    batch = seeded.label(photos)
    assert all(label.status == "ok" for label in batch), (
        "seeded weights are scaled so that they find and read something"
    )
    for label, photo in zip(batch, photos, strict=True):
        (single,) = seeded.label([photo])
        assert isinstance(label.value, Words) and isinstance(single.value, Words)
        assert label.value.texts == single.value.texts
        np.testing.assert_array_equal(label.value.polygons_N42, single.value.polygons_N42)
        np.testing.assert_array_equal(label.value.scores_N, single.value.scores_N)


def test_release_leaves_nothing_of_the_networks(weights: Path) -> None:
    made = EasyOcr(weights_folder=str(weights))
    made.load("cpu")
    assert made._reader is not None
    held = [weakref.ref(network) for network in (made._reader._craft, made._reader._crnn)]
    made.release()
    gc.collect()
    assert [network() for network in held] == [None, None]


def test_loading_uses_no_network_and_says_nothing(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    made = EasyOcr(weights_folder=str(weights))
    made.load("cpu")
    read(made, np.zeros((64, 64, 3), np.uint8))
    assert capfd.readouterr() == ("", "")


def test_easyocr_leaves_the_environment_and_the_home_folder_as_they_are(weights: Path, tmp_path: Path) -> None:
    """Its import limits a cache of every network in the process, its Reader makes a folder in the user's home."""
    code = """
import os, sys
from expert_zoo.ocr.easy import EasyOcr
EasyOcr().card
assert not {"torch", "easyocr", "cv2"} & set(sys.modules)
os.environ["HOME"] = sys.argv[2]
EasyOcr(weights_folder=sys.argv[1]).load("cpu")
assert "easyocr" in sys.modules
print(os.environ.get("LRU_CACHE_CAPACITY"), os.listdir(sys.argv[2]))
"""
    assert run_python(code, str(weights), str(tmp_path)).split("\n")[0] == "None []"


def test_missing_and_foreign_weights_are_one_line(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^weights of ocr_easyocr are missing: [^\n]*weights fetch --experts ocr_easyocr[^\n]*$"
    ):
        EasyOcr(weights_folder=str(tmp_path / "none")).load("cpu")

    english, latin = recogniser_for(["en"]), recogniser_for(["fr"])
    at = weights / "easyocr-english_g2"
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "craft_mlt_25k.pth").symlink_to(at / "craft_mlt_25k.pth")
    (folder / "latin_g2.pth").symlink_to(at / "english_g2.pth")
    with pytest.raises(
        ValueError, match=r"^[^\n]*latin_g2.pth holds another network's weights: [^\n]*Prediction[^\n]*$"
    ):
        EasyOcrReader(folder=folder, recogniser=latin, languages=["fr"], device="cpu", half=False)

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    (folder / "english_g2.pth").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match=r"^[^\n]*english_g2.pth is no file of weights[^\n]*$"):
        EasyOcrReader(folder=folder, recogniser=english, languages=["en"], device="cpu", half=False)
    assert not (tmp_path / "harm").exists()


def test_files_in_pytorchs_old_format_without_counters_load_too(weights: Path, tmp_path: Path) -> None:
    """As CRAFT's published file was written."""
    at = weights / "easyocr-english_g2"
    for name in ("craft_mlt_25k.pth", "english_g2.pth"):
        values = torch.load(at / name, weights_only=True)
        old = {key: value for key, value in values.items() if not key.endswith("num_batches_tracked")}
        assert len(old) < len(values) and all(key.startswith("module.") for key in old)
        torch.save(old, tmp_path / name, _use_new_zipfile_serialization=False)
    reader = EasyOcrReader(folder=tmp_path, recogniser=RECOGNISERS[0], languages=["en"], device="cpu", half=False)
    assert not any(parameter.requires_grad for parameter in reader._craft.parameters())


def test_another_easyocr_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expert_zoo.ocr.easy_reader.EASYOCR", "1.6.0")
    with pytest.raises(
        ValueError, match=r"^ocr_easyocr: the installed easyocr is 1.7.2, the card's 1.6.0; install [^\n]*$"
    ):
        EasyOcr(weights_folder=str(weights)).load("cpu")


@pytest.mark.parametrize("recogniser", RECOGNISERS, ids=lambda recogniser: recogniser.name)
def test_the_table_says_what_easyocr_says(recogniser: easyocr_recognisers.Recogniser) -> None:
    from easyocr import config

    said = config.recognition_models[f"gen{recogniser.generation}"][recogniser.name]
    assert said["filename"] == recogniser.file == recogniser.weights.member == recogniser.weights.path
    assert said["url"] == recogniser.weights.url
    assert len(said["characters"]) + 1 == recogniser.classes
    assert recogniser.right_to_left == (said["model_script"] == "arabic")
    with torch.device("meta"):
        craft, crnn = networks(recogniser)
    assert sum(parameter.numel() for parameter in crnn.parameters()) == recogniser.parameters
    assert sum(parameter.numel() for parameter in craft.parameters()) == easyocr_recognisers.DETECTOR_PARAMETERS


def test_languages_decide_the_recogniser_as_in_easyocr() -> None:
    from easyocr import config

    known = [language for recogniser in RECOGNISERS for language in recogniser.languages.split()]
    without_characters = {"bgc", "mni", "sa"}  # easyocr names them, and cannot read them
    assert sorted(known) == sorted(set(config.all_lang_list) - without_characters)
    for language in config.all_lang_list:
        at = Path(config.BASE_PATH) / "character" / f"{language}_char.txt"
        assert at.is_file() != (language in without_characters)
    assert config.detection_models["craft"]["url"] == easyocr_recognisers.DETECTOR.url
    for languages, name in {
        ("en",): "english_g2",
        ("de",): "latin_g2",
        ("en", "fr"): "latin_g2",
        ("th",): "thai_g1",
        ("ch_sim", "en"): "zh_sim_g2",
        ("ar", "fa", "en"): "arabic_g1",
        ("ru",): "cyrillic_g2",
    }.items():
        assert recogniser_for(languages).name == name
    for wrong, said in ((["ja", "ko"], "one script"), (["de", "ru"], "one script"), (["klingon"], "unknown language")):
        with pytest.raises(ValueError, match=f"^ocr_easyocr: [^\n]*{said}[^\n]*$"):
            create("ocr_easyocr", options={"languages": wrong})


def test_options_are_checked_and_part_of_the_version(weights: Path) -> None:
    where = {"weights_folder": str(weights)}
    options: list[dict[str, Any]] = [
        {}, {"recipe": "prismer"}, {"min_score": 0.8}, {"detection_side": 640}, {"precision": "float32"},
    ]  # fmt: skip
    assert len({EasyOcr(**where, **one).card.version for one in options}) == len(options)
    french, both = EasyOcr(languages=["fr"]).card, EasyOcr(languages=["en", "fr"]).card
    assert len({french.version, both.version, EasyOcr().card.version}) == 3
    assert EasyOcr(languages=["fr", "en"]).card == both
    for wrong in (
        {"recipe": "worst"},
        {"min_score": 2},
        {"min_score": "high"},
        {"detection_side": 10},
        {"detection_side": 64.5},
        {"precision": "half"},
        {"languages": "en"},
        {"languages": []},
    ):
        with pytest.raises(ValueError, match="^ocr_easyocr: [^\n]*expected[^\n]*$"):
            create("ocr_easyocr", options=wrong)


def test_scripts_from_right_to_left_are_spelt_in_reading_order() -> None:
    arabic = EasyOcr(languages=["ar"])
    assert arabic.recogniser.right_to_left and not EasyOcr().recogniser.right_to_left
    assert arabic._spelt("\u0645\u0627\u0644\u0633") == "\u0633\u0644\u0627\u0645"  # salam, as seen from left to right
    assert EasyOcr()._spelt("Café") == "Café" and EasyOcr(recipe="prismer")._spelt("Café") == "café"


def test_photos_are_left_as_they_were(reading: EasyOcr) -> None:
    pixels = bars((130, 40, 40, 200, 80))
    photo = dataclasses.replace(Photo(image_id="a", uri="file:///a", pixels_HW3=pixels))
    kept = pixels.copy()
    pixels.setflags(write=False)
    with_options(reading, recipe="prismer").label([photo])
    reading.label([photo])
    assert np.array_equal(pixels, kept)
