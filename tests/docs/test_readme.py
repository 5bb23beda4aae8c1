"""Every command, link and snippet of the README works as printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.cli.compose import check
from noisyexp.cli.named_sweeps import expand_sweeps
from noisyexp.cli.run import spell_nan
from noisyexp.results.bench import attention_page, data_page, gpu_page, layers_page, tasks_page
from noisyexp.results.pilot import TITLES, pilot_page
from noisyexp.results.records import load_records
from noisyexp.tasks import find_task

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "README.md"
DOCUMENTS = [ROOT / "README.md", RESULTS, *sorted((ROOT / "noisyexp").rglob("README.md"))]
README = DOCUMENTS[0].read_text("utf-8")
MARKED = [(p, name) for p in DOCUMENTS[:2]
          for name in re.findall(r"<!-- /(\w+) -->", p.read_text("utf-8"))]  # fmt: skip


def commands(program: str) -> list[str]:
    """Lines of code blocks and inline code in all documents that start with `program`."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        lines = "\n".join(re.findall(r"```\n(.*?)```", text, re.S)).split("\n")
        lines += re.findall(r"`([^`\n]+)`", text)
        lines = [line for line in lines if line.startswith(program)]
        found += [line.split("  #")[0].split(" # ")[0].strip() for line in lines]
    return list(dict.fromkeys(found))


def test_the_readme_shows_commands() -> None:
    assert len(commands("python run.py")) >= 7
    assert len(commands("make ")) >= 6


@pytest.mark.parametrize("command", commands("python run.py"))
def test_run_commands_check(command: str) -> None:
    words = expand_sweeps([word for word in shlex.split(command)[2:] if word != "-m"])
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


def test_links_lead_to_files() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), f"{path.name} links {link}"


def test_snippets_run_and_train(capsys: pytest.CaptureFixture[str]) -> None:
    layers, averager = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, Any] = {}
    exec(compile(layers, "README.md", "exec"), names)
    assert names["output"].shape == (8, 20, 128)
    assert names["unit"].c == 5.0
    torch.manual_seed(0)
    exec(compile(averager, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("lstm: LSTM -> NoisyLSTM(nah)\n")
    # A tenth of what the best constant answer leaves.
    assert float(names["loss"].detach()) < 0.1 / 120


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("layers", layers_page),
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
    full = {line.split(" | ")[0]: line.split(" | ")[1:] for line in table.splitlines()[6:]}
    for row in rows[2:]:
        claim, run, paper, ours, verdict, command = row.split(" | ")
        where, scale, theirs, numbers, difference, *rest = full[claim]
        assert [run, paper, verdict, command] == [f"{where}, {scale}", theirs, *rest]
        assert ours == numbers.replace("(", f"({difference}, ", 1)


def test_every_result_is_on_the_page() -> None:
    names = {name for path, name in MARKED if path == RESULTS}
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
