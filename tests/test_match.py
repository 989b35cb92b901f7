"""The expert `match`: one probability per caption, that of transformers' own networks, whatever the caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expert_zoo.catalog import create
from expert_zoo.expert import Photo
from expert_zoo.labels import Label, Scores
from expert_zoo.language import blip
from expert_zoo.language.match import JUDGES, Match, siglip_configuration
from expert_zoo.networks.seeding import seed

SIDE = 96
CAPTIONS = ("a red ball on the table", "Two dogs", "a traffic light, a street, and the sky")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for network in JUDGES:
        seed(["match"], root=root, options={"match": {"network": network}})
    return root


@pytest.fixture(params=JUDGES)
def expert(request: pytest.FixtureRequest, weights: Path) -> Match:
    return made(weights, network=request.param)


def made(weights: Path, **options: Any) -> Match:
    expert = create("match", options={"weights_folder": str(weights), "side": SIDE} | options)
    assert isinstance(expert, Match)
    return expert


def photo(seed: int, captions: Sequence[str] = CAPTIONS) -> Photo:
    rng = np.random.default_rng(seed)
    grain_HW3 = rng.normal(rng.integers(40, 200, 3), rng.integers(5, 60), (80, 120, 3))
    pixels_HW3 = grain_HW3.clip(0, 255).astype(np.uint8)
    return Photo(image_id=f"p{seed}", uri="file:///p.png", pixels_HW3=pixels_HW3, captions=tuple(captions))


def scores(label: Label) -> np.ndarray:
    assert isinstance(label.value, Scores), label
    return label.value.values_N


def score_of(expert: Match, caption: str, seed: int = 0) -> float:
    return float(scores(expert.label([photo(seed, [caption])])[0])[0])


def theirs(expert: Match) -> Any:
    from transformers import BlipForImageTextRetrieval, SiglipModel

    kind = BlipForImageTextRetrieval if expert.network == "blip" else SiglipModel
    return kind.from_pretrained(expert.folder.path(expert.checkpoint), local_files_only=True).eval()


def test_blips_scores_are_those_of_transformers_own_network(weights: Path) -> None:
    """Each caption by itself and without padding, [ENC] in front, as its tokenizer reads it when its marks are gone."""
    from transformers import BertTokenizer

    expert, one = made(weights), photo(0)
    network = theirs(expert)
    words = BertTokenizer.from_pretrained(expert.folder.path(expert.checkpoint), local_files_only=True)
    expected = []
    for caption in CAPTIONS:
        text = words(caption, return_tensors="pt")
        text.input_ids[:, 0] = network.config.text_config.vocab_size - 1
        with torch.inference_mode():
            out = network(
                pixel_values=expert.inputs([one], (SIDE, SIDE)),
                input_ids=text.input_ids,
                attention_mask=text.attention_mask,
                use_itm_head=True,
                interpolate_pos_encoding=True,
            )
        expected.append(float(out.itm_score.softmax(dim=1)[0, 1]))
    ours = scores(expert.label([one])[0])
    assert np.allclose(ours, expected, atol=1e-5) and np.ptp(ours) > 0.01


def test_siglips_scores_are_those_of_transformers_own_network(weights: Path) -> None:
    """With the tokenizer's own end and padding, of which the text is full up to its 64th token."""
    from transformers import PreTrainedTokenizerFast

    expert, one = made(weights, network="siglip2"), photo(0)
    folder = expert.folder.path(expert.checkpoint)
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>")
    text = words([c.lower() for c in CAPTIONS], padding="max_length", max_length=64, return_tensors="pt")
    assert text.input_ids.shape == (3, 64)
    with torch.inference_mode():
        out = theirs(expert)(
            pixel_values=expert.inputs([one], (SIDE, SIDE)), input_ids=text.input_ids, interpolate_pos_encoding=True
        )
    ours = scores(expert.label([one])[0])
    assert np.allclose(ours, out.logits_per_image[0].sigmoid(), atol=1e-5) and np.ptp(ours) > 1e-3


