"""Every command, link and snippet of the README and docs/ works as printed."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.pages import (
    attention_page,
    bf16_page,
    compiled_page,
    data_page,
    gpu_page,
    layers_page,
    tasks_page,
)
from noisyexp.activations import activations
from noisyexp.cli.arguments import split_arguments
from noisyexp.cli.command import VERBS
from noisyexp.cli.compose import check
from noisyexp.cli.help import key_texts
from noisyexp.cli.named_sweeps import expand_sweeps
from noisyexp.nan_names import spell_nan
from noisyexp.records.record_files import load_records
from noisyexp.report.pilot import TITLES, pilot_page
from noisyexp.tasks import find_task

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "README.md"
DOCUMENTS = [
    ROOT / "README.md",
    RESULTS,
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "noisyexp").rglob("README.md")),
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "NOTES", "SECURITY")),
]
README = DOCUMENTS[0].read_text("utf-8")
MOST_LINES, HEADLINES, DOUBTED = 150, 6, 19
MARKED = [(p, name) for p in DOCUMENTS[:2]
          for name in re.findall(r"<!-- /(\w+) -->", p.read_text("utf-8"))]  # fmt: skip


def commands(program: str) -> list[str]:
    """Lines of code blocks and inline code in all documents that start with `program`."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        blocks = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.M | re.S)
        lines = "\n".join(block for language, block in blocks if not language).split("\n")
        lines += re.findall(r"`([^`\n]+)`", text)
        lines = [line for line in lines if line.startswith(program)]
        found += [line.split("  #")[0].split(" # ")[0].strip() for line in lines]
    return list(dict.fromkeys(found))


