"""Writing and ranking: the cache changes nothing, batch mates change nothing, and the best is the best.

tests/data/prismer_beams.json: what transformers 4.26.1, with which the released checkpoints were evaluated, wrote, run outside this
repository, for a model that is a table: from place and word to logits, ``ruled_array("beams <number>", (12, 7, 7), -3, 3)``, with
pad at -10000 and number modulo 5 added to eos. Each case: beams, length penalty, tokens of the prompt (of 0, 3, 4), least and most
new tokens, the text.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from tests.ruled_weights import ruled_array
from tests.small_prismer import EOS, PAD, labels, photos, small_config, small_model, without
from trainer.prismer.config import SIX
from trainer.prismer.generation import Search, Step, Written, write
from trainer.prismer.model import Prismer
from trainer.prismer.text import padded

PROMPTS = [[0, 5, 6, 7], [0, 8], [0, 9, 10]]
SEARCHES = [
    Search(beams=1, most=12),
    Search(beams=3, least=3, most=12),
    Search(beams=4, most=9, length_penalty=-1.0),
    Search(beams=2, most=1),
]

#: Makes eos likelier, so that some texts end and some do not.
ENDING = 4.0


@pytest.fixture(scope="module")
def model() -> Prismer:
    model = small_model(*SIX)
    with torch.no_grad():
        model.decoder.head.bias[EOS] += ENDING
    return model


@pytest.fixture(scope="module")
def visual(model: Prismer) -> torch.Tensor:
    given = labels()
    given["depth"] = without(given["depth"], 2)
    with torch.no_grad():
        return model.encode(photos(), given)


def uncached(model: Prismer, visual: torch.Tensor, prompts: list[list[int]]) -> tuple[torch.Tensor, Step]:
    """The first logits and the steps after them, every text computed anew and alone, with its own copy of the photo."""
    rows = [(list(prompt), photo) for photo, prompt in enumerate(prompts)]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model.decoder(torch.tensor([ids]), visual[photo, None])[:, -1] for ids, photo in rows])

    def step(tokens: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        rows[:] = [
            ([*rows[row][0], *new], rows[row][1]) for row, new in zip(chosen.tolist(), tokens.tolist(), strict=True)
        ]
        return logits()

    return logits(), step


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_cached_and_uncached_write_the_same(model: Prismer, visual: torch.Tensor, search: Search) -> None:
    first, step = uncached(model, visual, PROMPTS)
    expected = write(first, step, prompt_lengths=[4, 2, 3], text=model.config.text, search=search)
    written = model.generate(visual, padded(PROMPTS, pad=PAD), search)
    assert [one.ids for one in written] == [one.ids for one in expected]
    assert [one.score for one in written] == pytest.approx([one.score for one in expected], rel=1e-5)


def test_texts_differ_and_some_end(model: Prismer, visual: torch.Tensor) -> None:
    """Else the tests here say little."""
    written = [model.generate(visual, padded(PROMPTS, pad=PAD), search) for search in SEARCHES[:3]]
    assert len({len(one.ids) for texts in written for one in texts}) > 2
    assert len({tuple(one.ids) for one in written[1]}) == 3


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_a_text_does_not_depend_on_its_batch_mates(model: Prismer, visual: torch.Tensor, search: Search) -> None:
    together = model.generate(visual, padded(PROMPTS, pad=PAD), search)
    on_the_left = torch.tensor([[PAD] * (6 - len(prompt)) + prompt for prompt in PROMPTS])
    assert [one.ids for one in model.generate(visual, on_the_left, search)] == [one.ids for one in together]
    for row, prompt in enumerate(PROMPTS):
        (alone,) = model.generate(visual[row, None], torch.tensor([prompt]), search)
        assert alone.ids == together[row].ids and alone.score == pytest.approx(together[row].score, rel=1e-5)
    backwards = model.generate(visual.flip(0), padded(PROMPTS[::-1], pad=PAD), search)
    assert [one.ids for one in backwards[::-1]] == [one.ids for one in together]


def test_one_beam_takes_the_likeliest_word(model: Prismer, visual: torch.Tensor) -> None:
    for row, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for number in range(12):
            with torch.no_grad():
                logits = model.decoder(torch.tensor([ids]), visual[row, None])[0, -1]
            logits[[PAD, EOS] if number < 2 else [PAD]] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == EOS:
                break
        (written,) = model.generate(visual[row, None], torch.tensor([prompt]), Search(beams=1, least=2, most=12))
        assert written.ids == [word for word in ids[len(prompt) :] if word != EOS]


class TableModel:
    """Logits of the next word are a table's, by place and by the word before."""

    def __init__(self, table: torch.Tensor, prompt: list[int]) -> None:
        self.table = table
        self.rows = [prompt]

    def logits(self) -> torch.Tensor:
        return torch.stack([self.table[len(ids) - 1, ids[-1]] for ids in self.rows])

    def step(self, tokens: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        self.rows = [[*self.rows[row], *new] for row, new in zip(chosen.tolist(), tokens.tolist(), strict=True)]
        return self.logits()

    def write(self, search: Search) -> Written:
        text, prompt = small_config().text, len(self.rows[0])
        (written,) = write(self.logits(), self.step, prompt_lengths=[prompt], text=text, search=search)
        return written


def test_beams_are_those_of_transformers() -> None:
    cases = json.loads((Path(__file__).parent / "data" / "prismer_beams.json").read_text())
    texts = []
    for number, (beams, penalty, prompt, least, most, _) in enumerate(cases):
        table = torch.from_numpy(ruled_array(f"beams {number}", (12, 7, 7), -3, 3))
        table[:, :, PAD] = -10000
        table[:, :, EOS] += number % 5
        model = TableModel(table, [0, 3, 4][:prompt])
        texts.append(model.write(Search(beams=beams, least=least, most=most, length_penalty=penalty)).ids)
    assert {len(ids) for ids in texts} == set(range(9))
    assert texts == [case[-1] for case in cases]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_best_of_all_texts(penalty: float) -> None:
    """Two words, pad and eos, and up to three tokens: all texts can be counted, and two beams find the best here."""
    table = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(7)) * 2
    words = (0, 3)

    def score(ids: tuple[int, ...]) -> float:
        log_probs = [
            table[place, before].log_softmax(0)[word]
            for place, (before, word) in enumerate(zip((0, *ids), ids, strict=False))
        ]
        return float(sum(log_probs)) / (1 + len([word for word in ids if word != EOS])) ** penalty

    texts = [(*ids, EOS) for length in (1, 2) for ids in itertools.product(words, repeat=length)]
    best = max([*texts, *itertools.product(words, repeat=3)], key=score)
    written = TableModel(table, [0]).write(Search(beams=2, least=1, most=3, length_penalty=penalty))
    assert written.ids == [word for word in best if word != EOS]
    assert written.score == pytest.approx(score(best), rel=1e-5)


