"""The expert `detection_open`: prompts and their spans, transformers' own Grounding DINO, and what several prompts say of a photo."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from expert_zoo.catalog import create
from expert_zoo.classes import class_names
from expert_zoo.detection.class_prompts import class_prompts, prompt_text
from expert_zoo.detection.open_vocabulary import (
    MOST_BOXES,
    PARAMETERS,
    DetectionOpen,
    configuration,
    not_said_by_another,
)
from expert_zoo.expert import Photo
from expert_zoo.labels import Instances, Label
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD
from expert_zoo.networks.seeding import seed
from expert_zoo.networks.tokenizer_file import load_tokenizer, write_wordpiece

SIDE = 96
CLASSES = ("ball", "Traffic Light", "red box", "person", "cat")
#: Names of three letters, each of which the small tokenizer reads as three tokens.
MANY = tuple("".join(letters) for letters in itertools.product("abcdef", "ghijk", "mnopqrstuv"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    seed(["detection_open"], root=root, options={"detection_open": {"classes": ["ball"]}})
    return root


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_wordpiece(folder)
    return load_tokenizer(folder)


def made(weights: Path, **options: Any) -> DetectionOpen:
    defaults = {"weights_folder": str(weights), "side": SIDE, "classes": list(CLASSES)}
    expert = create("detection_open", options=defaults | options)
    assert isinstance(expert, DetectionOpen)
    return expert


def photo(height: int, width: int, seed: int = 0) -> Photo:
    """Smooth colours with a little noise: what resizes much as a photo does."""
    rng = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[0:height, 0:width]
    waves_HW3 = np.stack([np.sin(x_HW / 9 + k + seed) + np.cos(y_HW / (7 + k)) for k in range(3)], axis=2)
    pixels_HW3 = (127 + 55 * waves_HW3 + rng.normal(0, 4, waves_HW3.shape)).clip(0, 255).astype(np.uint8)
    return Photo(image_id="p", uri="file:///p.png", pixels_HW3=pixels_HW3)


def found(label: Label) -> Instances:
    assert isinstance(label.value, Instances), label
    return label.value


def theirs(expert: DetectionOpen) -> Any:
    """transformers' own network, of which nothing is replaced."""
    from transformers import GroundingDinoForObjectDetection

    folder = expert.folder.path(expert.checkpoint)
    return GroundingDinoForObjectDetection.from_pretrained(folder, local_files_only=True).eval()


def processor(expert: DetectionOpen) -> Any:
    from transformers import BertTokenizer, GroundingDinoImageProcessor, GroundingDinoProcessor

    images = GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 160})
    words = BertTokenizer.from_pretrained(expert.folder.path(expert.checkpoint), local_files_only=True)
    return GroundingDinoProcessor(image_processor=images, tokenizer=words)


# Prompts


def test_a_prompt_is_the_text_that_transformers_makes_of_the_classes(weights: Path, tokenizer: Tokenizer) -> None:
    (prompt,) = class_prompts("x", CLASSES, tokenizer, longest=256)
    expected = processor(made(weights))(text=[list(CLASSES)], return_tensors="pt").input_ids[0].tolist()
    assert list(prompt.token_ids) == expected
    spans = [tokenizer.decode(list(prompt.token_ids[begin:end])) for _, begin, end in prompt.spans]
    assert spans == ["ball", "traffic light", "red box", "person", "cat"]


def test_shares_are_the_mean_over_a_classs_own_tokens(tokenizer: Tokenizer) -> None:
    (prompt,) = class_prompts("x", ["cat", "traffic light"], tokenizer, longest=256)
    expected_CT = [[0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5, 0, 0]]  # [CLS] cat . traffic light . [SEP]
    assert prompt.shares_CT().tolist() == expected_CT


def test_three_hundred_classes_make_prompts_that_are_as_full_as_can_be(tokenizer: Tokenizer) -> None:
    prompts = class_prompts("x", MANY, tokenizer, longest=256)
    assert len(prompts) == 5
    assert [class_id for prompt in prompts for class_id, _, _ in prompt.spans] == list(range(300))
    for prompt in prompts:
        assert prompt.token_ids[0] == 101 and prompt.token_ids[-2:] == (1012, 102)
        for class_id, begin, end in prompt.spans:
            assert tokenizer.decode(list(prompt.token_ids[begin:end])) == MANY[class_id]
    sizes = [len(prompt.token_ids) for prompt in prompts]
    assert max(sizes) <= 256 and min(sizes[:-1]) > 256 - 4  # each class is three tokens and a full stop


