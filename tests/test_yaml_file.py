"""Files that users write: mistakes that pydantic does not see, or says at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.sources_file import load_sources
from jobs.yaml_file import read_yaml
from pipeline.errors import JobError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images:\n  - {source: coco, images: /a, captions: /c, images: /b}\n", "the key `images` stands twice"),
        ("seed: 1\nimages: []\nseed: 2\n", "the key `seed` stands twice"),
        ("root: /a\nimages: [{source: folder, path: ${root}/b}]\n", r"a text with \${root} needs quotes"),
        (
            "images: [{source: cocoo, images: /a}]\n",
            "unknown source `cocoo`; did you mean `coco`\\? known are folder, coco,",
        ),
        ("images: [{source: q, path: /a}]\n", "unknown source `q`; known are folder, coco,"),
        (
            "images: [{source: folder, path: /a}]\nguard: [{guard: vqas, file: /b}]\n",
            "`guard.0`: .* did you mean `vqa`",
        ),
    ],
)
def test_a_mistake_is_said_with_the_way_out(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sources.yaml").write_text(text)
    with pytest.raises(JobError, match=said) as caught:
        load_sources(str(tmp_path / "sources.yaml"))
    assert "\n" not in str(caught.value) and "Input tag" not in str(caught.value)


def test_anchors_may_be_merged_and_what_was_merged_may_be_said_again(tmp_path: Path) -> None:
    text = "base: &base {side: 1, name: a}\nmine: {<<: *base, name: b}\nother: {name: a}\n"
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(str(tmp_path / "a.yaml"))["mine"] == {"side": 1, "name": "b"}


def test_braces_are_blamed_on_the_root_only_where_it_stands_in_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("images: [{source: folder\n")
    with pytest.raises(JobError) as caught:
        read_yaml(str(tmp_path / "a.yaml"))
    assert "needs quotes" not in str(caught.value)
