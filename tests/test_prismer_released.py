"""Prismer is its authors' network, and loads their twelve checkpoints and nothing else.

tests/data/prismer_keys.json: names and shapes in the state dicts of the authors' code (github.com/NVlabs/prismer, 4f27ab3), in
their order, for BASE and LARGE with six experts at 480 pixels; PrismerZ has the same but for `Z_LACKS`. ``tiny_reference`` is a
small model of the same code, `TINY_REFERENCE` here.

tests/data/prismer_golden.npz: what that small model, run outside this repository on weights by `ruled_state_dict` (gain 3, the
output matrix the word table, 0.5 added to the bias of eos), in eval mode and float32 on a CPU, says of inputs by `ruled_array`.
Its instance ids, drawn at random there, were replaced by 0, 1, 2, ... in the order of the map's ids, and no pixel is background.
Texts were written by transformers 4.26.1, ranks computed as in the authors' prismer_vqa.py.

At full size, on random weights made by the authors' code, two photos and texts, float32 on a CPU, the greatest differences measured
were: none in the visual tokens (deviation 1.0) and 4.5e-6 in the logits (deviation 0.6), for Prismer BASE and LARGE at 224 and at
480 pixels, PrismerZ BASE at 224 and LARGE at 480.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ruled_weights import ruled_array, ruled_state_dict
from trainer.prismer.config import SIX, PrismerConfig, ResamplerConfig, TextConfig, VisionConfig
from trainer.prismer.generation import Search
from trainer.prismer.loss import Objective, loss_of
from trainer.prismer.model import Prismer
from trainer.prismer.ranking import rank
from trainer.prismer.released import (
    BIAS,
    BIAS_AGAIN,
    MATRIX,
    TABLE,
    fill_released,
    load_released,
    released_config,
    released_state,
)
from trainer.prismer.text import joined
from trainer.prismer.vision import LabelMap

DATA = Path(__file__).parent / "data"
State = dict[str, torch.Tensor]
Z_LACKS = tuple(
    f"expert_encoder.{part}"
    for part in (
        "conv1.depth",
        "conv1.normal",
        "conv1.seg",
        "conv1.edge",
        "conv1.obj",
        "conv1.ocr",
        "instance",
        "resampler",
    )
)
TINY_REFERENCE = PrismerConfig(
    vision=VisionConfig(width=64, layers=2, heads=4, patch=14, resolution=70),
    text=TextConfig(width=48, layers=2, heads=4, words=80, positions=40),
    resampler=ResamplerConfig(latents=64, layers=4, heads=8),
    label_resolution=56,
)
OFFICIAL_NAMES = {"detection": "obj_detection", "ocr": "ocr_detection"}


def official_shapes(model: str) -> dict[str, tuple[int, ...]]:
    shapes = json.loads((DATA / "prismer_keys.json").read_text())[model.replace("prismerz", "prismer")]
    without = Z_LACKS if "prismerz" in model else ()
    return {name: tuple(shape) for name, shape in shapes.items() if not name.startswith(without)}


def tiny_state() -> State:
    state = ruled_state_dict(official_shapes("tiny_reference"), gain=3.0)
    state["text_decoder.roberta.embeddings.position_ids"] = torch.arange(40)[None]
    state[MATRIX] = state[TABLE].clone()
    state[BIAS][2] += 0.5
    state[BIAS_AGAIN] = state[BIAS].clone()
    return state


def written(path: Path, state: State) -> Path:
    torch.save(state, path / "pytorch_model.bin")
    return path / "pytorch_model.bin"


def tiny_model(**text: bool) -> Prismer:
    config = TINY_REFERENCE.model_copy(update={"text": TINY_REFERENCE.text.model_copy(update=text)})
    with torch.device("meta"):
        model = Prismer(config)
    fill_released(model, tiny_state(), path=Path("tiny"))
    return model.eval()


def inputs() -> tuple[torch.Tensor, dict[str, LabelMap]]:
    def ruled(name: str, channels: int, side: int) -> torch.Tensor:
        return torch.from_numpy(ruled_array(f"prismer {name}", (2, channels, side, side), -1, 1))

    everyone = torch.ones(2, dtype=torch.bool)
    third_56 = torch.arange(56) // 19
    ids_5656 = third_56[:, None] * 3 + third_56
    instances = torch.stack([ids_5656, ids_5656.flip(1)])
    labels = {
        name: LabelMap(
            ruled(OFFICIAL_NAMES.get(name, name), channels, 56), everyone, instances if name == "detection" else None
        )
        for name, channels in TINY_REFERENCE.modalities().items()
    }
    return ruled("photo", 3, 70), labels


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "prismer_golden.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def model() -> Prismer:
    return tiny_model()


@pytest.fixture(scope="module")
def visual(model: Prismer) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode(*inputs())


def test_it_sees_what_the_authors_network_sees(golden: dict[str, np.ndarray], visual: torch.Tensor) -> None:
    assert golden["tokens"].std() > 0.5, "golden tokens that tell nothing"
    assert visual.shape == (2, TINY_REFERENCE.visual_tokens, 64)
    assert np.abs(visual.numpy() - golden["tokens"]).max() < 1e-4


def test_it_says_what_the_authors_network_says(
    golden: dict[str, np.ndarray], model: Prismer, visual: torch.Tensor
) -> None:
    """Two texts, the second padded, of each of which the first two tokens are not to be learned."""
    text = joined([[0, 11], [0, 21]], [[12, 13, 14, 15, 16, 17, 2], [22, 23, 24, 2]], TINY_REFERENCE.text)
    with torch.inference_mode():
        logits = model.decoder(text.ids_BL, visual)
        loss = loss_of(logits, text, Objective()).loss.item()
    keep = text.ids_BL != TINY_REFERENCE.text.pad
    assert golden["logits"].std() > 0.5, "golden logits that tell nothing"
    assert np.abs(logits.numpy() - golden["logits"])[keep].max() < 1e-4
    assert loss == pytest.approx(golden["losses"].mean(), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("captions", Search(beams=3, least=5, most=17)),
        ("answers", Search(beams=3, least=2, most=10, length_penalty=-1.0)),
        ("greedy", Search(beams=1, least=5, most=17)),
        ("long", Search(beams=4, most=27)),
    ],
)
def test_it_writes_what_transformers_wrote(
    golden: dict[str, np.ndarray], model: Prismer, visual: torch.Tensor, name: str, search: Search
) -> None:
    prompts = torch.tensor([[0, 11, 12]] * 2)
    texts = [one.ids for one in model.generate(visual, prompts, search)]
    assert texts == [[word for word in row[3:].tolist() if word not in (1, 2)] for row in golden[name]]


@pytest.mark.parametrize(("photo", "gap"), [(0, False), (1, True)])
def test_it_ranks_as_the_released_code_does(
    golden: dict[str, np.ndarray], visual: torch.Tensor, photo: int, gap: bool
) -> None:
    """There, the longer question of the batch is followed by its answer and the shorter one by two pads, which are as good as one."""
    answers = [[50 + i, *[60 + i, 61 + i][: i % 3], 2] for i in range(9)] + [[50, 70, 2], [53, 2], [2]]
    question = torch.tensor([[0, 31, 32, 33], [0, 41, 1, 1]][photo : photo + 1])
    with torch.inference_mode():
        ranked = rank(
            tiny_model(pad_before_answer=gap).decoder,
            visual[photo : photo + 1],
            question,
            answers,
            best=5,
            smoothing=0.1,
        )
    assert ranked.answers_BK[0].tolist() == golden["ranked"][photo].tolist()
    assert np.allclose(ranked.scores_BK[0], golden["rank_scores"][photo], atol=1e-4)


@pytest.mark.parametrize("kind", ["pretrain", "caption", "vqa"])
@pytest.mark.parametrize("name", ["prismer_base", "prismer_large", "prismerz_base", "prismerz_large"])
def test_the_twelve_checkpoints_load(name: str, kind: str) -> None:
    """Names and shapes of each, and which row of theirs became which of ours. A tensor's values say its name and row, and take no
    room: one number per row, repeated."""
    shapes = official_shapes(name)
    patch = 16 if "base" in name else 14
    if kind == "pretrain":
        shapes["expert_encoder.positional_embedding"] = (
            (224 // patch) ** 2,
            shapes["expert_encoder.positional_embedding"][1],
        )
    state = {key: _told(key, shape) for key, shape in shapes.items()}
    state[MATRIX], state[BIAS_AGAIN] = state[TABLE], state[BIAS]
    config = released_config(state, path=Path(name))
    assert config.vision.resolution == (224 if kind == "pretrain" else 480)
    assert config == PrismerConfig.of(
        "base" if "base" in name else "large",
        experts=() if "prismerz" in name else SIX,
        resolution=config.vision.resolution,
    )
    with torch.device("meta"):
        model = Prismer(config.at(480))
    reading = fill_released(model, state, path=Path(name))
    assert reading.tensors == len(state) and reading.matrices_differ == 0.0
    assert reading.patches == ((224 // patch if kind == "pretrain" else 480 // patch), 480 // patch)
    filled = dict(model.named_parameters())
    assert all(not value.is_meta for value in model.state_dict().values())
    width = config.vision.width
    packed = state["expert_encoder.transformer.resblocks.3.0.attn.in_proj_weight"]
    for third, ours in enumerate(("query", "key", "value")):
        assert torch.equal(
            filled[f"encoder.blocks.3.attention.{ours}.weight"], packed[third * width : (third + 1) * width]
        )
    cross = state["text_decoder.roberta.encoder.layer.5.1.self.value.weight"]
    assert torch.equal(filled["decoder.layers.5.cross.value.weight"], cross)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("prismer_base", 1_467_097_067),
        ("prismer_large", 4_079_105_334),
        ("prismerz_base", 1_254_412_427),
        ("prismerz_large", 3_701_770_630),
    ],
)
def test_names_and_shapes_fill_the_published_files(name: str, published: int) -> None:
    """The caption checkpoints, which hold the output matrix beside the word table; what is left is torch's zip file around each
    tensor."""
    shapes = official_shapes(name)
    del shapes[BIAS_AGAIN]  # in the file it is the same storage as the other
    whole = ("num_batches_tracked", "position_ids")
    payload = sum(int(np.prod(shape)) * (8 if key.endswith(whole) else 4) for key, shape in shapes.items())
    assert 0 < published - payload < 800 * len(shapes)


def _told(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if not shape or name.endswith("position_ids"):
        return torch.zeros(shape, dtype=torch.int64)
    column = torch.from_numpy(ruled_array(name, (shape[0],), -1, 1))
    return column.view(-1, *[1] * (len(shape) - 1)).expand(shape)


def test_every_tensor_comes_from_its_own_and_goes_back(tmp_path: Path) -> None:
    state = tiny_state()
    back = released_state(tiny_model())
    assert back.keys() == state.keys()
    assert [name for name in state if not torch.equal(back[name], state[name])] == []
    again, _ = load_released(written(tmp_path, back))
    assert again.config.experts == SIX and again.config.vision.heads == 1


def _lose(state: State) -> None:
    del state["expert_encoder.resampler.perceiver_blocks.3.attn.in_proj_bias"]


def _add(state: State) -> None:
    state["expert_encoder.conv1.thermal.1.weight"] = torch.zeros(3)


def _narrow(state: State) -> None:
    name = "text_decoder.roberta.encoder.layer.1.2.adaptor.up_proj.weight"
    state[name] = state[name][:, 1:]


def _other(state: State) -> None:
    del state["expert_encoder.conv1.rgb.weight"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_lose, "1 missing, the first is expert_encoder.resampler.perceiver_blocks.3.attn.in_proj_bias"),
        (_add, "1 unknown, the first is expert_encoder.conv1.thermal.1.weight"),
        (
            _narrow,
            r"1 of another shape, the first is decoder.layers.1.adaptor.outward.weight \(48x47, expected 48x48\)",
        ),
        (_other, "is no released Prismer checkpoint: it has no expert_encoder.conv1.rgb.weight"),
    ],
)
def test_another_model_is_an_error_of_one_line(tmp_path: Path, change: Callable[[State], None], told: str) -> None:
    state = tiny_state()
    change(state)
    path = written(tmp_path, state)
    with pytest.raises(ValueError, match=told) as caught:
        load_released(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_of_another_size_is_refused() -> None:
    with torch.device("meta"):
        wider = Prismer(
            TINY_REFERENCE.model_copy(
                update={"vision": VisionConfig(width=128, layers=2, heads=4, patch=14, resolution=70)}
            )
        )
    with pytest.raises(
        ValueError, match=r"of another shape, the first is encoder.positions \(25x64, expected 25x128\)"
    ):
        fill_released(wider, tiny_state(), path=Path("tiny"))


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is no file of weights"):
        load_released(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no parameters by name"):
        load_released(path)


def test_word_table_and_output_matrix_that_differ(tmp_path: Path) -> None:
    """A tied model reads the matrix for both, as the code that wrote it would; an untied one each; either may be alone."""
    state = tiny_state()
    state[MATRIX] = state[TABLE] + 0.25
    tied, told = load_released(written(tmp_path, state))
    assert told.matrices_differ == pytest.approx(0.25)
    assert tied.decoder.head.matrix is None and torch.equal(tied.decoder.words.weight, state[MATRIX])
    untied, _ = load_released(written(tmp_path, state), tied=False)
    assert untied.decoder.head.matrix is not None and torch.equal(untied.decoder.head.matrix, state[MATRIX])
    assert torch.equal(untied.decoder.words.weight, state[TABLE])
    only_matrix = {name: value for name, value in state.items() if name not in (TABLE, BIAS_AGAIN)} | {
        TABLE: state[TABLE]
    }
    del only_matrix[MATRIX]
    alone, told = load_released(written(tmp_path, only_matrix), tied=False)
    assert told.matrices_differ == 0.0 and alone.decoder.head.matrix is not None
    assert torch.equal(alone.decoder.head.matrix, alone.decoder.words.weight)


def test_positions_are_resized_for_other_photos(tmp_path: Path) -> None:
    path = written(tmp_path, tiny_state())
    model, reading = load_released(path, resolution=140)
    assert reading.patches == (5, 10) and model.encoder.positions.shape == (100, 64)
    before = tiny_state()["expert_encoder.positional_embedding"].view(1, 5, 5, 64).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(before, size=(10, 10), mode="bicubic", align_corners=False)
    assert torch.allclose(model.encoder.positions, expected[0].flatten(1).T, atol=1e-6)
