"""The experts' encoder: any experts, missing labels, objects told apart, and nothing of one photo in another's tokens."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import interpolate

from tests.small_prismer import batch_of, labels, photos, small_config, small_model, without
from trainer.prismer.config import SIX, Modality, PrismerConfig
from trainer.prismer.model import Prismer
from trainer.prismer.stems import painted, resized_positions, seen_side
from trainer.prismer.vision import LabelMap


@pytest.fixture(scope="module")
def model() -> Prismer:
    return small_model(*SIX)


def seen(model: Prismer, given: dict[str, LabelMap], photo: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(photos() if photo is None else photo, given)


@pytest.mark.parametrize("number", range(7))
def test_any_number_of_experts(number: int) -> None:
    for experts in itertools.islice(itertools.combinations(SIX, number), 3):
        model = small_model(*experts)
        tokens = seen(model, labels(experts))
        assert tokens.shape == (3, model.config.visual_tokens, 32) and tokens.isfinite().all()
        assert hasattr(model.encoder, "resampler") == bool(experts)
        model.train()
        model(batch_of(*experts)).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", SIX)
def test_every_expert_is_seen(model: Prismer, name: Modality) -> None:
    given = labels()
    other = given | {name: given[name]._replace(map_BCHW=given[name].map_BCHW.flip(3))}
    assert (seen(model, given) - seen(model, other)).abs().max() > 1e-3


def test_a_missing_label_takes_no_part(model: Prismer) -> None:
    """Photo 1 lacks depth and words: it is seen as by a resampler that is given only the other experts' tokens."""
    given = labels()
    masked = given | {name: without(given[name], 1) for name in ("depth", "ocr")}
    tokens = seen(model, masked)
    encoder, config = model.encoder, model.config
    there = [name for name in SIX if name not in ("depth", "ocr")]
    with torch.no_grad():
        positions = resized_positions(encoder.positions, config.label_grid)
        others = torch.cat([encoder._tokens(name, given[name]) + positions for name in there], dim=1)
        latents = encoder.resampler(others[1:2])
        photo = encoder.patches(photos()[1:2]).flatten(2).transpose(1, 2) + encoder.positions
        x = encoder.norm_in(torch.cat([photo, latents], dim=1))
        for block in encoder.blocks:
            x = block(x)
        expected = encoder.norm_out(x)[0]
    assert torch.allclose(tokens[1], expected, atol=1e-5)
    whole = seen(model, given)
    assert torch.allclose(tokens[[0, 2]], whole[[0, 2]], atol=1e-5)
    assert (tokens[1] - whole[1]).abs().max() > 1e-2


def test_a_photo_without_any_label_is_fine(model: Prismer) -> None:
    given = {name: without(label, 0, 1, 2) for name, label in labels().items()}
    tokens = seen(model, given)
    assert tokens.isfinite().all()
    one = {name: without(label, 1) for name, label in labels().items()}
    assert torch.allclose(seen(model, one)[1], tokens[1], atol=1e-5)


def test_a_label_that_nobody_has_changes_no_statistics_and_all_parameters_have_a_gradient() -> None:
    model = small_model(*SIX).train()
    before = {name: value.clone() for name, value in model.encoder.stems.named_buffers()}
    batch = batch_of(*SIX)
    batch = batch._replace(labels={name: without(label, 0, 1, 2) for name, label in batch.labels.items()})
    loss = model(batch).loss
    loss.backward()
    assert loss.isfinite()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.stems.named_buffers())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, value in gradients.items() if value is None or not value.isfinite().all()] == []
    assert all(value is not None and not value.any() for name, value in gradients.items() if "stems" in name)


def test_statistics_are_of_those_that_have_the_label() -> None:
    whole, part = small_model("depth").train(), small_model("depth").train()
    given = labels(("depth",))
    seen(whole, {"depth": without(given["depth"], 1)})
    two = given["depth"].map_BCHW[[0, 2]]
    seen(part, {"depth": LabelMap(two, torch.ones(2, dtype=torch.bool))}, photos()[[0, 2]])
    for name, value in whole.encoder.stems.named_buffers():
        assert torch.allclose(value, part.encoder.stems.get_buffer(name), atol=1e-6), name


def test_a_photo_is_seen_alone_as_among_others(model: Prismer) -> None:
    given = labels()
    given["edge"] = without(given["edge"], 0)
    together = seen(model, given)
    for row in range(3):
        one = {
            name: LabelMap(*(None if part is None else part[row : row + 1] for part in label))
            for name, label in given.items()
        }
        assert torch.allclose(seen(model, one, photos()[row : row + 1])[0], together[row], atol=1e-5)


