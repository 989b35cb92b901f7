"""The decoder: padding anywhere, the cache, and photos that are there once however many texts look at them."""

from __future__ import annotations

import pytest
import torch

from tests.small_prismer import PAD, small_model
from trainer.prismer.cache import Cache
from trainer.prismer.model import Prismer
from trainer.prismer.text import padded, prompts_of


@pytest.fixture(scope="module")
def model() -> Prismer:
    return small_model()


@pytest.fixture(scope="module")
def visual() -> torch.Tensor:
    return torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3))


def said(model: Prismer, ids: list[list[int]], visual: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.decoder(torch.tensor(ids), visual)


def test_padding_may_stand_anywhere(model: Prismer, visual: torch.Tensor) -> None:
    plain = said(model, [[0, 5, 6, 7]], visual[:1])[0]
    assert plain.std() > 0.1, "logits that tell nothing"
    for ids in ([0, 5, 6, 7, PAD, PAD], [PAD, PAD, PAD, 0, 5, 6, 7], [PAD, 0, 5, PAD, 6, PAD, 7]):
        logits = said(model, [ids], visual[:1])[0]
        assert logits.isfinite().all()
        assert torch.allclose(logits[[place for place, word in enumerate(ids) if word != PAD]], plain, atol=1e-5)


def test_however_many_pads_follow_a_question_they_say_the_same(model: Prismer, visual: torch.Tensor) -> None:
    one, three = (said(model, [[0, 5, 6, *[PAD] * pads]], visual[:1])[0, -1] for pads in (1, 3))
    assert torch.allclose(one, three, atol=1e-5)
    assert (one - said(model, [[0, 5, 6]], visual[:1])[0, -1]).abs().max() > 1e-2


def test_nothing_is_known_of_later_words(model: Prismer, visual: torch.Tensor) -> None:
    some, other = (
        said(model, [[0, 5, 6, 7], [0, 5, 8, 9]], visual)[:, :2],
        said(model, [[0, 5, 9, 9], [0, 5, 3, 4]], visual),
    )
    assert torch.allclose(some, other[:, :2], atol=1e-5)


def test_words_depend_on_the_photo(model: Prismer, visual: torch.Tensor) -> None:
    both = said(model, [[0, 5, 6], [0, 5, 6]], visual)
    assert (both[0] - both[1]).abs().max() > 1e-2


@pytest.mark.parametrize("steps", [[1, 1, 1, 1, 1, 1], [3, 1, 2], [5, 1]])
def test_cached_is_uncached(model: Prismer, visual: torch.Tensor, steps: list[int]) -> None:
    ids = torch.tensor([[PAD, PAD, 0, 5, 6, 7], [0, 9, 8, 7, 6, 5]])
    whole = said(model, ids.tolist(), visual)
    cache, parts = Cache(), []
    with torch.no_grad():
        for new in ids.split(steps, dim=1):
            parts.append(model.decoder(new, visual, cache))
    keep = ids != PAD
    assert torch.allclose(torch.cat(parts, dim=1)[keep], whole[keep], atol=1e-5)


def test_texts_of_one_photo_share_its_keys_and_values(model: Prismer, visual: torch.Tensor) -> None:
    """Two photos, three texts of each: as six photos of one text, without a copy of what is computed of the photos."""
    ids = [[0, 5, 6], [0, 7, 8], [0, 9, PAD], [0, 5, 6], [0, 4, 4], [0, 3, 9]]
    cache = Cache()
    with torch.no_grad():
        together = model.decoder(torch.tensor(ids), visual, cache)
    alone = said(model, ids, visual.repeat_interleave(3, dim=0))
    keep = torch.tensor(ids) != PAD
    assert torch.allclose(together[keep], alone[keep], atol=1e-5)
    assert [len(layer.visual[0]) for layer in cache.layers if layer.visual is not None] == [2, 2]


def test_the_cache_goes_on_with_chosen_rows(model: Prismer, visual: torch.Tensor) -> None:
    cache = Cache()
    with torch.no_grad():
        model.decoder(torch.tensor([[0, 5], [0, 6]]), visual, cache)
        cache.select(torch.tensor([0, 0, 1, 1]))
        model.decoder(torch.tensor([[7], [8], [9], [10]]), visual, cache)
        cache.select(torch.tensor([1, 1, 2, 3]))
        last = model.decoder(torch.tensor([[11], [12], [13], [14]]), visual, cache)[:, -1]
    whole = said(model, [[0, 5, 8, 11], [0, 5, 8, 12], [0, 6, 9, 13], [0, 6, 10, 14]], visual)[:, -1]
    assert torch.allclose(last, whole, atol=1e-5)


def test_prompts_are_padded_before_they_are_gone_on_from() -> None:
    text = small_model().config.text
    ids = torch.tensor([[0, 5, PAD, PAD], [PAD, 0, 5, 6], [0, PAD, 5, PAD]])
    assert prompts_of(ids, text).tolist() == [[PAD, PAD, 0, 5], [PAD, 0, 5, 6], [PAD, PAD, 0, 5]]
    with_gap = text.model_copy(update={"pad_before_answer": True})
    assert prompts_of(ids, with_gap)[:, -2:].tolist() == [[5, PAD], [6, PAD], [5, PAD]]


def test_only_the_last_word_may_be_asked_for(model: Prismer, visual: torch.Tensor) -> None:
    ids = torch.tensor([[0, 5, 6], [0, 7, 8]])
    with torch.no_grad():
        last = model.decoder(ids, visual, only_last=True)
    assert last.shape == (2, 1, 40) and torch.allclose(last[:, 0], said(model, ids.tolist(), visual)[:, -1], atol=1e-6)


def test_more_words_than_positions_are_refused(model: Prismer, visual: torch.Tensor) -> None:
    assert model.config.text.longest == 32
    assert said(model, [[0] + [5] * 31], visual[:1]).isfinite().all()
    with pytest.raises(ValueError, match="33 tokens with padding; this Prismer has positions for 32"):
        said(model, [[0] + [5] * 32], visual[:1])


def test_an_output_matrix_of_its_own_changes_what_is_said(visual: torch.Tensor) -> None:
    tied, untied = small_model(), small_model(tied=False)
    assert untied.decoder.head.matrix is not None and tied.decoder.head.matrix is None
    names = {name for name, _ in untied.named_parameters()} - {name for name, _ in tied.named_parameters()}
    assert names == {"decoder.head.matrix"}
    with torch.no_grad():
        untied.decoder.head.matrix.zero_()
    logits = said(untied, [[0, 5]], visual[:1])
    assert torch.allclose(logits[0, 0], untied.decoder.head.bias)


def test_short_texts_are_padded_at_the_end() -> None:
    assert padded([[0, 5, 6], [0]], pad=PAD).tolist() == [[0, 5, 6], [0, PAD, PAD]]