def test_a_class_that_just_fits_and_one_that_does_not(tokenizer: Tokenizer) -> None:
    (prompt,) = class_prompts("x", ["a b c d e"], tokenizer, longest=8)
    assert len(prompt.token_ids) == 8
    with pytest.raises(ValueError, match="has 6 tokens; expected at most 5"):
        class_prompts("x", ["a b c d e f"], tokenizer, longest=8)


def test_a_class_that_makes_a_prompt_one_token_too_long_begins_the_next(tokenizer: Tokenizer) -> None:
    counts = []
    for classes in (["a b", "c d"], ["a b", "c d e"]):
        counts.append([len(prompt.token_ids) for prompt in class_prompts("x", classes, tokenizer, longest=8)])
    assert counts == [[8], [5, 6]]


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        (["cat", "猫"], "no word for class '猫'"),
        (["cat", "\u200b"], "no word for class"),
        (["café", "cafe"], "reads classes 'café' and 'cafe' as one"),
    ],
)
def test_classes_that_the_network_cannot_read_are_refused(classes: list[str], why: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=why):
        class_prompts("x", classes, tokenizer, longest=256)


def test_another_networks_tokenizer_is_refused() -> None:
    from tokenizers import models

    with pytest.raises(ValueError, match=r"the tokenizer has '\[CLS\]' as None, expected 101"):
        class_prompts("x", ["cat"], Tokenizer(models.WordPiece({"cat": 0, "[UNK]": 1})), longest=256)


def test_full_stops_do_not_part_a_class() -> None:
    assert prompt_text("  St. Bernard?\tdog ") == "st bernard dog"


# The network


def test_boxes_scores_and_classes_are_those_of_transformers_own_network(weights: Path) -> None:
    """By hand from its logits: the mean over each class's tokens, the best class, nothing suppressed in one prompt."""
    expert, one = made(weights, min_score=0.25), photo(120, 160)
    (prompt,) = class_prompts("x", CLASSES, load_tokenizer(expert.folder.path(expert.checkpoint)), longest=256)
    images_13hw = expert.inputs([one], (SIDE, 128))
    with torch.inference_mode():
        out = theirs(expert)(pixel_values=images_13hw, input_ids=torch.tensor([prompt.token_ids]))
    tokens_QT = out.logits[0].sigmoid().numpy()
    scores_QC = np.stack([tokens_QT[:, begin:end].mean(axis=1) for _, begin, end in prompt.spans], axis=1)
    best_Q = scores_QC.max(axis=1)
    order = [query for query in np.argsort(-best_Q) if best_Q[query] >= 0.25]
    ours = found(expert.label([one])[0])
    assert 3 < len(order) < 30 and len(ours.scores_N) == len(order)
    assert np.allclose(ours.scores_N, best_Q[order], atol=1e-5)
    assert ours.class_ids_N.tolist() == scores_QC.argmax(axis=1)[order].tolist()
    x, y, w, h = out.pred_boxes[0].numpy()[order].T
    corners_N4 = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1).clip(0, 1) * [160, 120, 160, 120]
    assert np.abs(ours.boxes_N4 - corners_N4).max() < 1e-2


def test_phrases_of_one_token_are_those_of_transformers_own_processor(weights: Path) -> None:
    """Its phrase is made of all tokens over the threshold; where that is one class's only token, both must say the same."""
    names = ["ball", "box", "person", "cat", "dog"]
    expert, one = made(weights, classes=names, min_score=0.0), photo(120, 160)
    images_13hw = expert.inputs([one], (SIDE, 128))
    both = processor(expert)
    text = both(text=[names], return_tensors="pt")
    with torch.inference_mode():
        out = theirs(expert)(pixel_values=images_13hw, **text)
        out.logits[
            ..., [0, 2, 4, 6, 8, 10, 11]
        ] = -torch.inf  # delimiters, which are no class, may have the highest score
    compared = 0
    ours = found(expert.label([one])[0])
    for threshold in (0.2, 0.3, 0.4, 0.5):
        (expected,) = both.post_process_grounded_object_detection(
            out, text.input_ids, threshold=threshold, text_threshold=threshold, target_sizes=[(120, 160)]
        )
        for box, score, phrase in zip(expected["boxes"], expected["scores"], expected["text_labels"], strict=True):
            if phrase in names:
                place = int(np.abs(ours.scores_N - float(score)).argmin())
                assert ours.scores_N[place] == pytest.approx(float(score), abs=1e-5)
                assert names[ours.class_ids_N[place]] == phrase
                inside = box.numpy().clip(0, [160, 120, 160, 120])
                assert np.abs(ours.boxes_N4[place] - inside).max() < 1e-2
                compared += 1
    assert compared > 5


