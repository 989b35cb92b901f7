"""What is written to a terminal: texts of others are shown and never obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.terminal import decimals, harmless, say, show


def test_controls_are_spelled_out_and_letters_of_all_scripts_stay() -> None:
    assert harmless("\x1b[2J\x9bm\x07\x00\r\x7f") == r"\x1b[2J\x9bm\x07\x00\x0d\x7f"
    assert harmless("naïve 中文 😀\tand\nlines") == "naïve 中文 😀\tand\nlines"


def test_what_commands_say_and_show_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    say("error: \x1b]0;title\x07")
    show(["\x1b[31mred"], None, False)
    said = capsys.readouterr()
    assert (said.err, said.out) == ("error: \\x1b]0;title\\x07\n", "\\x1b[31mred\n")


def test_a_list_from_the_web_cannot_steer_the_terminal(tmp_path: Path) -> None:
    captions = "a \x1b[31mred\x9b dog\thttp://host.example/1.jpg\n\x1b[2J no tab\nfine\thttp://host.example/2.jpg\n"
    (tmp_path / "list.tsv").write_text(captions, encoding="utf-8")
    (tmp_path / "sources.yaml").write_text(f"images: [{{source: cc3m, path: {tmp_path}/list.tsv, fetch: true}}]")
    manifest = str(tmp_path / "m.parquet")
    built = CliRunner().invoke(
        app, ["manifest", "build", str(tmp_path / "sources.yaml"), "-o", manifest, "--workers", "1"]
    )
    shown = CliRunner().invoke(app, ["manifest", "show", manifest])
    assert built.exit_code == shown.exit_code == 0
    assert "\\x1b[2J no tab" in built.output and "\\x1b[31mred\\x9b dog" in shown.output
    assert "\x1b" not in built.output + shown.output and "\x9b" not in shown.output


def test_what_could_not_be_measured_is_no_number() -> None:
    assert decimals(0.98765, 3) == "0.988" and decimals(float("nan"), 3) == "-"