def test_siglips_input_is_that_of_transformers_own_processor(weights: Path) -> None:
    from transformers import SiglipImageProcessor

    expert, one = made(weights, network="siglip2"), photo(0)
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, resample=2)
    expected_3hw = images(one.pixels_HW3, return_tensors="pt").pixel_values[0].numpy()
    assert np.abs(expert.inputs([one], (SIDE, SIDE))[0].numpy() - expected_3hw).max() < 1.1 * 2 / 255


def test_every_photo_gets_its_own_captions_scores_in_their_order(expert: Match) -> None:
    numbers = [(0, 3), (1, 0), (2, 1), (3, 5), (4, 0)]
    captions = ("a cat", "a dog", "two red balls", "a wall of blue boxes", "the sky in the street")
    many = [photo(number, captions[:count]) for number, count in numbers]
    labels = expert.label(many)
    assert [label.status for label in labels] == ["ok", "empty", "ok", "ok", "empty"]
    for (number, count), label in zip(numbers, labels, strict=True):
        if count:
            expected = [score_of(expert, caption, number) for caption in captions[:count]]
            assert np.allclose(scores(label), expected, atol=1e-5)
    turned = scores(expert.label([photo(3, captions[::-1])])[0])
    assert np.allclose(turned, scores(labels[3])[::-1], atol=1e-5) and np.ptp(turned) > 1e-3


def test_a_photo_is_seen_once_and_not_at_all_without_captions(expert: Match) -> None:
    expert.load("cpu")
    seen: list[int] = []
    vision = expert._network.network.vision_model
    vision.register_forward_pre_hook(lambda _, __, given: seen.append(len(given["pixel_values"])), with_kwargs=True)
    expert.label([photo(0), photo(1, []), photo(2, ["a"] * 7)])
    assert seen == [2]
    expert.label([photo(1, [])])
    assert seen == [2]


def test_more_captions_than_go_through_the_network_together(expert: Match) -> None:
    captions = [f"{n} boxes" for n in range(150)]
    together = scores(expert.label([photo(0, captions)])[0])
    assert together.shape == (150,) and together.dtype == np.float32
    for n in (0, 31, 32, 127, 128, 149):
        assert together[n] == pytest.approx(score_of(expert, captions[n]), abs=1e-5)


STRANGE = (
    "",
    "   \n\t",
    "猫がテーブルの上にいる",
    "кошка на столе",
    "قطة",
    "🐈",
    "\u200b",
    "a" * 5000,
    "cat " * 5000,
    "[SEP] <eos>",
)


def test_any_text_has_a_score(expert: Match) -> None:
    """Neither an empty one nor one in another script nor a very long one fails its photo."""
    found = scores(expert.label([photo(0, STRANGE)])[0])
    assert found.shape == (len(STRANGE),) and ((found > 0) & (found < 1)).all()


def test_a_long_caption_is_read_to_the_last_token_that_fits(expert: Match) -> None:
    most = {"blip": 33, "siglip2": 32}[
        expert.network
    ]  # of siglip's pieces a word here has two, with the blank before it
    full = " ".join(["cat"] * most)
    assert score_of(expert, f"{full} dog dog red wall") == score_of(expert, f"{full} person in a street")
    assert score_of(expert, f"{full[:-4]} dog") != score_of(expert, f"{full[:-4]} wall")


def test_case_is_nothing_and_scripts_are_told_apart_where_the_tokenizer_has_them(weights: Path) -> None:
    for network in JUDGES:
        expert = made(weights, network=network)
        assert score_of(expert, "A Red BALL") == score_of(expert, "a red ball") != score_of(expert, "a blue ball")
    siglip = made(weights, network="siglip2")
    assert score_of(siglip, "猫") != score_of(siglip, "犬")


def test_a_special_token_in_a_caption_is_text(weights: Path) -> None:
    """Else a caption could end itself, or hide its words as padding."""
    siglip = made(weights, network="siglip2")
    siglip.load("cpu")
    tokens = siglip._tokens("a<eos><pad>b")
    end = tokens.index(1)
    assert end > 8 and set(tokens[end + 1 :]) == {0} and 0 not in tokens[:end]


