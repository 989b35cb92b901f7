"""Prismer in training: the loss by hand, what is frozen, and one batch learned by heart."""

from __future__ import annotations

import pytest
import torch

from tests.small_prismer import EOS, PAD, batch_of, small_config, small_model, without
from trainer.prismer.config import SIX, PrismerConfig
from trainer.prismer.generation import Search
from trainer.prismer.loss import Objective, loss_of
from trainer.prismer.model import ADDED, Frozen, Prismer
from trainer.prismer.text import joined, padded

TEXT = small_config().text


def test_a_prompt_is_followed_by_its_answer() -> None:
    text = joined([[0, 20], [0, 21, 22]], [[5, EOS], [6, 7, EOS]], TEXT, weights=[1.0, 0.2])
    assert text.ids_BL.tolist() == [[0, 20, 5, EOS, PAD, PAD], [0, 21, 22, 6, 7, EOS]]
    assert text.answer_BL.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert text.weight_B.tolist() == pytest.approx([1.0, 0.2])
    gap = joined([[0, 20]], [[5, EOS]], small_config(pad_before_answer=True).text)
    assert gap.ids_BL.tolist() == [[0, 20, PAD, 5, EOS]] and gap.answer_BL.int().tolist() == [[0, 0, 0, 1, 1]]
    for prompts, answers in (([[]], [[5]]), ([[0]], [[]])):
        with pytest.raises(ValueError, match="a text without tokens"):
            joined(prompts, answers, TEXT)


def test_the_loss_by_hand() -> None:
    text = joined([[0, 20], [0]], [[5, EOS], [6, 7, EOS]], TEXT, weights=[1.0, 0.2])
    logits = torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    log_probs = logits.detach().log_softmax(dim=2)
    said = {(0, 1): 5, (0, 2): EOS, (1, 0): 6, (1, 1): 7, (1, 2): EOS}
    smoothed = {at: -(0.9 * log_probs[at][word] + 0.1 * log_probs[at].mean()) for at, word in said.items()}
    texts = [sum(float(value) for (row, _), value in smoothed.items() if row == which) for which in (0, 1)]
    loss = loss_of(logits, text, Objective())
    assert loss.loss.item() == pytest.approx((texts[0] + 0.2 * texts[1]) / 2, rel=1e-5)
    assert loss_of(logits, text, Objective(per="token")).loss.item() == pytest.approx(
        (texts[0] + 0.2 * texts[1]) / 5, rel=1e-5
    )
    assert loss.nll.item() == pytest.approx(-sum(float(log_probs[at][word]) for at, word in said.items()), rel=1e-5)
    assert loss.correct.item() == sum(int(log_probs[at].argmax()) == word for at, word in said.items())
    assert loss.tokens.item() == 5 and not loss.nll.requires_grad
    assert loss.stats() == {"nll": (loss.nll, loss.tokens), "accuracy": (loss.correct, loss.tokens)}
    (gradient,) = torch.autograd.grad(loss.loss, logits)
    assert {tuple(at) for at in gradient.abs().sum(2).nonzero().tolist()} == set(said), "only answers are learned"


@pytest.mark.parametrize("wrong", [{"smoothing": 1.0}, {"smoothing": -0.1}, {"per": "batch"}])
def test_an_impossible_objective_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Objective(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["nothing", "vision", "backbones"])
def test_what_is_frozen_does_not_move_and_all_else_does(what: Frozen) -> None:
    model = small_model(*SIX).train()
    model.freeze(what)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    model(batch_of(*SIX)).loss.backward()
    optimizer.step()
    still = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}

    def frozen(name: str) -> bool:
        kinds = {"nothing": (), "vision": ("encoder.blocks.",), "backbones": ("encoder.blocks.", "decoder.layers.")}[
            what
        ]
        return name.startswith(kinds) and name.split(".")[3] not in ADDED

    assert still == {name for name in before if frozen(name)}
    assert bool(still) == (what != "nothing")
    model.freeze("nothing")
    assert all(value.requires_grad for value in model.parameters())


def test_one_batch_is_learned_by_heart() -> None:
    """Different answers to photos with the same prompt: they can only be told apart by what is seen."""
    torch.manual_seed(0)
    config = PrismerConfig.of("tiny", experts=("depth", "detection"), resolution=32, label_resolution=32, words=40)
    model = Prismer(config, objective=Objective(smoothing=0.0, per="token")).train()
    draw = torch.Generator().manual_seed(4)
    batch = batch_of("depth", "detection")
    answers = [[5, 6, 7, EOS], [8, 9, EOS], [10, 11, 12, 13, EOS]]
    batch = batch._replace(
        photo_B3HW=torch.randn(3, 3, 32, 32, generator=draw),
        labels=batch.labels | {"depth": without(batch.labels["depth"], 1)},
        text=joined([[0, 20]] * 3, answers, config.text),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(batch)
        loss.loss.backward()
        optimizer.step()
        losses.append(loss.loss.item())
    assert losses[0] > 3 and losses[-1] < 0.1
    model.eval()
    with torch.no_grad():
        visual = model.encode(batch.photo_B3HW, batch.labels)
    written = model.generate(visual, padded([[0, 20]] * 3, pad=PAD), Search(beams=3, most=8))
    assert [one.ids for one in written] == [answer[:-1] for answer in answers]
    ranked = model.rank(visual, padded([[0, 20]] * 3, pad=PAD), answers)
    assert ranked.answers_BK[:, 0].tolist() == [0, 1, 2]


def test_half_precision_is_finite_and_near() -> None:
    model = small_model(*SIX).train()
    torch.manual_seed(1)
    whole = model(batch_of(*SIX))
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        batch = batch_of(*SIX)
        batch.labels["edge"] = without(batch.labels["edge"], 0)  # type: ignore[index]
        half = model(batch)
    half.loss.backward()
    assert half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(whole.loss.item(), rel=0.05)
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_blocks_are_what_repeats() -> None:
    model = small_model(*SIX)
    kinds = [type(block).__name__ for block in model.blocks()]
    assert kinds == ["ResamplerBlock"] * 2 + ["VisionBlock"] * 2 + ["DecoderLayer"] * 2 + ["TextLayer"]


def test_the_same_seed_makes_the_same_model() -> None:
    one, same, other = (small_model(*SIX, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["encoder.positions"], other["encoder.positions"])
