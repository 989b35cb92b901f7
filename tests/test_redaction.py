"""Secrets in what libraries quote never reach a terminal, a log or a label; what is no secret stays as it was."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label
from expert_zoo.spec import LabelSpec
from jobs.terminal import say
from pipeline.errors import JobError, in_one_line
from pipeline.redaction import redacted
from tests.small_store import small_store
from tests.stand_ins import card

SECRET = "q7RvT0pS3cr3tV4lu3Zx9"

QUOTED = [
    f"https://b.example/p.jpg?X-Amz-Credential={SECRET}%2F2026&X-Amz-Date=20260101T000000Z",
    f"https://b.example/p.jpg?X-Amz-Date=20260101T000000Z&X-Amz-Signature={SECRET}",
    f"https://b.example/p.jpg?x-amz-security-token={SECRET}",
    f"https://b.example/p.jpg?X-Goog-Signature={SECRET}&X-Goog-Expires=60",
    f"https://a.example/c/p.jpg?sv=2024-11-04&sr=b&sig={SECRET}",
    f"https://c.example/p.jpg?Expires=1&Key-Pair-Id=K1&Policy={SECRET}",
    f"https://d.example/p.jpg?api_key={SECRET}",
    f"https://d.example/p.jpg?a=1;access_token={SECRET}",
    f"s3://AKID:{SECRET}@bucket/labels",
    f"ftp://{SECRET}@host/p.jpg",
    f"{{'key': 'k', 'secret': '{SECRET}'}}",
    f'{{"aws_secret_access_key": "{SECRET}"}}',
    f"S3FileSystem(secret='{SECRET}', anon=False)",
    f"account_key = {SECRET}",
    f"headers: {{'Authorization': 'Bearer {SECRET}'}}",
    f"Authorization: Basic {SECRET}==",
    f"x-ray-authorization: Bearer {SECRET}",
]


@pytest.mark.parametrize("text", QUOTED)
def test_a_secret_is_hidden_and_the_rest_stays(text: str) -> None:
    said = in_one_line(OSError(text))
    assert SECRET not in said and "***" in said
    assert said.startswith("OSError: ") and text[:4] in said


@pytest.mark.parametrize("form", ["hf_" + "aB3" * 11, "AKIA" + "B7" * 8, "ASIA" + "Q2" * 8, "ghp_" + "x9Y" * 12])
def test_keys_are_known_by_their_form(form: str) -> None:
    assert redacted(f"cannot use {form}, sorry") == "cannot use ***, sorry"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN", "MY_DB_PASSWORD"])
def test_what_the_environment_holds_as_a_secret_is_hidden_to_the_letter(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redacted(f"server says: '{SECRET}' is wrong") == "server says: '***' is wrong"
    monkeypatch.setenv(name, "short")
    assert redacted("a short text") == "a short text"


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer.json: expected 49408 tokens, found 10",
        "HF_TOKEN is not set; log in with `hf auth login`, or set HF_TOKEN",
        "https://example.org/a/b.jpg?size=large&page=2#top",
        "s3://bucket/labels@home/part-0.parquet: no such key",
        "key: expected one of ['a', 'b']",
        "KeyError: 'image_id'",
        "me@example.org wrote basic rules for the token ring",
        "monkey=banana",
        "plan ab12cd34ef is another plan",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_it_stays_fast_on_texts_made_to_slow_it_down() -> None:
    start = time.perf_counter()
    for text in ("a://" * 500_000, "token=" * 300_000, "key" + " " * 1_000_000, "bearer " * 300_000, "x@" * 500_000):
        redacted(text)
    assert time.perf_counter() - start < 2.0


def test_lines_for_people_are_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"error: {JobError(f'no store at s3://me:{SECRET}@bucket/labels')}")
    assert capsys.readouterr().err == "error: no store at s3://***@bucket/labels\n"


class Gossip(Expert):
    """Quotes a presigned address in every way that a reason can come about."""

    def __init__(self) -> None:
        self.card = card("gossip", LabelSpec(kind="text", quantity="caption", flip="none"))

    def label(self, photos: list[Photo]) -> list[Label]:  # type: ignore[override]
        address = f"https://b.example/p.jpg?X-Amz-Signature={SECRET}"
        if len(photos) == 1:
            raise RuntimeError(f"cannot reach {address}")
        return [Label.failed(f"asked {address}") for _ in photos]


def test_reasons_in_a_store_hold_no_secret(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Gossip()], photos=5, shard_size=2)
    (column,) = store.columns()
    reasons = []
    for shard in store.plan.shards():
        with store.read(column, shard) as cell:
            reasons += [row["reason"] for row in cell.rows]
    address, line = re.escape("https://b.example/p.jpg?X-Amz-Signature=***"), r"\(test_redaction\.py:\d+\)"
    said = f"(asked {address}|expert raised: RuntimeError: cannot reach {address} {line})"
    assert len(reasons) == 5 and all(re.fullmatch(said, reason) for reason in reasons), reasons
    for file in (tmp_path / "store").rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()