def test_sentence_marks_are_nothing_to_blip(weights: Path) -> None:
    expert = made(weights)
    assert score_of(expert, 'A cat; "a dog"!') == score_of(expert, "a cat a dog")
    assert score_of(expert, "a cat, a dog") != score_of(expert, "a cat a dog")


def test_a_generated_caption_is_judged_beside_the_others(expert: Match) -> None:
    """As a later step does that keeps the better one: the photo with one caption more."""
    one = photo(0)
    before = scores(expert.label([one])[0])
    after = scores(expert.label([replace(one, captions=(*one.captions, "a dog in front of a wall"))])[0])
    assert np.allclose(after[:3], before, atol=1e-5) and after.shape == (4,)


@pytest.mark.parametrize("options", [{"network": "clip"}, {"side": 4}, {"precision": "half"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], weights: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        made(weights, **options)


def test_the_two_networks_fill_two_columns(weights: Path) -> None:
    cards = [made(weights, network=network).card for network in JUDGES]
    assert cards[0].version != cards[1].version and cards[0].spec == cards[1].spec


def test_the_full_networks_have_the_parameters_of_their_cards() -> None:
    from transformers import BlipForImageTextRetrieval, SiglipModel

    with torch.device("meta"):
        networks = {
            "blip": BlipForImageTextRetrieval(blip.configuration(small=False, tokens=0)),
            "siglip2": SiglipModel(siglip_configuration(small=False, tokens=0)),
        }
    for name, network in networks.items():
        assert sum(one.numel() for one in network.parameters()) == Match(network=name).card.parameters


def test_a_generated_text_is_scored_after_the_captions(weights: Path) -> None:
    plain, expert = made(weights), made(weights, also="caption@0123456789")
    assert expert.reads == ("caption@0123456789",) and plain.reads == ()
    assert plain.card.version == made(weights, also=None).card.version
    assert len({e.card.version for e in (plain, expert, made(weights, also="caption@9876543210"))}) == 3
    said, unsaid, bare, nothing = photo(0), photo(0), photo(1, ()), photo(2, ())
    said.said["caption@0123456789"] = "a blue wall"
    bare.said["caption@0123456789"] = "a blue wall"
    labels = expert.label([said, unsaid, bare, nothing])
    wanted = [*scores(plain.label([photo(0)])[0]), score_of(plain, "a blue wall")]
    assert scores(labels[0]) == pytest.approx(wanted, abs=1e-5)
    assert scores(labels[1]) == pytest.approx(wanted[:3], abs=1e-5)
    assert scores(labels[2]) == pytest.approx([score_of(plain, "a blue wall", 1)], abs=1e-5)
    assert labels[3].status == "empty"
    with pytest.raises(ValueError, match="match: also is ''"):
        made(weights, also="")


def test_a_job_fills_in_the_version_of_whom_it_reads(tmp_path: Path) -> None:
    from jobs.job import load_job
    from pipeline.errors import JobError

    seed(["match", "caption"], root=tmp_path / "weights")
    job = tmp_path / "job.yaml"
    lines = (
        f"store: {tmp_path}/s\nimages: [{{source: scenes, count: 1, seed: 0}}]\nweights: {tmp_path}/weights\nexperts:\n"
    )
    job.write_text(lines + "  - match: {also: caption}\n  - caption: {beams: 2}\n")
    judge, writer = load_job(str(job)).create_experts()
    assert judge.reads == (writer.card.column,) and judge.card.processing["also"] == writer.card.column
    job.write_text(lines + "  - match: {also: caption}\n")
    with pytest.raises(JobError, match="match reads what caption says; name caption among the experts too"):
        load_job(str(job))
    job.write_text(lines + f"  - match: {{also: {writer.card.column}}}\n")
    assert load_job(str(job)).create_experts()[0].card.version == judge.card.version
