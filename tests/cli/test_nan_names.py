"""A person types nan; its files are called nan_normal, and no message says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from noisyexp.cli.command import main
from noisyexp.cli.completion import complete
from noisyexp.nan_names import as_typed
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nan_normal", "nan"),
        ("act=nan_normal,nah experiment=table2/nan_normal", "act=nan,nah experiment=table2/nan"),
        ("choose from hard, nan_normal.", "choose from hard, nan."),
        ("runs/ptb/nan_normal-smoke-s0-0123", "runs/ptb/nan_normal-smoke-s0-0123"),
        ("configs/act/nan_normal.yaml", "configs/act/nan_normal.yaml"),
        ("nan_normality", "nan_normality"),
    ],
)
def test_names_of_folders_and_files_stay(text: str, said: str) -> None:
    assert as_typed(text) == said


def spoken_of(text: str) -> list[str]:
    """The words of a text with the file's name that are no path of a run folder or of a file."""
    return [w for w in re.findall(r"\S*nan_normal\S*", text) if not re.search(r"l(-|\.yaml)", w)]


def test_no_command_says_the_name_of_the_file(
    run: Run,
    settings: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run with its progress, the same again, a mistake, and verbs that read the run."""
    words = [word for word in settings() if "progress" not in word]
    first = run("task=ptb", "act=nan", "progress=plain", *words)
    said = [first, run("task=ptb", "act=nan", *settings()), run("task=ptb", "act=nna")]
    assert [result.code for result in said] == [0, 0, 2]
    texts = [result.out + result.err for result in said]
    (folder,) = (tmp_path / "runs" / "ptb").glob("nan_normal-*")
    for verb in (
        ["runs", str(tmp_path)],
        ["report", str(tmp_path)],
        ["evaluate", f"run={folder}", "weights=nan_normal"],
        ["inspect", "act=nan_normal", "kind=wrong"],
    ):
        main(verb)
        texts.append("".join(capsys.readouterr()))
    assert all(texts) and [spoken_of(text) for text in texts] == [[]] * len(texts)


def test_the_shell_offers_the_typed_word() -> None:
    offered = complete("run", "act=na")
    assert "act=nan" in offered and not spoken_of(" ".join(offered))
    assert "experiment=table2/nan" in complete("run", "experiment=table2/nan")
