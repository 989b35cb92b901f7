"""Progress in a log, where there is no terminal: what is done, how fast, what failed."""

from __future__ import annotations

import pytest

from jobs.progress import Progress
from pipeline.choices import ExpertChoice, Pack, Unit
from pipeline.filling import CellResult
from pipeline.plan import Shard


def test_a_line_counts_labels_and_names_experts_only_where_they_differ(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.progress.LOG_EVERY", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    pack = Pack(name="pack0", experts=(ExpertChoice(name="a"), ExpertChoice(name="b")))
    units = [Unit(shard=Shard(index=i, start=4 * i, stop=4 * i + 4), columns=("a@1", "b@1")) for i in range(2)]
    with Progress([(pack, units)]) as progress:
        progress.add([CellResult(column="a@1", shard=0, images=4)])
        progress.add([CellResult(column="b@1", shard=0, images=4)])
        progress.add([CellResult(column=column, shard=1, images=4) for column in ("a@1", "b@1")])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("4 of 16 labels (25%)") and lines[0].endswith("(a 50%, b 0%)")
    assert lines[1].startswith("8 of 16 labels (50%)") and lines[1].endswith("0 failed")
    assert lines[2].startswith("16 of 16 labels (100%)")
