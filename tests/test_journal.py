"""The journal finds what kills workers within a few deaths, and convicts nobody else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.record import ImageRecord
from pipeline.journal import MAX_DEATHS, READ, Journal
from pipeline.photos import Limits
from pipeline.reading import read_warily
from pipeline.storage import Storage, open_storage

STAGES = (READ, "depth", "seg")
BATCH = 4


class Death(Exception):
    """Where a real worker process would have ended: the journal's `done` is never called."""


def attempt(
    storage: Storage, ids: Sequence[str], poison: dict[str, str], *, run: str = "run", dies_at: int | None = None
) -> Journal:
    """One attempt at a unit, in the order of a labeller: groups are read, then labelled by one expert after the other.

    ``poison``: the stage at which an image kills. ``dies_at``: the step at which the machine goes down for no reason of
    ours. Raises Death; otherwise every image that is not convicted has been through every stage.
    """
    journal = Journal(storage, run, "unit")
    if journal.deaths >= MAX_DEATHS:
        journal.done()
        return journal
    step = 0
    for group in groups(ids, journal):
        for stage in STAGES:
            at_work = [
                image_id for image_id in group if image_id not in journal.convicted(stage) | journal.convicted(READ)
            ]
            if at_work:
                journal.enter(stage, at_work)
            if step == dies_at or any(poison.get(image_id) == stage for image_id in at_work):
                raise Death
            step += 1
    journal.done()
    return journal


def verdicts(journal: Journal) -> dict[str, str]:
    """Stage by image; of no image more than one here, because poison kills at one stage."""
    return {image_id: stage for stage in STAGES for image_id in journal.convicted(stage)}


def groups(ids: Sequence[str], journal: Journal) -> list[list[str]]:
    """The groups that the reader would make, suspects by themselves."""
    found: list[list[str]] = [[]]
    for image_id in ids:
        if image_id in journal.suspects:
            found += [[image_id], []]
        else:
            if len(found[-1]) == BATCH:
                found.append([])
            found[-1].append(image_id)
    return [group for group in found if group]