def test_the_readme_shows_commands() -> None:
    assert len(commands("python run.py")) >= 7
    assert len(commands("make ")) >= 6
    assert len(commands("noisyexp ")) >= 6


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_finding_has_the_numbers_of_table_2() -> None:
    with (ROOT / "results" / "table2.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] == "test_ppl"]
    rows = {line["experiment"]: line for line in lines if line["scale"] == "paper"}
    names = ("nan_released", "nah_released", "reference", "leak")
    nan, nah, soft, fold = (rows[f"table2/{name}"] for name in names)
    assert {row["finished"] for row in (nan, nah, soft, fold)} == {"4"}  # "four seeds each"
    ours = [f"{float(row['ours']):.1f}" for row in (nan, nah, soft, fold)]
    paper = [f"{float(row['paper']):.1f}" for row in (nan, nah, soft)]
    text = " ".join(README.split())
    assert (
        f"(NAN {ours[0]}, NAH {ours[1]}; paper {paper[0]} and {paper[1]}; "
        f"soft LSTM {ours[2]}, paper {paper[2]})"
    ) in text
    assert f"without any noise reach {ours[3]}" in text


@pytest.mark.parametrize("command", commands("noisyexp "))
def test_verbs_take_the_keys_that_are_shown(command: str) -> None:
    _, verb, *words = shlex.split(command)
    keys = {word.partition("=")[0] for word in words if "=" in word}
    module = importlib.import_module(VERBS[verb].module)
    if verb == "plan":  # takes the words of a run beside its own
        assert check(split_arguments(module.Arguments, words)[1])
    elif verb != "run":  # whose keys are checked by composing them
        settings = module.Settings if verb == "inspect" else module.Arguments
        assert keys <= {field.name for field in dataclasses.fields(settings)}


@pytest.mark.parametrize("command", commands("python scripts/") + commands("python -m "))
def test_scripts_and_modules_exist(command: str) -> None:
    _, *words = shlex.split(command)
    path = Path(words[1].replace(".", "/") + ".py") if words[0] == "-m" else Path(words[0])
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("command", commands("python run.py") + commands("noisyexp run "))
def test_run_commands_check(command: str) -> None:
    given = [word for word in shlex.split(command)[2:] if word not in ("-m", "--help")]
    if "--help" in command.split():
        assert key_texts(given)
        return
    words = expand_sweeps(given)
    arguments = [spell_nan(word) for word in words]
    if arguments:
        runs = check(arguments)
        sweep = "-m" in command.split()
        assert (len(runs) > 1) == sweep


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    target = re.sub(r"(table|figure)-\d+", r"\1-%", command.split()[1])
    assert re.search(rf"^{re.escape(target)}:", makefile, re.M)


def snippets(text: str) -> list[str]:
    """The Python code of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_snippets_run_and_train(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    (first,) = snippets(README)
    exec(compile(first, "README.md", "exec"), names)
    assert names["output"].shape == (20, 8, 128)
    assert capsys.readouterr().out.startswith("1: Tanh -> NAH(nah)\n")
    assert [unit.c for unit in activations(names["model"])] == [0.1]
    layers, averager = snippets((ROOT / "docs" / "layers.md").read_text("utf-8"))
    exec(compile(layers, "layers.md", "exec"), names)
    assert names["output"].shape == (8, 20, 128)
    settings = {(unit.kind.name, unit.alpha, unit.c) for unit in activations(names["lstm"])}
    assert settings == {("tanh", 1.15, 0.5), ("sigmoid", 1.1, 0.15)}
    assert names["unit"].c == 5.0
    torch.manual_seed(0)
    exec(compile(averager, "layers.md", "exec"), names)
    assert capsys.readouterr().out.startswith("lstm: LSTM -> NoisyLSTM(nah)\n")
    # A tenth of what the best constant answer leaves.
    assert float(names["loss"].detach()) < 0.1 / 120


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("layers", layers_page),
        ("bf16", bf16_page),
        ("compiled", compiled_page),
        ("tasks", tasks_page),
        ("attention", attention_page),
        ("data", data_page),
        ("gpu", gpu_page),
    ],
)
def test_the_benchmark_page_is_that_of_its_numbers(name: str, page: Callable[..., str]) -> None:
    folder = ROOT / "results" / "bench"
    result = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert (folder / f"{name}.md").read_text("utf-8") == page(result)
    assert not result["code"]["dirty"]


@pytest.mark.parametrize(("path", "name"), MARKED, ids=[name for _, name in MARKED])
def test_result_numbers_are_those_of_the_table(path: Path, name: str) -> None:
    """What stands between marks is what the file of that name has."""
    table = (ROOT / "results" / f"{name}.md").read_text("utf-8")
    block = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", path.read_text("utf-8"), re.S)
    assert block is not None
    rows = [line for line in block[1].splitlines() if line.startswith("|")]
    assert rows
    if name != "summary":  # of which the README has some lines, in fewer columns
        assert all(row in table for row in rows)
        return
    full = [line.removeprefix("| ").split(" | ") for line in table.splitlines()[8:]]
    texts = {cells[0].split(" (also different")[0]: cells[1:] for cells in full}
    assert len(rows[2:]) == (DOUBTED if path == RESULTS else HEADLINES)
    for row in rows[2:]:
        cells = row.removeprefix("| ").removesuffix(" |").split(" | ")
        claim, run, paper, ours, verdict = (
            cells[k] for k in (0, 1, 2, 3, 4 if len(cells) < 6 else 5)
        )
        where, scale, theirs, numbers, difference, p, word, _ = texts[claim.split(" (also")[0]]
        assert [run, paper, verdict] == [f"{where}, {scale}", theirs, word]
        assert ours == numbers.replace("(", f"({difference}, ", 1)
        assert len(cells) == 5 or (cells[4] == p and cells[6])


def test_every_result_is_on_the_page() -> None:
    names = {name for path, name in MARKED if path == RESULTS} - {"summary"}
    assert names == {p.stem for p in RESULTS.parent.glob("*.csv")}


@pytest.mark.parametrize(
    "path",
    sorted(p for kind in TITLES for p in ROOT.glob(f"results/{kind}_*.md")),
    ids=lambda path: path.stem,
)
def test_pilot_pages_are_those_of_their_records(path: Path) -> None:
    kind, _, task = path.stem.partition("_")
    records = load_records(ROOT / "results" / "records" / path.stem)
    command = f"noisyexp table {path.stem}"
    page = pilot_page(kind, task, records, find_task(task).selection, command)
    assert path.read_text("utf-8") == page