def _told_apart(model: Prismer, ids: list[list[int]]) -> torch.Tensor:
    """What is added at a grid of 2 x 2, one pixel each."""
    with torch.no_grad():
        return model.encoder._told_apart(torch.tensor(ids).view(len(ids), 2, 2)).flatten(1, 2)


def test_in_eval_an_object_has_its_own_row_and_background_none(model: Prismer) -> None:
    added = _told_apart(model, [[0, 1, 127, -1], [1, 130, -1, -1]])
    table = model.encoder.instances
    assert torch.equal(added[0, :3], table[[0, 1, 127]]) and torch.equal(added[1, :2], table[[1, 2]])
    assert not added[0, 3].any() and not added[1, 2:].any()
    assert torch.equal(seen(model, labels()), seen(model, labels()))


def test_in_training_every_photo_draws_its_own_rows_and_no_two_objects_share_one() -> None:
    model = small_model("detection").train()
    torch.manual_seed(0)
    added = _told_apart(model, [[0, 1, 2, -1]] * 40)
    for photo in added:
        assert len({tuple(row.tolist()) for row in photo[:3]}) == 3
        assert not photo[3].any()
    assert len({tuple(photo[0].tolist()) for photo in added}) > 20
    ids = torch.arange(128).view(1, 2, 64)[:, :, ::32].flatten().tolist()
    assert len({tuple(row.tolist()) for row in _told_apart(model, [ids])[0]}) == 4


def test_ids_are_taken_where_the_tokens_are(model: Prismer) -> None:
    """Nearest as the released code has it: the first pixel of each token's square."""
    ids = torch.arange(16 * 16).view(1, 16, 16) % 128
    with torch.no_grad():
        added = model.encoder._told_apart(ids)
    nearest = interpolate(ids[None].float(), size=(2, 2), mode="nearest")[0].long()
    assert torch.equal(added, model.encoder.instances[nearest])


def test_label_maps_may_have_any_size(model: Prismer) -> None:
    """A linear ramp is the same ramp at any resolution."""
    given, large = labels(), labels()
    for name, label in given.items():
        small, big = (torch.linspace(-1, 1, side).expand(3, label.map_BCHW.shape[1], side, side) for side in (16, 40))
        given[name], large[name] = label._replace(map_BCHW=small), label._replace(map_BCHW=big)
    assert torch.allclose(seen(model, given), seen(model, large), atol=1e-4)


@pytest.mark.parametrize(("side", "pixels"), [(8, 224), (56, 224), (64, 224), (8, 8), (8, 5), (5, 1)])
def test_painting_ids_is_looking_them_up_and_resizing(side: int, pixels: int) -> None:
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(12, 64, generator=draw, dtype=torch.float64)
    rows = torch.randint(12, (2, pixels, pixels), generator=draw, dtype=torch.uint8)
    whole = table[rows.long()].permute(0, 3, 1, 2)
    expected = interpolate(whole, size=(side, side), mode="bilinear", align_corners=True)
    assert torch.allclose(painted(rows, table, side), expected, atol=1e-9)


def test_stems_look_at_224_pixels_as_the_released_ones_do() -> None:
    assert [seen_side(channels, PrismerConfig.of("base").label_grid) for channels in (1, 3, 64)] == [224, 224, 56]
    assert [seen_side(channels, PrismerConfig.of("large").label_grid) for channels in (1, 3, 64)] == [256, 256, 64]


def test_what_does_not_fit_is_refused(model: Prismer) -> None:
    given = labels()
    fewer = {name: label for name, label in given.items() if name != "normal"}
    wrong: list[tuple[torch.Tensor, dict[str, LabelMap], str]] = [
        (photos()[:, :, :16], given, "this Prismer expects 3 x 32 x 32"),
        (photos(), fewer, "expects those of depth, normal, seg"),
        (photos(), given | {"edge": given["normal"]}, r"edge: a map of \(3, 3, 16, 16\)"),
        (
            photos(),
            given | {"edge": given["edge"]._replace(present_B=torch.ones(2, dtype=torch.bool))},
            "2 times present",
        ),
        (
            photos(),
            given | {"detection": given["detection"]._replace(instances_BHW=None)},
            "instances belong to detection",
        ),
    ]
    for photo, maps, told in wrong:
        with pytest.raises(ValueError, match=told):
            model.encode(photo, maps)


def test_checkpointed_gradients_are_the_same() -> None:
    gradients = []
    for on in (False, True):
        model = small_model(*SIX)
        model.checkpoint_gradients(on)
        model.train()
        torch.manual_seed(5)
        model(batch_of(*SIX)).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_positions_of_the_same_grid_are_the_table_itself() -> None:
    table = torch.randn(16, 8)
    assert resized_positions(table, 4) is table and small_config().grid == 4
