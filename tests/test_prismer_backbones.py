"""CLIP and RoBERTa as transformers saves them: Prismer begins as they are, and what it has beyond them is untouched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.small_prismer import photos, small_config
from trainer.prismer.backbones import load_clip, load_roberta
from trainer.prismer.config import SIX, PrismerConfig
from trainer.prismer.model import ADDED, Prismer

CLIP = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
ROBERTA = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 34,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "is_decoder": True,
}


def ruffled(network: Any) -> Any:
    """Weights that no two layers share and that say something of everything."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
    return network.eval()


def clip_vision() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    return ruffled(CLIPVisionModel(CLIPVisionConfig(**CLIP)))


def roberta(**change: Any) -> Any:
    from transformers import RobertaConfig, RobertaForCausalLM

    torch.manual_seed(0)
    return ruffled(RobertaForCausalLM(RobertaConfig(**{**ROBERTA, **change})))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    clip_vision().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    roberta().save_pretrained(folder)
    return folder


def without_added(model: Prismer) -> Prismer:
    """As CLIP and RoBERTa would be: adaptors say nothing, nobody looks at the photo, and there is no layer too many."""

    class Through(nn.Module):
        def forward(self, x: torch.Tensor, *_: object) -> torch.Tensor:
            return x

    for block in model.encoder.blocks:
        block.adaptor = Through()
    for layer in model.decoder.layers:
        layer.look = lambda x, *_: x
    model.decoder.last = Through()
    return model.eval()


def test_it_sees_as_clip_without_a_class_token(clip_folder: Path) -> None:
    model = without_added(Prismer(small_config()))
    load_clip(model.encoder, clip_folder)
    theirs = clip_vision()
    with torch.no_grad():
        patches = theirs.embeddings.patch_embedding(photos()).flatten(2).transpose(1, 2)
        x = theirs.pre_layrnorm(patches + theirs.embeddings.position_embedding.weight[1:])
        expected = theirs.post_layernorm(theirs.encoder(inputs_embeds=x).last_hidden_state)
        tokens = model.encode(photos(), {})
    assert expected.std() > 0.5 and torch.allclose(tokens, expected, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_it_speaks_as_roberta(roberta_folder: Path, tied: bool) -> None:
    model = without_added(Prismer(small_config(tied=tied)))
    load_roberta(model.decoder, roberta_folder)
    ids = torch.tensor([[0, 5, 6, 7, 8], [0, 9, 10, 1, 1]])
    with torch.no_grad():
        expected = roberta()(input_ids=ids, attention_mask=(ids != 1).long()).logits
        logits = model.decoder(ids, torch.zeros(2, 16, 32))
    keep = ids != 1
    assert expected.std() > 0.5 and torch.allclose(logits[keep], expected[keep], atol=1e-4)


def test_what_is_prismers_own_stays(clip_folder: Path, roberta_folder: Path) -> None:
    model = Prismer(small_config(*SIX))
    model.freeze("backbones")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_clip(model.encoder, clip_folder)
    load_roberta(model.decoder, roberta_folder)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    begun_with = (
        "encoder.patches",
        "encoder.positions",
        "encoder.norm",
        "decoder.words",
        "decoder.positions",
        "decoder.head",
    )
    blocks = ("encoder.blocks", "decoder.layers")
    ours = {name for name in before if name.startswith(blocks) and name.split(".")[3] in ADDED}
    theirs = {name for name in before if name.startswith((*begun_with, *blocks, "decoder.kind", "decoder.norm"))} - ours
    assert changed == theirs
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen and frozen < theirs, "loading freezes and thaws nothing"


def test_all_of_a_clip_and_an_older_file_do_as_well(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    whole = ruffled(CLIPModel(CLIPConfig(vision_config=CLIP, text_config=text)))
    whole.save_pretrained(tmp_path / "new")
    state = dict(whole.state_dict())
    assert any(name.startswith("text_model.") for name in state)
    (tmp_path / "old").mkdir()
    torch.save(
        state | {"vision_model.embeddings.position_ids": torch.arange(17)}, tmp_path / "old" / "pytorch_model.bin"
    )
    (tmp_path / "old" / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    models = []
    for folder in ("new", "old"):
        models.append(Prismer(small_config()))
        load_clip(models[-1].encoder, tmp_path / folder)
    fc1 = whole.vision_model.encoder.layers[1].mlp.fc1.weight
    assert all(torch.equal(model.encoder.blocks[1].mlp.up.weight, fc1) for model in models)


def test_positions_are_resized(clip_folder: Path) -> None:
    model = Prismer(small_config().at(64))
    load_clip(model.encoder, clip_folder)
    table = clip_vision().embeddings.position_embedding.weight[1:]
    square = table.view(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(square, size=(8, 8), mode="bicubic").flatten(2)[0].T
    assert torch.allclose(model.encoder.positions, expected, atol=1e-6)


def _narrower(config: PrismerConfig) -> PrismerConfig:
    return config.model_copy(update={"vision": config.vision.model_copy(update={"width": 16})})


def _deeper(config: PrismerConfig) -> PrismerConfig:
    return config.model_copy(update={"vision": config.vision.model_copy(update={"layers": 3})})


def _shallower(config: PrismerConfig) -> PrismerConfig:
    return config.model_copy(update={"vision": config.vision.model_copy(update={"layers": 1})})


def _more_heads(config: PrismerConfig) -> PrismerConfig:
    return config.model_copy(update={"vision": config.vision.model_copy(update={"heads": 4})})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_narrower, "of another shape, the first is positions"),
        (_deeper, "16 missing, the first is encoder.layers.2"),
        (_shallower, "16 unknown, the first is encoder.layers.1"),
        (_more_heads, "says num_attention_heads 2; this Prismer expects 4"),
    ],
)
def test_a_clip_of_another_size_is_refused(
    clip_folder: Path, change: Callable[[PrismerConfig], PrismerConfig], told: str
) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        load_clip(Prismer(change(small_config())).encoder, clip_folder)
    assert "\n" not in str(caught.value)


def test_a_roberta_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    roberta(vocab_size=41).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the first is words.weight \(41x24, expected 40x24\)"):
        load_roberta(Prismer(small_config()).decoder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-12}))
    with pytest.raises(ValueError, match="says layer_norm_eps 1e-12; this Prismer expects 1e-05"):
        load_roberta(Prismer(small_config()).decoder, tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read .*config.json"):
        load_clip(Prismer(small_config()).encoder, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds neither model.safetensors nor pytorch_model.bin"):
        load_clip(Prismer(small_config()).encoder, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678 no")
    with pytest.raises(ValueError, match="is no file of weights"):
        load_clip(Prismer(small_config()).encoder, tmp_path)
