"""The expert `caption`: what transformers' own BLIP writes after the prompt, and the log-probability of exactly that."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expert_zoo.catalog import create
from expert_zoo.expert import Photo
from expert_zoo.labels import Label, Text
from expert_zoo.language import blip
from expert_zoo.language.caption import LONGEST, PROMPT, SHORTEST, Caption
from expert_zoo.networks.seeding import seed

SIDE = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    seed(["caption"], root=root)
    return root


def made(weights: Path, **options: Any) -> Caption:
    expert = create("caption", options={"weights_folder": str(weights), "side": SIDE} | options)
    assert isinstance(expert, Caption)
    return expert


def photos(count: int) -> list[Photo]:
    """Photos of many shapes, every one of another colour and grain."""
    rng = np.random.default_rng(0)
    made_of = []
    for n in range(count):
        height, width = rng.integers(20, 200, 2)
        grain_HW3 = rng.normal(rng.integers(40, 200, 3), rng.integers(1, 60), (height, width, 3))
        pixels_HW3 = grain_HW3.clip(0, 255).astype(np.uint8)
        made_of.append(Photo(image_id=f"p{n}", uri=f"file:///p{n}.png", pixels_HW3=pixels_HW3))
    return made_of


def said(label: Label) -> Text:
    assert isinstance(label.value, Text), label
    return label.value


def theirs(expert: Caption) -> Any:
    from transformers import BlipForConditionalGeneration

    folder = expert.folder.path(expert.checkpoint)
    return BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


def processor(expert: Caption) -> Any:
    from transformers import BertTokenizer, BlipImageProcessor, BlipProcessor

    words = BertTokenizer.from_pretrained(expert.folder.path(expert.checkpoint), local_files_only=True)
    return BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), words)


def written(expert: Caption, one: Photo, **search: Any) -> Any:
    """What transformers' own network generates from the prompt, with its scores."""
    network, both = theirs(expert), processor(expert)
    ids = both.tokenizer(PROMPT, return_tensors="pt").input_ids
    return network.generate(
        pixel_values=expert.inputs([one], (SIDE, SIDE)),
        input_ids=ids,
        interpolate_pos_encoding=True,
        do_sample=False,
        max_length=LONGEST,
        min_length=SHORTEST,
        return_dict_in_generate=True,
        output_scores=True,
        **search,
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_transformers_own_network(beams: int, weights: Path) -> None:
    expert = made(weights, beams=beams)
    texts = set()
    for one in photos(6):
        expected = written(expert, one, num_beams=beams)
        text = processor(expert).decode(expected.sequences[0], skip_special_tokens=True)
        assert text.startswith(PROMPT)
        ours = said(expert.label([one])[0])
        assert ours.text == text.removeprefix(PROMPT).strip()
        texts.add(ours.text)
    assert len(texts) > 3


def test_the_log_probability_is_that_of_the_search(weights: Path) -> None:
    """The search ranks by the sum over all tokens it wrote, the end included, over their number."""
    expert = made(weights)
    ended = 0
    for one in photos(6):
        expected = written(expert, one, num_beams=3)
        count = int((expected.sequences[0, 4:] != 0).sum())  # [DEC] a picture of; padding is 0
        ended += int(expected.sequences[0, -1] == blip.SEP)
        ours = said(expert.label([one])[0])
        assert ours.log_prob == pytest.approx(float(expected.sequences_scores[0]) * count, abs=1e-4)
        assert ours.log_prob < -1
    assert ended > 1


def test_the_log_probability_is_the_product_of_every_words_share(weights: Path) -> None:
    """Token by token, each from all before it, by the definition; a caption cut off at the longest has no end to count."""
    expert = made(weights)
    network = theirs(expert)
    for one in photos(8):
        tokens = written(expert, one, num_beams=3).sequences[0]
        images_13hw = expert.inputs([one], (SIDE, SIDE))
        product = 1.0
        for place in range(4, len(tokens)):
            with torch.inference_mode():
                out = network(pixel_values=images_13hw, input_ids=tokens[None, :place], interpolate_pos_encoding=True)
            product *= float(out.logits[0, -1].softmax(dim=0)[tokens[place]])
        assert said(expert.label([one])[0]).log_prob == pytest.approx(math.log(product), abs=1e-3)


def test_a_photo_has_one_caption_whatever_its_batch(weights: Path) -> None:
    """Captions of many lengths end at different steps of one search."""
    expert, all_of_them = made(weights), photos(24)
    together = [said(label) for label in expert.label(all_of_them)]
    singles = [said(expert.label([one])[0]) for one in all_of_them]
    assert [one.text for one in together] == [one.text for one in singles]
    assert np.allclose([one.log_prob for one in together], [one.log_prob for one in singles], atol=1e-4)
    assert len({len(one.text.split()) for one in together}) > 3


def test_the_decoder_begins_with_the_prompt_and_the_caption_does_not_have_it(weights: Path) -> None:
    expert = made(weights)
    expert.load("cpu")
    network = expert._network
    begin = network.begin_1S[0].tolist()
    assert begin[0] == network.network.config.text_config.bos_token_id
    assert processor(expert).tokenizer.convert_ids_to_tokens(begin[1:]) == ["a", "picture", "of"]
    assert not any(said(label).text.startswith("a picture") for label in expert.label(photos(6)))


def test_nothing_but_special_tokens_is_empty(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = made(weights)
    expert.load("cpu")
    ends = (torch.tensor([[102, 0, 0], [1037, 102, 0]]), torch.tensor([-0.5, -1.5]))
    monkeypatch.setattr(type(expert._network), "write", lambda *_: ends)
    first, second = expert.label(photos(2))
    assert first.status == "empty" and said(second) == Text("a", -1.5)


def test_nothing_after_the_end_counts(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = made(weights)
    expert.load("cpu")
    network = expert._network
    seen_1PD = network(expert.inputs(photos(1), (SIDE, SIDE)))
    begin = network.begin_1S[0].tolist()
    sums = []
    for tail in ([102], [102, 0, 0], [102, 1037, 102]):
        tokens_1S = torch.tensor([[*begin, 1040, *tail]])
        monkeypatch.setattr(network.network.text_decoder, "generate", lambda tokens=tokens_1S, **_: tokens)
        sums.append(float(network.write(seen_1PD)[1]))
    assert sums[0] == pytest.approx(sums[1], abs=1e-5) == pytest.approx(sums[2], abs=1e-5)


@pytest.mark.parametrize("size", [(120, 160), (300, 61)])
def test_the_input_is_that_of_transformers_own_processor(size: tuple[int, int], weights: Path) -> None:
    """Up to little more than one grey level: it rounds between its two passes of a bicubic that overshoots."""
    y_HW, x_HW = np.mgrid[0 : size[0], 0 : size[1]]
    waves_HW3 = np.stack([np.sin(x_HW / 9 + k) + np.cos(y_HW / (7 + k)) for k in range(3)], axis=2)
    one = Photo(image_id="p", uri="file:///p.png", pixels_HW3=(127 + 55 * waves_HW3).astype(np.uint8))
    expert = made(weights)
    ours_3hw = expert.inputs([one], expert.preprocess.size(*size))[0].numpy()
    expected_3hw = processor(expert).image_processor(one.pixels_HW3, return_tensors="pt").pixel_values[0].numpy()
    assert ours_3hw.shape == expected_3hw.shape == (3, SIDE, SIDE)
    assert np.abs(ours_3hw - expected_3hw).max() < 1.5 / 255 / min(blip.CLIP_STD)
    assert Caption().preprocess.size(333, 500) == (384, 384)


def test_pickled_weights_serve_where_there_are_no_others(weights: Path, tmp_path: Path) -> None:
    """Some repositories carry pytorch_model.bin alone; it is read as weights and nothing else."""
    import shutil

    from safetensors.torch import load_file

    shutil.copytree(weights, tmp_path / "weights")
    expert = made(tmp_path / "weights")
    folder = expert.folder.path(expert.checkpoint)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    expert.folder.record(expert.checkpoint, source="seeded random weights")
    (one,) = photos(1)
    assert said(made(tmp_path / "weights").label([one])[0]) == said(made(weights).label([one])[0])


@pytest.mark.parametrize("options", [{"beams": 0}, {"beams": 17}, {"beams": 2.0}, {"beams": True}, {"side": 4}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], weights: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        made(weights, **options)


def test_what_decides_a_caption_is_part_of_the_version(weights: Path) -> None:
    assert len({made(weights, **options).card.version for options in ({}, {"beams": 4}, {"side": 112})}) == 3


def test_the_full_network_has_the_parameters_of_the_card() -> None:
    """And the published file its bytes: 1.88 GB, with the output matrix stored a second time."""
    from transformers import BlipForConditionalGeneration

    with torch.device("meta"):
        network = BlipForConditionalGeneration(blip.configuration(small=False, tokens=0))
    parameters = sum(one.numel() for one in network.parameters())
    assert parameters == Caption().card.parameters
    assert round(4 * (parameters + 30524 * 768) / 1e9, 2) == 1.88
