"""What a run tells machines: numbers through Ray's metrics, lines of JSON, and a dashboard that asks for what there is."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from jobs import cli
from jobs.run_log import RunLog
from jobs.summary import ColumnSummary, Summary
from pipeline.choices import ExpertChoice, Pack, Unit
from pipeline.cluster import label_on_ray
from pipeline.events import EventLog
from pipeline.filling import CellResult
from pipeline.receipt import Seconds
from pipeline.store import LabelStore
from pipeline.telemetry import METRICS, MOST_REASONS, Telemetry
from tests.conftest import ROOT
from tests.jobs_at_work import make_photos, run, stand_in, write_job
from tests.small_store import small_store, write_manifest, write_photos
from tests.stand_ins import Grey, Troubled

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(port: int) -> Samples:
    """What a node of Ray shows to Prometheus of our metrics: value by name and our tags, summed over processes."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for name, labels, value in re.findall(r"^(ray_expert_labels_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        own = frozenset((tag, tags[tag]) for tag in ("expert", "reason", "phase", "outcome", "store") if tag in tags)
        found[name, own] = found.get((name, own), 0.0) + float(value)
    return found


@pytest.fixture
def a_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A Ray of two CPUs in which workers find these tests; the port at which it shows its metrics."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ray.shutdown()  # one that an earlier test left
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray.nodes()[0]["MetricsExportPort"]
    ray.shutdown()


@pytest.mark.long  # and in a process of its own: Ray keeps the authentication of the first cluster that a process knew
def test_workers_and_driver_export_what_a_run_did(tmp_path: Path, a_ray: int) -> None:
    manifest = write_manifest(tmp_path, write_photos(tmp_path / "photos", photos=12, broken=[2, 7]))
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=4)
    experts = [
        ExpertChoice(name="grey", use="tests.stand_ins:Grey", batch_size=3),
        ExpertChoice(name="troubled", use="tests.stand_ins:Troubled", options={"trouble": "nan"}),
    ]
    columns = [choice.create().card.column for choice in experts]
    for choice in experts:
        store.add_column(choice.create().card)
    pack = Pack(name="pack0", experts=tuple(experts), cpus=1.0, gpus=0.0, actors=(1, 1))
    units = [Unit(shard=shard, columns=tuple(columns)) for shard in store.plan.shards()]
    summary = Summary({column: ColumnSummary(asked=3) for column in columns})
    with RunLog(None, store.storage.url, "a-run", summary) as run_log:
        for results in label_on_ray(store.storage.url, [(pack, units)], run="a-run"):
            for result in results:
                summary.add(result)
            run_log.add(results)
    where = ("store", store.storage.url)

    def told(name: str, **tags: str) -> float | None:
        return found.get((f"ray_expert_labels_{name}", frozenset({*tags.items(), where})))

    found: Samples = {}
    deadline = time.monotonic() + 180
    # Every process reports on its own, some seconds later.
    while not (told("images_total", expert="troubled") == 12 and told("cells_done", expert="troubled") == 3):
        assert time.monotonic() < deadline, sorted(name for name, _ in found)
        time.sleep(1)
        found = scraped(a_ray)

    assert told("images_total", expert="grey") == 12 and told("images_total", expert="troubled") == 12
    assert told("failures_total", expert="grey", reason="empty file") == 2
    assert told("failures_total", expert="troubled", reason="bad label") == 10
    assert told("cells_total", expert="grey", outcome="committed") == 3
    assert told("cells_total", expert="troubled", outcome="refused") == 3
    assert told("batch_size", expert="grey") == 3
    assert (told("cells_asked", expert="troubled"), told("cells_done", expert="troubled")) == (3, 3)
    stored = sum(store.receipt(columns[0], shard).stored for shard in store.plan.shards())
    assert told("bytes_total", expert="grey") == stored and told("bytes_total", expert="troubled") is None
    seconds = summary.columns[columns[0]].seconds
    assert told("seconds_total", expert="grey", phase="compute") == pytest.approx(seconds.compute)
    assert {name for name, _ in found} == {metric.prometheus for metric in METRICS}


def test_telemetry_without_ray_is_no_trouble_and_takes_no_time() -> None:
    assert not ray.is_initialized()
    telemetry = Telemetry("out/store")
    result = CellResult(column="grey@1", shard=0, images=4, labelled=4, failures={"x": 1}, seconds=Seconds(compute=1.0))
    telemetry.unit([result], {"grey": 4})
    start = time.perf_counter()
    for _ in range(100):
        telemetry.unit([result], {"grey": 4})
    assert (time.perf_counter() - start) / 100 < 0.005, "a unit takes seconds"


def test_reasons_without_end_are_not_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Telemetry, "_tell", lambda self, metric, value, **tags: told.append(tags.get("reason", "")))
    failures = {f"reason {number}": 1 for number in range(100)}
    telemetry = Telemetry("out/store")
    for _ in range(2):
        telemetry.unit([CellResult(column="grey@1", shard=0, images=100, failures=failures)], {})
    assert set(told) - {""} == {*(f"reason {number}" for number in range(MOST_REASONS)), "other"}