def until_done(storage: Storage, ids: Sequence[str], poison: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Attempts until one comes through: the deaths it took, and who was convicted."""
    for deaths in range(MAX_DEATHS + 1):
        try:
            return deaths, verdicts(attempt(storage, ids, poison))
        except Death:
            continue
    raise AssertionError("an endless retry")


def ids_of(count: int) -> list[str]:
    return [f"image-{index:02d}" for index in range(count)]


@pytest.fixture
def storage(url: str) -> Storage:
    return open_storage(url)


def test_the_steps_from_blind_to_convicted(storage: Storage) -> None:
    first = Journal(storage, "run", "unit")
    assert (first.deaths, first.talkative, first.suspects, verdicts(first)) == (0, False, set(), {})
    first.enter("depth", ["a", "b"])  # silent: costs nothing while nobody has died
    second = Journal(storage, "run", "unit")
    assert (second.deaths, second.talkative, second.suspects, verdicts(second)) == (1, True, set(), {})
    second.enter(READ, ["x", "y"])
    second.enter("depth", ["a", "b"])
    third = Journal(storage, "run", "unit")
    assert (third.deaths, third.suspects, verdicts(third)) == (2, {"a", "b"}, {})
    third.enter("depth", ["b"])
    fourth = Journal(storage, "run", "unit")
    assert (fourth.suspects, verdicts(fourth)) == ({"a", "b"}, {})
    fourth.enter("depth", ["b"])
    fifth = Journal(storage, "run", "unit")
    assert (fifth.deaths, fifth.suspects, verdicts(fifth)) == (4, {"a", "b"}, {"b": "depth"})
    fifth.done()
    assert storage.names("attempts/run") == []
    assert Journal(storage, "run", "unit").deaths == 0


def test_runs_and_units_do_not_count_for_each_other(storage: Storage) -> None:
    for _ in range(5):
        Journal(storage, "run-1", "unit").enter("depth", ["a"])
    assert Journal(storage, "run-1", "unit").convicted("depth") == {"a"}
    assert Journal(storage, "run-2", "unit").deaths == 0
    assert Journal(storage, "run-1", "other").deaths == 0


def test_an_entry_that_did_not_survive_a_crash_of_the_machine(storage: Storage) -> None:
    """Entries are not durable: after a power cut the file may be there and empty."""
    for left in (b"", b"\0\0\0\0", b'[{"stage": "de'):
        storage.replace("attempts/run/unit.json", left)
        journal = Journal(storage, "run", "unit")
        assert journal.deaths == 0
        assert json.loads(storage.read("attempts/run/unit.json")) == [{}]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("at", [0, 5, 15])
def test_one_poison_costs_four_deaths_at_most(storage: Storage, stage: str, at: int) -> None:
    ids = ids_of(16)
    deaths, convicted = until_done(storage, ids, {ids[at]: stage})
    assert convicted == {ids[at]: stage} and deaths <= 4


def test_the_last_image_of_a_unit_is_suspected_alone_at_once(storage: Storage) -> None:
    ids = ids_of(BATCH + 1)
    assert until_done(storage, ids, {ids[-1]: "seg"}) == (3, {ids[-1]: "seg"})


@pytest.mark.parametrize("pair", [(0, 1), (3, 4), (2, 14), (14, 15)])
@pytest.mark.parametrize("stages", [("depth", "depth"), (READ, "seg"), ("seg", READ)])
def test_two_poisons_in_one_unit_are_both_found(
    storage: Storage, pair: tuple[int, int], stages: tuple[str, str]
) -> None:
    ids = ids_of(16)
    poison = {ids[at]: stage for at, stage in zip(pair, stages, strict=True)}
    deaths, convicted = until_done(storage, ids, poison)
    assert convicted == poison and deaths <= 7


def test_an_image_that_kills_at_two_stages_is_kept_from_both(storage: Storage) -> None:
    """Convicted at one stage it goes on to the next: the later verdict must not undo the earlier."""
    for stage in ("depth", "depth", "seg", "seg"):
        Journal(storage, "run", "unit")  # a blind attempt, or one that dies before it says anything
        Journal(storage, "run", "unit").enter(stage, ["a"])
    journal = Journal(storage, "run", "unit")
    assert journal.convicted("depth") == {"a"} == journal.convicted("seg") and journal.convicted(READ) == set()


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 14),
    poisoned=st.dictionaries(st.integers(0, 13), st.sampled_from(STAGES), max_size=3),
    places=st.lists(st.integers(0, 60), max_size=6, unique=True),
)
def test_the_innocent_are_never_convicted(count: int, poisoned: dict[int, str], places: list[int]) -> None:
    """Machines go down at random steps, each step once, between the deaths that poison causes."""
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    ids = ids_of(count)
    poison = {ids[at]: stage for at, stage in poisoned.items() if at < count}
    innocent_deaths: set[tuple[str, str]] = set()
    convicted: dict[str, str] = {}
    todo = list(places)
    for _ in range(MAX_DEATHS):
        dies_at = todo.pop() if todo else None
        try:
            convicted = verdicts(attempt(storage, ids, poison, dies_at=dies_at))
        except Death:
            entry = json.loads(storage.read("attempts/run/unit.json"))[-1]
            if entry and len(entry["ids"]) == 1 and poison.get(entry["ids"][0]) != entry["stage"]:
                who = (entry["ids"][0], entry["stage"])
                if who in innocent_deaths:
                    return  # a second bolt into the same place: more than the journal promises to survive
                innocent_deaths.add(who)
            continue
        break
    else:
        raise AssertionError("an endless retry")
    assert convicted.items() <= poison.items()


def test_reading_warily_announces_before_it_reads(storage: Storage) -> None:
    """Suspects come alone, convicts are not read, and everything stays in order."""
    records = [ImageRecord(image_id=i, source="t", uri=f"file:///nowhere/{i}") for i in ids_of(9)]
    suspect, convict = records[2].image_id, records[6].image_id
    for ids in ([suspect, convict], [convict], [convict]):
        Journal(storage, "run", "unit")
        journal = Journal(storage, "run", "unit")
        if journal.talkative:
            journal.enter(READ, ids)
    journal = Journal(storage, "run", "unit")
    assert journal.convicted(READ) == {convict} and journal.suspects == {suspect, convict}
    said: list[list[str]] = []
    found = []
    for batch in read_warily(records, Limits(), batch=4, journal=journal):
        said.append(json.loads(storage.read("attempts/run/unit.json"))[-1].get("ids"))
        found.append([reading.record.image_id[-2:] for reading in batch])
        for reading in batch:
            code = "killed its worker" if reading.record.image_id == convict else "missing"
            assert reading.photo is None and reading.reason.startswith(f"{code}: ")
    assert found == [["00", "01"], ["02"], ["03", "04", "05"], ["06"], ["07", "08"]]
    assert [ids and [i[-2:] for i in ids] for ids in said] == [
        ["00", "01"],
        ["02"],
        ["03", "04", "05"],
        ["03", "04", "05"],  # nothing is said of the convict, because nothing is done with it
        ["07", "08"],
    ]
