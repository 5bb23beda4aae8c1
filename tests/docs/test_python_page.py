"""The code of docs/python.md does what the page says, on a run of seconds."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import noisyexp.experiments as experiments
from noisyexp.errors import ConfigError
from tests.docs.test_readme import ROOT, snippets

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")


def test_the_page_runs_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (code,) = snippets(PAGE)
    exec(compile(code, "python.md", "exec"), names)
    record, rows = names["record"], names["rows"]
    assert record["status"] == "complete" and len(rows) == 1
    assert rows[0]["test_error"] == record["final"]["test_error"]
    assert rows[0]["training.lr"] == record["config"]["training"]["lr"]
    found = experiments.evaluate(names["loaded"], "cpu")
    assert {k: record["final"][k] for k in found} == found
    assert str(record["final"]["test_error"]) in capsys.readouterr().out
    with pytest.raises(ConfigError, match="unique_count is no language model"):
        experiments.sample(names["loaded"], "a")
    with pytest.raises(ConfigError, match="2 runs in one call"):
        experiments.run("task=unique_count seed=0,1")


def test_the_table_names_every_function_with_its_arguments() -> None:
    listed = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", PAGE, re.M))
    public = {name for name in experiments.__all__ if name[0].islower()}
    assert set(listed) == public
    for name, arguments in listed.items():
        own = inspect.signature(getattr(experiments, name)).parameters
        assert re.findall(r"(?:^|, )(\w+)", arguments) == list(own)
