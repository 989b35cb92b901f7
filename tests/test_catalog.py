"""From a name in a job file to an Expert, or to one line that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from expert_zoo.catalog import EXPERTS, create
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label
from jobs.expert_commands import experts
from pipeline.errors import JobError
from tests.seeded_zoo import OPTIONS
from tests.stand_ins import GREY, Grey, Troubled, card

HERE = "tests.test_catalog"


class Fussy(Expert):
    """Needs an option, and refuses some of its values."""

    def __init__(self, *, side: int, name: str = "fussy") -> None:
        if side < 1:
            raise ValueError(f"side {side}: expected 1 or more")
        self.card = card(name, GREY, preprocessing={"side": side})

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [Label.empty() for _ in photos]


class NoExpert:
    pass


def test_a_name_of_the_table() -> None:
    expert = create("image")
    assert expert.card.name == "image" and isinstance(expert, Expert)


def test_the_table_names_importable_places_only() -> None:
    for name, where in EXPERTS.items():
        module, _, class_name = where.partition(":")
        assert module.startswith("expert_zoo.") and class_name.isidentifier(), name


@pytest.mark.parametrize("name", sorted(EXPERTS))
def test_an_expert_of_the_table_calls_itself_so_before_anything_is_loaded(name: str) -> None:
    expert = create(name, options=OPTIONS.get(name))
    assert expert.card.name == name and expert.needs.batch_size >= 1


def test_an_expert_of_one_s_own() -> None:
    expert = create("troubled", use="tests.stand_ins:Troubled", options={"trouble": "raise"})
    assert isinstance(expert, Troubled)
    assert create("fussy", use=f"{HERE}:Fussy", options={"side": 3}).card.preprocessing == {"side": 3}
    assert create("grey", use="tests.stand_ins:Grey").card == Grey().card


@pytest.mark.parametrize(
    ("name", "use", "options", "message"),
    [
        ("pocket_dept", None, {}, "unknown expert 'pocket_dept'; did you mean 'pocket_depth'"),
        ("orc", None, {}, "did you mean 'ocr'"),
        ("zzz", None, {}, "unknown expert 'zzz'; known are image, ocr, "),
        ("", None, {}, "unknown expert ''"),
        ("image", None, {"longside": 3}, "expert 'image' has no option 'longside'; it takes "),
        ("grey", "tests.stand_ins:Grey", {"side": 1}, "it takes name, delay"),
        ("gray", "tests.stand_ins:Grey", {}, "the job calls it 'gray', its card 'grey'"),
        ("fussy", f"{HERE}:Fussy", {}, "expert 'fussy'.*side"),
        ("fussy", f"{HERE}:Fussy", {"side": 0}, "side 0: expected 1 or more"),
        ("x", "no.such.module:X", {}, "cannot import 'no.such.module:X'"),
        ("x", "tests.stand_ins:Nobody", {}, "cannot import"),
        ("x", "tests.stand_ins", {}, "cannot import 'tests.stand_ins'.*expected `module:Class`"),
        ("x", ":Grey", {}, "cannot import"),
        ("x", ".stand_ins:Grey", {}, "cannot import"),
        ("x", "", {}, "unknown expert 'x'"),
        ("x", f"{HERE}:NoExpert", {}, "is not a subclass"),
        ("x", f"{HERE}:HERE", {}, "is not a subclass"),
        ("x", "expert_zoo.expert:Expert", {}, "expert 'x'"),
    ],
)  # fmt: skip
def test_what_a_job_file_can_get_wrong(name: str, use: str | None, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        create(name, use=use, options=options)
    assert "\n" not in str(caught.value)


def test_a_class_of_your_own_is_shown_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    experts("grey", use="tests.stand_ins:Grey")
    assert capsys.readouterr().out.startswith("grey\n")
    with pytest.raises(JobError, match="experts NAME --use tests.stand_ins:Grey"):
        experts(use="tests.stand_ins:Grey")


@pytest.mark.parametrize(("name", "options"), [("edge", {"side": 3}), ("depth_anything", {"size": "huge"})])
def test_an_option_of_no_sense_is_told_with_its_expert_once(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: (?!{name})"):
        create(name, options=options)


def test_a_module_that_fails_while_it_is_imported_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_expert.py").write_text("import numpy as np\n\nHALF = np.no_such_type\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"no_such_type.*, broken_expert\.py:3\); expected `module:Class`"):
        create("broken", use="broken_expert:Broken")