def test_many_prompts_say_what_each_would_say_alone_and_the_photo_is_seen_once(weights: Path) -> None:
    expert, photos = made(weights, classes=list(MANY)), [photo(96, 128, 1), photo(120, 160, 2)]
    expert.load("cpu")
    network, whole = expert._network, theirs(expert)
    seen: list[int] = []
    network.image_backbone.part.register_forward_hook(lambda *_: seen.append(1))
    images_23hw = expert.inputs(photos, (SIDE, 128))
    with torch.inference_mode():
        found_2N7 = network(images_23hw)
        assert len(seen) == 1 and network.prompts == 5
        prompts = class_prompts("x", MANY, load_tokenizer(expert.folder.path(expert.checkpoint)), longest=256)
        for n, prompt in enumerate(prompts):
            rows_2Q7 = found_2N7[:, 30 * n : 30 * (n + 1)]
            out = whole(pixel_values=images_23hw, input_ids=torch.tensor([prompt.token_ids] * 2))
            shares_CT = torch.from_numpy(prompt.shares_CT())
            scores_2QC = out.logits[..., : len(prompt.token_ids)].sigmoid() @ shares_CT.T
            assert torch.allclose(rows_2Q7[..., :4], out.pred_boxes, atol=1e-5)
            assert torch.allclose(rows_2Q7[..., 4], scores_2QC.amax(dim=2), atol=1e-5)
            assert torch.equal(rows_2Q7[..., 5].long(), scores_2QC.argmax(dim=2) + prompt.spans[0][0])
            assert (rows_2Q7[..., 6] == n).all()


def test_a_failure_between_two_prompts_leaves_nothing_of_the_photo_behind(weights: Path) -> None:
    """As an out-of-memory error does: the next photos are not answered with what was seen of these."""
    expert, one, other = made(weights, classes=list(MANY), min_score=0.0), photo(96, 128, 1), photo(96, 128, 2)
    expected = found(expert.label([other])[0])
    network = expert._network

    def fail(*_: object) -> None:
        raise MemoryError("once")

    hook = network.detector.model.decoder.register_forward_hook(fail)
    with pytest.raises(MemoryError):
        expert.label([one])
    hook.remove()
    assert np.array_equal(found(expert.label([other])[0]).boxes_N4, expected.boxes_N4)


def test_the_input_is_that_of_transformers_own_processor(weights: Path) -> None:
    """Up to one grey level, on shapes whose sides come out as multiples of 32."""
    expert = made(weights)
    for size in ((120, 160), (160, 120), (300, 500)):
        one = photo(*size)
        ours_3hw = expert.inputs([one], expert.preprocess.size(*size))[0].numpy()
        images = processor(expert).image_processor(one.pixels_HW3, return_tensors="pt")
        expected_3hw = images.pixel_values[0].numpy()
        assert ours_3hw.shape == expected_3hw.shape
        assert np.abs(ours_3hw - expected_3hw).max() < 1.1 / 255 / min(IMAGENET_STD)
    assert expert.preprocess.mean == IMAGENET_MEAN


def test_the_size_of_the_input() -> None:
    rules = DetectionOpen(classes=["cat"]).preprocess
    assert rules.size(480, 640) == (800, 1056) and rules.size(640, 480) == (1056, 800)
    assert rules.size(400, 1600) == (320, 1344)


# What several prompts say of one photo


def planted(expert: DetectionOpen, rows: list[list[float]]) -> None:
    expert._network = lambda images: torch.tensor([rows])


def test_a_planted_box_is_found_where_it_was_planted(weights: Path) -> None:
    expert = made(weights, min_score=0.3)
    planted(
        expert, [[0.5, 0.25, 0.2, 0.1, 0.4, 4, 0], [0.0, 1.0, 0.5, 0.5, 0.9, 2, 0], [0.5, 0.5, 0.1, 0.1, 0.29, 1, 0]]
    )
    ours = found(expert.label([photo(100, 200)])[0])
    assert np.allclose(ours.boxes_N4, [[0, 75, 50, 100], [80, 20, 120, 30]], atol=1e-3)
    assert ours.class_ids_N.tolist() == [2, 4] and np.allclose(ours.scores_N, [0.9, 0.4])