def test_keys_in_addresses_are_told_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("ray.util.metrics.Gauge.set", lambda self, value, tags: told.append(tags["store"]))
    log = tmp_path / "log.jsonl"
    summary = Summary({"grey@1": ColumnSummary(asked=1)})
    with RunLog(str(log), "s3://KEY:SECRET@bucket/labels?token=SECRET", "a-run", summary) as run_log:
        run_log.add([CellResult(column="grey@1", shard=0, images=1, refused="password=SECRET")])
    assert "SECRET" not in log.read_text() and "@bucket/labels" in log.read_text()
    assert set(told) == {"s3://***@bucket/labels?token=***"}


# ---- failures of a run


def test_a_cells_failures_are_those_of_this_run_by_code(tmp_path: Path) -> None:
    from tests.small_store import label

    sick = Troubled(trouble="fail", at="photo-4")
    store = small_store(tmp_path, [Grey()], photos=11, shard_size=4, broken=[1, 6])
    failures = [result.failures for result in label(store, [sick])]
    assert failures == [{"empty file": 1}, {"dislike": 1, "empty file": 1}, {}]
    (tmp_path / "photos" / "photo 1.png").write_bytes((tmp_path / "photos" / "photo 0.png").read_bytes())
    again = [result for result in label(store, [sick], retry=True) if result.labelled]
    assert [(result.labelled, result.failures) for result in again] == [(1, {}), (2, {"dislike": 1, "empty file": 1})]


# ---- lines of JSON


def test_a_job_tells_its_cells_by_name_in_lines_of_json(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 8)
    (photos / "broken.jpg").write_text("<html>")
    troubled = {"troubled": {"use": "tests.stand_ins:Troubled", "trouble": "nan"}}
    store, log = tmp_path / "store", tmp_path / "job.jsonl"
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=[stand_in("grey"), troubled])
    for _ in range(2):
        done = run("label", job, "--log", str(log))
        assert done.returncode == 1 and "refused: troubled" in done.stdout, done.stderr
    begun, *cells, ended = (json.loads(line) for line in log.read_text().splitlines()[:4])
    (grey, troubled_column) = sorted(begun["cells"])
    assert (begun["event"], ended["event"], ended["complete"]) == ("run begun", "run ended", False)
    told = {line["cell"]: line for line in cells}
    assert set(told) == {f"{grey}/shard-000000", f"{troubled_column}/shard-000000"}
    committed, refused = told[f"{grey}/shard-000000"], told[f"{troubled_column}/shard-000000"]
    assert (committed["outcome"], committed["failures"], committed["asked"]) == ("committed", {"not an image": 1}, 9)
    assert refused["outcome"] == "refused" and "8 of 8 readable photos" in refused["why"]
    assert {"time", "host", "pid", "run", "store"} <= set(committed)
    second = [json.loads(line) for line in log.read_text().splitlines()[4:]]
    assert [line["event"] for line in second] == ["run begun", "cell", "run ended"], "the file is appended to"


def test_a_log_that_cannot_be_written_ends_no_job(tmp_path: Path) -> None:
    class Full:
        def write(self, _: str) -> None:
            raise OSError(28, "No space left on device")

    log: Any = EventLog(Full())  # type: ignore[arg-type]
    log.tell("one")
    log.tell("two")


# ---- the dashboard


def test_the_dashboard_asks_only_for_metrics_that_are_exported_and_for_all_of_them() -> None:
    board = json.loads((ROOT / "jobs/grafana.json").read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    by_name = {metric.prometheus: metric for metric in METRICS}
    names = {name for expr in asked for name in re.findall(r"\bray_\w+", expr)}
    assert names == set(by_name)
    for expr in asked:
        (name, *_) = re.findall(r"\bray_\w+", expr)
        known = {"store", *(tag for found in re.findall(r"\bray_\w+", expr) for tag in by_name[found].tags)}
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expr))
        grouped = {tag.strip() for tags in re.findall(r"by \(([^)]*)\)", expr) for tag in tags.split(",")}
        assert used | grouped <= known, expr
        assert "rate(" not in expr or by_name[name].kind == "counter", expr
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_document_names_the_metrics_with_their_tags() -> None:
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    rows = re.findall(r"^\| `(ray_expert_labels_\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    told = {name: re.findall(r"`(\w+)`", tags) for name, tags in rows}
    assert told == {metric.prometheus: list(metric.tags) for metric in METRICS}


def test_the_document_names_the_exit_codes_of_the_command_line() -> None:
    text = (ROOT / "docs/operations.md").read_text("utf-8").partition("## Exit codes")[2].partition("## ")[0]
    told = set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE))
    assert told == set(re.findall(r"(?:: |; )(\d+) ", str(cli.__doc__))), "jobs/cli.py says which there are"
