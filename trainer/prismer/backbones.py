"""The networks that Prismer begins with: CLIP's vision transformer and RoBERTa, from folders in transformers' form.

A folder holds config.json and model.safetensors or pytorch_model.bin, as of openai/clip-vit-base-patch16 (BASE),
openai/clip-vit-large-patch14-336 (LARGE), roberta-base and roberta-large; nothing outside of it is looked at. Every error is a
ValueError of one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from trainer.prismer.decoder import TextDecoder
from trainer.prismer.released import ROBERTA_LAYER
from trainer.prismer.stems import resized_positions
from trainer.prismer.vision import ExpertEncoder
from trainer.prismer.weights import Origin, Place, origin, put_beside, read_tensors, taken

FILES: Final = ("model.safetensors", "pytorch_model.bin")

_CLIP_POSITIONS = "embeddings.position_embedding.weight"
_CLIP_LAYER = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
    "mlp_norm": "layer_norm2",
}
_CLIP = (
    Place(r"positions$", _CLIP_POSITIONS),
    Place(r"patches\.", "embeddings.patch_embedding."),
    Place(r"norm_in\.", "pre_layrnorm."),
    Place(r"norm_out\.", "post_layernorm."),
    Place(r"blocks\.(\d+)\.(?!adaptor)", r"encoder.layers.\1.", _CLIP_LAYER),
)
_CLIP_UNUSED = ("embeddings.class_embedding", "embeddings.position_ids", "visual_projection.weight")

_TABLE, _MATRIX = "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
_ROBERTA = (
    Place(r"words\.", "roberta.embeddings.word_embeddings."),
    Place(r"positions\.", "roberta.embeddings.position_embeddings."),
    Place(r"kind$", "roberta.embeddings.token_type_embeddings.weight"),
    Place(r"norm\.", "roberta.embeddings.LayerNorm."),
    Place(r"layers\.(\d+)\.(?!adaptor|cross)", r"roberta.encoder.layer.\1.", ROBERTA_LAYER),
    Place(r"head\.matrix$", _MATRIX),
    Place(r"head\.", "lm_head.", {"norm": "layer_norm"}),
)
_ROBERTA_UNUSED = (
    "roberta.embeddings.position_ids",
    "roberta.pooler.dense.weight",
    "roberta.pooler.dense.bias",
    "lm_head.decoder.bias",
)


def load_clip(encoder: ExpertEncoder, folder: Path) -> None:
    """CLIP's vision transformer, without class token and projection, its positions resized to ``encoder``'s. Raises ValueError.

    What CLIP does not have, stems, resampler and adaptors, stays as it is.
    """
    vision = encoder.config.vision
    _agree(folder, "vision_config", num_attention_heads=vision.heads, hidden_act="quick_gelu", layer_norm_eps=1e-5)
    path, theirs = _read(folder)
    if any(name.startswith("vision_model.") for name in theirs):
        # All of a CLIP, or a vision transformer that an older version of transformers wrote.
        begin = "vision_model."
        theirs = {name.removeprefix(begin): value for name, value in theirs.items() if name.startswith(begin)}
    if _CLIP_POSITIONS in theirs:
        theirs[_CLIP_POSITIONS] = theirs[_CLIP_POSITIONS][1:]
    values = taken(_origins(encoder, _CLIP), theirs, path=path, no_role=_CLIP_UNUSED)
    values["positions"] = resized_positions(values["positions"], encoder.config.grid)
    put_beside(encoder, values, path=path)


def load_roberta(decoder: TextDecoder, folder: Path) -> None:
    """RoBERTa with its language-model head. Raises ValueError.

    What RoBERTa does not have, attention to the photo, adaptors and the last layer, stays as it is.
    """
    _agree(folder, "", num_attention_heads=decoder.config.heads, hidden_act="gelu", layer_norm_eps=1e-5)
    path, theirs = _read(folder)
    if not decoder.config.tied and _TABLE in theirs:
        theirs.setdefault(_MATRIX, theirs[_TABLE].clone())
    tied = (_MATRIX,) if decoder.config.tied else ()
    values = taken(_origins(decoder, _ROBERTA), theirs, path=path, no_role=(*_ROBERTA_UNUSED, *tied))
    put_beside(decoder, values, path=path)


def _origins(network: nn.Module, places: tuple[Place, ...]) -> dict[str, Origin]:
    found = {ours: origin(ours, places) for ours in network.state_dict()}
    return {ours: place for ours, place in found.items() if place is not None}


def _read(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name, read_tensors(folder / name)
    raise ValueError(
        f"{folder} holds neither {' nor '.join(FILES)}; expected a folder of weights as transformers saves it"
    )


def _agree(folder: Path, section: str, **expected: Any) -> None:
    """What shapes do not tell: raises ValueError where config.json says another thing. It need not say all."""
    path = folder / "config.json"
    try:
        told: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from error
    told = told.get(section, told) if isinstance(told, Mapping) else {}
    for name, value in expected.items():
        if told.get(name, value) != value:
            raise ValueError(f"{path} says {name} {told[name]}; this Prismer expects {value}")
