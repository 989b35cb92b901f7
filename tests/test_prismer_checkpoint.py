"""Our own checkpoints: what is saved is what is loaded, in another model it is not, and half a file is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.small_prismer import batch_of, labels, photos, small_config, small_model
from trainer.prismer.checkpoint import load_into, load_prismer, save_prismer, stored
from trainer.prismer.config import SIX
from trainer.prismer.model import Prismer


def trained(**text: bool) -> Prismer:
    """A step away from how it was made, its norms' statistics too."""
    model = small_model("depth", "detection", **text).train()
    model.freeze("backbones")
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    model(batch_of("depth", "detection")).loss.backward()
    optimizer.step()
    return model.eval()


def differing(one: Prismer, other: Prismer) -> list[str]:
    theirs = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])]


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, tied: bool) -> None:
    model, path = trained(tied=tied), tmp_path / "model.safetensors"
    save_prismer(model, path, notes={"step": 3})
    again = load_prismer(path)
    assert again.config == model.config and not again.training and differing(model, again) == []
    assert stored(path).notes == {"step": 3} and stored(path).frozen == ""
    given = labels(("depth", "detection"))
    with torch.no_grad():
        assert torch.equal(again.encode(photos(), given), model.encode(photos(), given))
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_trained_tensors_go_beside_the_frozen_ones_they_were_trained_with(tmp_path: Path) -> None:
    model, whole, part = trained(), tmp_path / "whole", tmp_path / "part"
    save_prismer(model, whole)
    save_prismer(model, part, only_trained=True)
    assert part.stat().st_size < 0.8 * whole.stat().st_size
    begun = small_model("depth", "detection")
    assert len(differing(begun, model)) > 20
    load_into(begun, part)
    assert differing(begun, model) == []
    with pytest.raises(ValueError, match="trained beside other frozen weights"):
        load_into(small_model("depth", "detection", seed=1), part)
    with pytest.raises(ValueError, match="holds trained tensors only"):
        load_prismer(part)


def test_all_tensors_go_into_any_model_of_that_shape(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "whole"
    save_prismer(model, path)
    other = small_model("depth", "detection", seed=1)
    other.freeze("vision")
    frozen = [name for name, value in other.named_parameters() if not value.requires_grad]
    load_into(other, path)
    assert differing(other, model) == []
    assert [name for name, value in other.named_parameters() if not value.requires_grad] == frozen


def test_photos_may_have_another_resolution(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "whole"
    save_prismer(model, path)
    large = load_prismer(path, resolution=64)
    assert large.config == model.config.at(64) and differing(model, load_prismer(path)) == []
    assert large.encoder.positions.shape == (64, 32)
    into = Prismer(model.config.at(64))
    load_into(into, path)
    assert differing(into, large) == []


def test_another_prismer_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "whole"
    save_prismer(trained(), path)
    for model, told in (
        (small_model(*SIX), r"experts is \('depth', 'detection'\) there and \('depth', 'normal', 'seg'"),
        (small_model("depth", "detection", tied=False), "text.tied is True there and False here"),
    ):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=told) as caught:
            load_into(model, path)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole"
    save_prismer(trained(), path)
    path.write_bytes(path.read_bytes()[:-100])
    foreign = tmp_path / "foreign"
    save_file({"weight": torch.zeros(3)}, foreign)
    for wrong in (path, foreign, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is no checkpoint of a Prismer") as caught:
            load_prismer(wrong)
        assert str(wrong) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "whole"
    state = dict(model.state_dict())
    del state["decoder.last.mlp.up.weight"]
    save_prismer(model, path, state=state)
    with pytest.raises(ValueError, match="1 missing, the first is decoder.last.mlp.up.weight"):
        load_prismer(path)
    with pytest.raises(ValueError, match="1 missing, the first is decoder.last.mlp.up.weight"):
        load_into(small_model("depth", "detection"), path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "whole"
    save_prismer(model, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_prismer(model, path, notes={"step": object()})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_released_form_and_ours_are_the_same_model(tmp_path: Path) -> None:
    from trainer.prismer.released import fill_released, released_state

    model = trained()
    with torch.device("meta"):
        again = Prismer(small_config("depth", "detection"))
    fill_released(again, released_state(model), path=tmp_path)
    assert differing(model, again) == []