def test_a_network_that_overflows_is_not_taken_for_a_photo_without_things(weights: Path) -> None:
    expert = made(weights)
    planted(expert, [[0.5, 0.5, 0.2, 0.1, 0.4, 4, 0], [0.5, 0.5, 0.2, 0.1, float("nan"), 2, 0]])
    (label,) = expert.label([photo(100, 200)])
    assert label.status == "failed" and label.reason.startswith("not finite: ")


def test_of_two_prompts_that_say_one_box_the_better_one_is_believed(weights: Path) -> None:
    expert = made(weights, min_score=0.3)
    cat = [0.5, 0.5, 0.4, 0.4, 0.8, 4, 1]
    same_prompt = [0.5, 0.5, 0.4, 0.41, 0.7, 4, 1]
    same_box = [0.5, 0.5, 0.41, 0.4, 0.6, 3, 0]
    beside = [0.6, 0.5, 0.4, 0.4, 0.5, 2, 0]
    planted(expert, [beside, same_box, same_prompt, cat])
    ours = found(expert.label([photo(100, 100)])[0])
    assert ours.scores_N.tolist() == pytest.approx([0.8, 0.7, 0.5]) and ours.class_ids_N.tolist() == [4, 4, 2]


def test_what_is_dropped_drops_nothing() -> None:
    """A over B over C, each over the next by 0.86 and A over C by 0.74: B goes, C stays."""
    boxes_N4 = np.array([[0.50, 0.5, 0.4, 0.4], [0.53, 0.5, 0.4, 0.4], [0.56, 0.5, 0.4, 0.4]], np.float32)
    assert not_said_by_another(boxes_N4, np.array([0, 1, 2])).tolist() == [True, False, True]
    assert not_said_by_another(boxes_N4, np.array([0, 0, 0])).all()
    assert not_said_by_another(boxes_N4[:0], np.array([])).tolist() == []


def test_no_photo_has_more_than_the_best_boxes(weights: Path) -> None:
    expert = made(weights, min_score=0.0)
    scores = np.random.default_rng(0).permutation(400) / 400
    planted(
        expert, [[(n % 20) / 20 + 0.02, n // 20 / 20 + 0.02, 0.01, 0.01, s, 0, n % 7] for n, s in enumerate(scores)]
    )
    ours = found(expert.label([photo(50, 50)])[0])
    assert len(ours.scores_N) == MOST_BOXES and np.allclose(ours.scores_N, np.sort(scores)[::-1][:MOST_BOXES])


# Options and card


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ([], "expected a list of 1 to 1000"),
        ("cat", "classes is a str"),
        (["cat"] + [f"class {n}" for n in range(1000)], "a list of 1001; expected a list of 1 to 1000"),
        (["cat", True], "class True is no name"),
        (["cat", " "], "class ' ' is no name"),
        (["cat", "dog", "Cat "], "classes 'cat' and 'Cat ' are one"),
    ],
)
def test_class_lists_that_make_no_sense_are_refused(classes: Any, why: str, weights: Path) -> None:
    with pytest.raises(ValueError, match=why):
        made(weights, classes=classes)


@pytest.mark.parametrize("options", [{"size": "huge"}, {"min_score": -0.1}, {"side": "800"}, {"side": 4}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], weights: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        made(weights, **options)


def test_without_a_class_list_it_looks_for_coco_s_things(weights: Path) -> None:
    expert = create("detection_open", options={"weights_folder": str(weights)})
    assert expert.card.spec.class_names == class_names("coco")


def test_a_side_with_fewer_cells_than_queries_is_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match="side 32 has 22 cells, fewer than the 30 queries"):
        made(weights, side=32).load("cpu")


def test_the_class_list_is_part_of_the_version(weights: Path) -> None:
    lists = (["cat", "dog"], ["dog", "cat"], ["cat", "dog", "ball"])
    assert len({made(weights, classes=classes).card.version for classes in lists}) == 3
    assert made(weights, classes=[" Traffic Light "]).card.spec.class_names == ("Traffic Light",)


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_full_network_has_the_parameters_of_the_card(size: str) -> None:
    from transformers import GroundingDinoForObjectDetection

    with torch.device("meta"):
        network = GroundingDinoForObjectDetection(configuration(size, small=False, tokens=0))
    assert sum(one.numel() for one in network.parameters()) == DetectionOpen(classes=["cat"], size=size).card.parameters
