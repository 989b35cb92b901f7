"""The twelve released Prismer checkpoints, and our weights in their form.

Each is a pickled state dict (pytorch_model.bin) of the released code: for pre-training, captions and VQA, of Prismer and PrismerZ,
BASE and LARGE. Their own names and shapes stand in tests/data/prismer_keys.json. Their licence forbids commercial use.

What such a file has twice, the word table and the output matrix, and the output bias, is one tensor in the code that wrote it.
That code, reading a file where the two differ, would keep what it reads last: the output matrix, for both. So does a tied
model here; an untied one keeps each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from expert_zoo.networks.state_dict import fill
from trainer.prismer.config import SIX, Modality, PrismerConfig, ResamplerConfig, TextConfig, VisionConfig
from trainer.prismer.model import Prismer
from trainer.prismer.stems import resized_positions
from trainer.prismer.weights import Origin, Place, origin, read_tensors, taken

#: The resolutions of the paper. A checkpoint tells its patches per side; of the resolutions that have as many, it is the least.
RESOLUTIONS: Final = (224, 384, 480)
HEAD_WIDTH: Final = 64

STEMS: Final[dict[Modality, str]] = {name: name for name in SIX} | {
    "detection": "obj_detection",
    "ocr": "ocr_detection",
}
ENCODER, DECODER = "expert_encoder.", "text_decoder."
POSITIONS, PATCHES = f"{ENCODER}positional_embedding", f"{ENCODER}conv1.rgb.weight"
TABLE, MATRIX = f"{DECODER}roberta.embeddings.word_embeddings.weight", f"{DECODER}lm_head.decoder.weight"
BIAS, BIAS_AGAIN = f"{DECODER}lm_head.bias", f"{DECODER}lm_head.decoder.bias"
PLACES_TABLE, NO_ROLE = (
    f"{DECODER}roberta.embeddings.position_embeddings.weight",
    f"{DECODER}roberta.embeddings.position_ids",
)

_ATTENTION = {
    "attention.query": ("attn.in_proj", 0),
    "attention.key": ("attn.in_proj", 1),
    "attention.value": ("attn.in_proj", 2),
    "attention.out": "attn.out_proj",
}
_MLP = {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
_CLIP = {**_ATTENTION, **_MLP, "attention_norm": "ln_1", "mlp_norm": "ln_2"}
_RESAMPLER = {**_ATTENTION, **_MLP, "latent_norm": "ln_1", "token_norm": "ln_2", "mlp_norm": "ln_ff"}
_ADAPTOR = {"inward": "adaptor.down_proj", "outward": "adaptor.up_proj", "norm": "adaptor_ln"}
_CROSS = {"query": "self.query", "key": "self.key", "value": "self.value", "out": "output.dense"}
_STEM = {f"convolutions.{i}": str(1 + 3 * i) for i in range(4)} | {f"norms.{i}": str(2 + 3 * i) for i in range(4)}
#: A layer of RoBERTa's as transformers names it.
ROBERTA_LAYER: Final = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
_RESBLOCK, _LAYER = rf"{ENCODER}transformer.resblocks.\1", rf"{DECODER}roberta.encoder.layer.\1"
_PLACES: Final = (
    Place(r"encoder\.positions$", POSITIONS),
    Place(r"encoder\.instances$", f"{ENCODER}instance_embedding"),
    Place(r"encoder\.patches\.", f"{ENCODER}conv1.rgb."),
    *(
        Place(rf"encoder\.stems\.{ours}\.", f"{ENCODER}conv1.{name}.", _STEM | {"last": "13"})
        for ours, name in STEMS.items()
    ),
    Place(r"encoder\.resampler\.blocks\.(\d+)\.", rf"{ENCODER}resampler.perceiver_blocks.\1.", _RESAMPLER),
    Place(r"encoder\.resampler\.", f"{ENCODER}resampler."),
    Place(r"encoder\.blocks\.(\d+)\.adaptor\.", f"{_RESBLOCK}.1.", _ADAPTOR),
    Place(r"encoder\.blocks\.(\d+)\.", f"{_RESBLOCK}.0.", _CLIP),
    Place(r"encoder\.", ENCODER, {"norm_in": "ln_pre", "norm_out": "ln_post"}),
    Place(r"decoder\.words\.weight$", TABLE),
    Place(r"decoder\.positions\.weight$", PLACES_TABLE),
    Place(r"decoder\.kind$", f"{DECODER}roberta.embeddings.token_type_embeddings.weight"),
    Place(r"decoder\.norm\.", f"{DECODER}roberta.embeddings.LayerNorm."),
    Place(r"decoder\.layers\.(\d+)\.cross_norm\.", f"{_LAYER}.1.output.LayerNorm."),
    Place(r"decoder\.layers\.(\d+)\.cross\.", f"{_LAYER}.1.", _CROSS),
    Place(r"decoder\.layers\.(\d+)\.adaptor\.", f"{_LAYER}.2.", _ADAPTOR),
    Place(r"decoder\.layers\.(\d+)\.", f"{_LAYER}.0.", ROBERTA_LAYER),
    Place(r"decoder\.last\.", f"{DECODER}roberta.encoder.output_layer.", ROBERTA_LAYER),
    Place(r"decoder\.head\.matrix$", MATRIX),
    Place(r"decoder\.head\.", f"{DECODER}lm_head.", {"norm": "layer_norm"}),
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was done to a checkpoint beyond renaming; names and shapes that do not match are an error.

    tensors: how many the file has. without_role: those of them that nothing here is made of. patches: per side, there and here.
    matrices_differ: the greatest difference between word table and output matrix; 0.0 where they are equal or there is one.
    """

    tensors: int
    without_role: tuple[str, ...]
    patches: tuple[int, int]
    matrices_differ: float


