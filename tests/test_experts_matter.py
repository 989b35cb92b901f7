"""The experiment on experts: its controls are what they say, its loss is the method's, a run goes from scenes to a table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bench.experts_matter import report
from bench.experts_matter.arms import ARMS, LONGER, SHARES, TIMES, Arm, Scale
from bench.experts_matter.experts import CorruptedDepth, Noise, is_corrupted
from bench.experts_matter.learning import RESULT, learn, lessons_of, records_of, results, write_tokenizer
from bench.experts_matter.questions import KINDS, LEFT, RIGHT, WEIGHTS, questions_of
from bench.experts_matter.store import job_of
from expert_zoo.expert import Photo
from expert_zoo.labels import DenseMap
from expert_zoo.truth import TruthDepth
from manifests.build import build
from manifests.record import ImageRecord
from manifests.scenes import parse_scene_uri, render_uri, sample_world, scene_uri
from manifests.scenes.language import extent
from pipeline.store import LabelStore
from tests.small_store import label
from trainer.data.chance import Chance
from trainer.data.selection import WHOLE
from trainer.embeddings.writing import Means, embed
from trainer.prismer.texts import Tokens

SMALL = Scale(train=6, val=2, size=48, label_size=32, steps=2, batch=3, questions=2, warm_up=0)


def photo(index: int) -> Photo:
    uri = scene_uri(5, index, 48)
    return Photo(image_id=f"scene_{index}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3)


def depth_of(expert: CorruptedDepth | TruthDepth | Noise, one: Photo) -> np.ndarray:
    (found,) = expert.label([one])
    assert isinstance(found.value, DenseMap)
    assert expert.card.spec.problem_with(found, height=one.height, width=one.width) is None
    return found.value.values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `prepare` leaves it, made in this process."""
    folder = tmp_path_factory.mktemp("experiment")
    job = job_of(SMALL, folder)
    manifest = build(job.images, str(folder / "manifest.parquet"), seed=job.seed).manifest
    store = LabelStore.create(job.store, manifest, shard_size=job.shard_size)
    label(store, job.create_experts())
    embed(store, str(folder / "embeddings"), means=Means(method="random"), say=lambda line: None)
    write_tokenizer(store, folder)
    return folder


def test_depth_is_noise_for_the_share_that_is_said_and_true_for_the_others() -> None:
    one = photo(0)
    truth = depth_of(TruthDepth(), one)
    for share in SHARES:
        found = depth_of(CorruptedDepth(share=share), one)
        assert np.array_equal(found, truth) != is_corrupted(one.image_id, share)
        assert np.array_equal(found, depth_of(CorruptedDepth(share=share), one))
    everything = depth_of(CorruptedDepth(share=100), one)
    assert abs(np.corrcoef(everything.ravel(), truth.ravel())[0, 1]) < 0.1
    assert not np.array_equal(everything, depth_of(CorruptedDepth(share=100), photo(1)))


def test_as_many_photos_are_corrupted_as_are_said_and_who_is_among_fewer_is_among_more() -> None:
    ids = [f"scene_{number}" for number in range(2000)]
    chosen = {share: {name for name in ids if is_corrupted(name, share)} for share in (0, *SHARES)}
    assert not chosen[0] and len(chosen[100]) == len(ids)
    assert chosen[25] < chosen[50] and abs(len(chosen[25]) - 500) < 60 and abs(len(chosen[50]) - 1000) < 70


def test_noise_tells_nothing_and_is_the_same_for_the_same_photo() -> None:
    noise = depth_of(Noise(), photo(0))
    assert np.array_equal(noise, depth_of(Noise(), photo(0))) and 0.4 < noise.mean() < 0.6


def test_arms_are_nested_and_the_store_has_the_labels_of_all(folder: Path) -> None:
    by_name = {arm.name: arm.columns for arm in ARMS}
    counts = [by_name[name].items() for name in ("z", "one", "two", "four", "six", "noise")]
    assert [len(labels) for labels in counts] == [0, 1, 2, 4, 6, 7]
    assert all(fewer <= more for fewer, more in zip(counts, counts[1:], strict=False))
    there = {card.name for card in LabelStore.open(str(folder / "store")).columns().values()}
    assert {expert for labels in by_name.values() for expert in labels.values()} < there