def test_least_and_most_are_kept(model: Prismer, visual: torch.Tensor) -> None:
    prompts = padded(PROMPTS, pad=PAD)
    assert all(len(one.ids) >= 7 for one in model.generate(visual, prompts, Search(beams=3, least=7, most=9)))
    assert all(len(one.ids) <= 2 for one in model.generate(visual, prompts, Search(beams=3, most=2)))
    assert all(PAD not in one.ids and EOS not in one.ids for one in model.generate(visual, prompts, Search(most=12)))
    for wrong in ({"beams": 0}, {"least": 5, "most": 4}, {"most": 0}):
        with pytest.raises(ValueError, match="expected one of each or more"):
            Search(**wrong)


ANSWERS = [[11, EOS], [12, 13, EOS], [11, 14, 15, EOS], [16, EOS], [17, 18, EOS], [12, EOS], [EOS]]


def direct(
    model: Prismer, visual_ND: torch.Tensor, prompt: list[int], answer: list[int], smoothing: float = 0.0
) -> float:
    with torch.no_grad():
        log_probs = model.decoder(torch.tensor([prompt + answer]), visual_ND[None])[0].log_softmax(dim=1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    tokens = [
        (1 - smoothing) * log_probs[place, word] + smoothing * log_probs[place].mean()
        for place, word in zip(places, answer, strict=True)
    ]
    return float(sum(tokens)) / len(answer)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_score_is_the_mean_log_probability_of_the_answer(
    model: Prismer, visual: torch.Tensor, smoothing: float
) -> None:
    ranked = model.rank(visual, padded(PROMPTS, pad=PAD), ANSWERS, best=len(ANSWERS), smoothing=smoothing)
    for row, prompt in enumerate(PROMPTS):
        expected = [direct(model, visual[row], prompt, answer, smoothing) for answer in ANSWERS]
        assert ranked.answers_BK[row].tolist() == sorted(range(len(ANSWERS)), key=lambda place: -expected[place])
        assert ranked.scores_BK[row].tolist() == pytest.approx(sorted(expected, reverse=True), rel=1e-5)


def test_a_rank_does_not_depend_on_batch_mates(model: Prismer, visual: torch.Tensor) -> None:
    together = model.rank(visual, padded(PROMPTS, pad=PAD), ANSWERS, best=4)
    for row, prompt in enumerate(PROMPTS):
        alone = model.rank(visual[row, None], torch.tensor([[PAD, *prompt, PAD]]), ANSWERS, best=4)
        assert alone.answers_BK[0].tolist() == together.answers_BK[row].tolist()
        assert torch.allclose(alone.scores_BK[0], together.scores_BK[row], atol=1e-5)


def test_only_answers_that_begin_well_are_scored_and_equals_keep_their_order(
    model: Prismer, visual: torch.Tensor
) -> None:
    with torch.no_grad():
        first = model.decoder(torch.tensor([PROMPTS[0]]), visual[:1])[0, -1]
    best_two = sorted(range(len(ANSWERS)), key=lambda place: (-float(first[ANSWERS[place][0]]), place))[:2]
    prompt = torch.tensor([PROMPTS[0]])
    assert sorted(model.rank(visual[:1], prompt, ANSWERS, best=2).answers_BK[0].tolist()) == sorted(best_two)
    twins = model.rank(visual[:1], prompt, [[11, EOS]] * 5, best=3)
    assert twins.answers_BK.tolist() == [[0, 1, 2]] and len(set(twins.scores_BK[0].tolist())) == 1


def test_answers_of_one_token_are_ranked_by_it(model: Prismer, visual: torch.Tensor) -> None:
    ranked = model.rank(visual, padded(PROMPTS, pad=PAD), [[11], [12], [13]])
    assert sorted(ranked.answers_BK[0].tolist()) == [0, 1, 2]
    assert ranked.scores_BK[0, 0] == pytest.approx(
        max(direct(model, visual[0], PROMPTS[0], [word]) for word in (11, 12, 13))
    )
    with pytest.raises(ValueError, match="expected a list of answers"):
        model.rank(visual, padded(PROMPTS, pad=PAD), [[11], []])


def test_with_a_pad_before_the_answer_writing_goes_on_from_it() -> None:
    model = small_model(pad_before_answer=True)
    visual = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3))
    (written, _) = model.generate(visual, torch.tensor([[0, 5, PAD], [0, 6, 7]]), Search(beams=1, most=3))
    ids = [0, 5, PAD]
    for _ in written.ids:
        with torch.no_grad():
            logits = model.decoder(torch.tensor([ids]), visual[:1])[0, -1]
        logits[PAD] = -torch.inf
        ids.append(int(logits.argmax()))
    assert written.ids == ids[3:]