def load_released(
    path: Path, *, resolution: int | None = None, tied: bool = True, pad_before_answer: bool = False
) -> tuple[Prismer, Reading]:
    """The checkpoint as a Prismer in eval, on the CPU, in float32; size and experts are read off its shapes. Raises ValueError.

    resolution: of the photos to come, by default the checkpoint's. tied, pad_before_answer: as in TextConfig; the released VQA
    checkpoints want pad_before_answer.
    """
    theirs = read_tensors(path)
    config = released_config(theirs, path=path, tied=tied, pad_before_answer=pad_before_answer)
    with torch.device("meta"):
        model = Prismer(config if resolution is None else config.at(resolution))
    return model.eval(), fill_released(model, theirs, path=path)


def fill_released(model: Prismer, theirs: Mapping[str, Tensor], *, path: Path) -> Reading:
    """Put a released state dict into ``model``, which may be on the meta device. Raises ValueError unless it is its own, whole."""
    once, differ = _each_once(theirs, tied=model.config.text.tied)
    values = taken(_origins(model), once, path=path, no_role=(NO_ROLE,))
    there = round(len(values["encoder.positions"]) ** 0.5)
    values["encoder.positions"] = resized_positions(values["encoder.positions"], model.config.grid)
    fill(model, values, path=path)
    return Reading(
        tensors=len(theirs),
        without_role=tuple(name for name in theirs if name == NO_ROLE),
        patches=(there, model.config.grid),
        matrices_differ=differ,
    )


def released_state(model: Prismer) -> dict[str, Tensor]:
    """The weights of ``model`` as the released code names, packs and doubles them, so that it can load them in turn."""
    state = model.state_dict()
    thirds: dict[str, dict[int, Tensor]] = {}
    theirs: dict[str, Tensor] = {}
    for ours, (name, third) in _origins(model).items():
        if third is None:
            theirs[name] = state[ours]
        else:
            thirds.setdefault(name, {})[third] = state[ours]
    theirs |= {name: torch.cat([parts[0], parts[1], parts[2]]) for name, parts in thirds.items()}
    theirs[NO_ROLE] = torch.arange(len(theirs[PLACES_TABLE]))[None]
    return {MATRIX: theirs[TABLE], BIAS_AGAIN: theirs[BIAS], **theirs}


def released_config(
    theirs: Mapping[str, Tensor], *, path: Path, tied: bool = True, pad_before_answer: bool = False
) -> PrismerConfig:
    """What the shapes of a released state dict say. Heads are 64 wide in all of them, and their label maps of 224 pixels."""
    for name in (PATCHES, POSITIONS, TABLE, PLACES_TABLE):
        if name not in theirs:
            raise ValueError(f"{path} is no released Prismer checkpoint: it has no {name}")
    width, _, patch, _ = theirs[PATCHES].shape
    words, text_width = theirs[TABLE].shape
    grid = round(len(theirs[POSITIONS]) ** 0.5)
    resolution = next((side for side in RESOLUTIONS if side // patch == grid), grid * patch)
    latents, instances = (theirs.get(f"{ENCODER}{name}") for name in ("resampler.latents", "instance_embedding"))
    return PrismerConfig(
        vision=VisionConfig(
            width=width,
            layers=_count(theirs, rf"{ENCODER}transformer\.resblocks\.(\d+)\."),
            heads=max(1, width // HEAD_WIDTH),
            patch=patch,
            resolution=resolution,
        ),
        text=TextConfig(
            width=text_width,
            layers=_count(theirs, rf"{DECODER}roberta\.encoder\.layer\.(\d+)\."),
            heads=max(1, text_width // HEAD_WIDTH),
            words=words,
            positions=len(theirs[PLACES_TABLE]),
            tied=tied,
            pad_before_answer=pad_before_answer,
        ),
        resampler=ResamplerConfig()
        if latents is None
        else ResamplerConfig(
            latents=len(latents), layers=_count(theirs, rf"{ENCODER}resampler\.perceiver_blocks\.(\d+)\.")
        ),
        experts=tuple(ours for ours, name in STEMS.items() if f"{ENCODER}conv1.{name}.13.weight" in theirs),
        instances=128 if instances is None else len(instances),
    )


def _count(theirs: Mapping[str, Tensor], numbered: str) -> int:
    return len({found[1] for name in theirs if (found := re.match(numbered, name))})


def _origins(model: Prismer) -> dict[str, Origin]:
    found = {ours: origin(ours, _PLACES) for ours in model.state_dict()}
    unknown = [ours for ours, place in found.items() if place is None]
    assert not unknown, f"no place for {unknown}"
    return {ours: place for ours, place in found.items() if place is not None}


def _each_once(theirs: Mapping[str, Tensor], *, tied: bool) -> tuple[dict[str, Tensor], float]:
    """Without doubles, as a model reads it; and how much word table and output matrix differ."""
    once = dict(theirs)
    table, matrix, differ = once.get(TABLE), once.get(MATRIX), 0.0
    if table is not None and matrix is not None and table.shape == matrix.shape and not torch.equal(table, matrix):
        differ = float((table.float() - matrix.float()).abs().max())
    if BIAS_AGAIN in once:
        once[BIAS] = once.pop(BIAS_AGAIN)
    if matrix is not None and tied:
        once[TABLE] = once.pop(MATRIX)
    elif table is not None and not tied:
        once.setdefault(MATRIX, table.clone())
    return once, differ