def test_questions_are_true_of_the_world_and_each_kind_has_one_prompt(folder: Path) -> None:
    records = records_of(LabelStore.open(str(folder / "store")), "train")
    asked = {record.uri: {one.kind: one for one in questions_of(record)} for record in records}
    assert {len({of[kind].question for of in asked.values() if kind in of}) for kind in KINDS} == {1}
    for uri, of in asked.items():
        world = sample_world(*parse_scene_uri(uri))
        assert of["word"].answers == (world.sign.word,) and of["count"].answers == (str(len(world.things)),)
        if "shape" in of:
            nearest = min(world.things, key=lambda thing: extent(world, thing).near)
            assert (of["shape"].answers, of["colour"].answers) == ((nearest.shape,), (nearest.colour,))
    assert 0 < sum("shape" in of for of in asked.values()) <= len(asked)


def test_left_right_and_middle_are_those_of_the_picture() -> None:
    """Of many scenes, the sign's letters lie in the third that the answer names."""
    agree = []
    for index in range(60):
        scene = render_uri(scene_uri(5, index, 96))
        record = ImageRecord(image_id=f"scene_{index}", source="s", uri=scene_uri(5, index, 96), width=96, height=96)
        (where,) = (one.answers[0] for one in questions_of(record) if one.kind == "sign")
        middle = float(scene.polygons_P42[0, :, 0].mean()) / 96
        agree.append(where == ("left" if middle < LEFT else "right" if middle > RIGHT else "middle"))
    assert np.mean(agree) > 0.9  # the board is a little wider than its word


def test_what_is_learned_of_a_photo_is_a_caption_and_each_kind_of_question_once(folder: Path) -> None:
    lessons = lessons_of(Tokens(folder), Scale())
    for record in records_of(LabelStore.open(str(folder / "store")), "train"):
        lesson = lessons(record, record.captions, WHOLE, Chance(7))
        assert len(lesson["caption"]) == 1 and len(lesson["question"]) == Scale().questions
        if len(questions_of(record)) == len(KINDS):
            assert len({tuple(said.prompt) for said in lesson["question"]}) == Scale().questions
            assert {said.weight for said in lesson["question"]} <= set(WEIGHTS.values())


def _written(folder: Path, document: Path) -> str:
    report.write(folder, document)
    return document.read_text()


def test_runs_become_a_table_and_a_plot_and_the_document_keeps_what_people_wrote(folder: Path, tmp_path: Path) -> None:
    by_name = {arm.name: arm for arm in ARMS}
    for name, seed in (("z", 0), ("z", 1), ("six", 0)):
        learn(by_name[name], seed, SMALL, folder)
    assert {(run["arm"], run["seed"]) for run in results(folder)} == {("z", 0), ("z", 1), ("six", 0)}
    document = tmp_path / "results.md"
    first = _written(folder, document)
    assert "± " in first and "6 scenes of 48 pixels" in first
    rows = report.table(results(folder), ARMS)
    assert [row[-1] for row in rows] == [
        "seeds",
        "",
        *("2" if a.name == "z" else "1" if a.name == "six" else "0" for a in ARMS),
    ]
    one = json.loads((folder / "runs" / "six-0" / RESULT).read_text())
    assert rows[2 + [arm.name for arm in ARMS].index("six")][1] == f"{one['accuracy']:.1f}"
    longer = learn(LONGER[0], 0, SMALL, folder)
    assert longer["arm"] == "z_longer" and longer["scale"] == dataclasses.asdict(SMALL) | {"steps": 2 * TIMES}
    assert [row[-1] for row in report.table(results(folder), LONGER)][2:] == ["1", *["0"] * (len(LONGER) - 1)]
    assert report.table(results(folder), ARMS) == rows
    first = _written(folder, document)
    assert "2 steps of 3 photos" in first and f"with {2 * TIMES} steps (" in first
    document.write_text(first.replace("# Results\n", "# Results\n\nOurs.\n") + "\nOurs too.\n")
    assert _written(folder, document) == first.replace("# Results\n", "# Results\n\nOurs.\n") + "\nOurs too.\n"
    assert document.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_done_goes_on_to_the_same_result(folder: Path) -> None:
    arm = Arm(name="again", title="again", labels={"depth": "truth_depth"})
    first = learn(arm, 3, SMALL, folder)
    assert learn(arm, 3, SMALL, folder) == first
    assert first["scale"] == dataclasses.asdict(SMALL)
