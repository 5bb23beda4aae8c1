"""Configuration files of one's own with mistakes: one line with the file and the line in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from noisyexp.cli.compose import check
from noisyexp.cli.config_files import ConfigFileError, ConfigFiles
from noisyexp.cli.help import _comment
from noisyexp.cli.named_sweeps import expand_sweeps
from noisyexp.cli.queue import main as queue
from noisyexp.errors import ConfigError, RecordError
from noisyexp.records.yaml_file import read_yaml

BOM = b"\xef\xbb\xbf"
UNIT = b"# Mine.\nvariant: nah\nlabel: Mine\n"
Own = Callable[[bytes], tuple[Path, list[str]]]


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """Write act/mine.yaml; returns the file and the words that choose it."""

    def write(content: bytes) -> tuple[Path, list[str]]:
        path = tmp_path / "act" / "mine.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path, [f"hydra.searchpath=[file://{tmp_path}]", "task=mixture", "act=mine"]

    return write


MISTAKES = {
    "latin-1": (UNIT.replace(b"Mine\n", b"M\xefne\n"), 3, "not UTF-8; save the file in that"),
    "utf-16": ("label: Mine".encode("utf-16"), 1, "not UTF-8"),
    "tab": (UNIT + b"tanh:\n\tc: 0.5\n", 5, "a tab; indent with blanks"),
    "list": (b"- variant: nah\n", 1, "a list, where keys are expected"),
    "text": (b"nah\n", 1, "a text, where keys are expected"),
    "twice": (UNIT + b"label: Other\n", 4, "duplicate key label"),
    "brackets": (UNIT + b"settings: {a: [1\n", 5, ""),
    "control": (UNIT + b"p_shape: \x07\n", 4, "the character '\\x07'"),
    "header": (b"# @package\n" + UNIT, None, "a first line of this kind is # @package <section>"),
    "deep": (b"label: " + b"[" * 2000 + b"]" * 2000, None, "deeper than can be read"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_that_names_it(kind: str, own: Own) -> None:
    content, line, said = MISTAKES[kind]
    path, words = own(content)
    with pytest.raises(ConfigFileError) as caught:
        ConfigFiles("own", f"file://{path.parent}").load_config("mine")
    problem = str(caught.value)
    if kind in ("latin-1", "twice", "header"):  # on its way through Hydra
        with pytest.raises(ConfigError) as refused:
            check(words)
        assert refused.value.problems == [problem]
    assert problem.startswith(f"{path}, line {line}: " if line else f"{path}: ")
    assert said in problem and "\n" not in problem


@pytest.mark.parametrize("content", [
    b"# @package act\n# Mine.\nvariant: nah\nlabel: Mine\n",
    b"# @package act\r\nvariant: nah\r\nlabel: Mine\r\n",
], ids=["unix", "windows"])  # fmt: skip
@pytest.mark.parametrize("start", [b"", BOM], ids=["plain", "bom"])
def test_a_byte_order_mark_is_no_content(start: bytes, content: bytes, own: Own) -> None:
    """Without its first comment, `# @package _global_`, a row is read as a section of itself."""
    path, _ = own(start + content)
    found = ConfigFiles("own", f"file://{path.parent}").load_config("mine")
    assert found.header == {"package": "act"}
    assert found.config == {"variant": "nah", "label": "Mine"}


def test_a_row_with_a_byte_order_mark_is_read_with_its_package(tmp_path: Path) -> None:
    folder = tmp_path / "experiment" / "mine"
    folder.mkdir(parents=True)
    (folder / "row.yaml").write_bytes(BOM + b"# @package _global_\ntraining: {epochs: 7}\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "task=mixture", "experiment=mine/row"]
    assert check(words)[0].config.training.epochs == 7


@pytest.mark.parametrize("kind", sorted(set(MISTAKES) - {"list", "text", "deep", "header"}))
def test_sheets_rows_and_lists_of_runs_are_read_alike(kind: str, own: Own) -> None:
    content, line, _ = MISTAKES[kind]
    path, _ = own(content)
    with pytest.raises(RecordError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}, line {line}: " if line else f"{path}: ")
    path, _ = own(b"c: 2024-13-45")
    with pytest.raises(RecordError, match=r"mine\.yaml: .*month must be in 1\.\.12"):
        read_yaml(path)
    path, _ = own(BOM + UNIT)
    assert read_yaml(path) == {"variant": "nah", "label": "Mine"}


def test_a_sweep_and_a_queue_of_another_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("- act.c\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: expected keys and values"):
        expand_sweeps(["sweep=mine"], tmp_path)
    for text, said in (
        ("- {table: table5, rows: 5}", "expected rows: [nah, nan]"),
        ("- {table: table5, rows: [hard], seeds: x}", "expected rows: [nah, nan]"),
        ("- {table: table5, rows: [nope]}", "table5 has no row nope"),
        ("table5", "needs table and rows"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        assert queue([f"file={tmp_path / 'mine.yaml'}", "list=true"]) == 2
        assert said in capsys.readouterr().err


def test_the_help_of_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "act").mkdir()
    (tmp_path / "act" / "mine.yaml").write_bytes(BOM + UNIT)
    assert _comment([tmp_path], "act", "mine") == "Mine"
    (tmp_path / "act" / "mine.yaml").write_bytes(b"# M\xefne.\n")
    with pytest.raises(RecordError, match="line 1: not UTF-8"):
        _comment([tmp_path], "act", "mine")


def test_an_empty_folder_of_data_in_the_environment_is_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOISYEXP_DATA", "")
    assert check(["task=mixture"])[0].config.data.root == "data"
    with pytest.raises(ConfigError, match=r"data\.root=: expected a text"):
        check(["task=mixture", "data.root="])
    assert "NOISYEXP_DATA" not in os.environ
