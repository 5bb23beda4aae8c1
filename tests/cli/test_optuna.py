"""Sweeps that search with Optuna: what it is told, and values that it could not use."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.engines import storage

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
NEWER = int(version("sqlalchemy").partition(".")[0]) >= 2

Run = Callable[..., Any]
OPTUNA = ("-m", "act=reference", "hydra/sweeper=optuna")


def runs_of_the_newest_sweep(tmp_path: Path) -> list[dict[str, Any]]:
    lists = (tmp_path / "runs" / "sweeps").glob("*/sweep.json")
    newest = max(lists, key=lambda path: path.stat().st_mtime)
    runs: list[dict[str, Any]] = json.loads(newest.read_text())["runs"]
    return runs


def rate_of(entry: dict[str, Any]) -> str:
    (rate,) = [word for word in entry["overrides"] if word.startswith("training.lr=")]
    return str(rate)


def test_optuna_is_told_the_selection_metric(tiny: Run, tmp_path: Path) -> None:
    """The best of three rates, one of which diverges; and the direction is the task's.

    Six trials choose among three runs: each is done, and reported, once.
    """
    words = (*OPTUNA, "training.lr=choice(0.01,1.0,1e38)")
    result = tiny(*words, "hydra.sweeper.direction=maximize")
    assert result.problems == [
        "hydra.sweeper.direction=maximize: a run gives its sweeper valid_ppl, so use "
        "hydra.sweeper.direction=minimize"
    ]
    result = tiny(*words, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=1",
                  "hydra.sweeper.sampler.seed=1")  # fmt: skip
    assert result.code == 1, (result.out, result.err)
    values = {}
    entries = runs_of_the_newest_sweep(tmp_path)
    for entry in entries:
        if entry["metrics"]:
            values[rate_of(entry)] = entry["metrics"]["valid_ppl"]
    assert (len(entries), len(values)) == (3, 2)  # one diverges
    assert "2 of 3 runs complete, 1 diverged" in result.out
    best = min(values, key=lambda rate: values[rate])
    text = (tmp_path / "runs" / ".hydra" / "optimization_results.yaml").read_text()
    assert f"best_value: {values[best]}" in text
    assert f"training.lr: {best.partition('=')[2]}" in text


def test_a_search_in_an_interval_reports_the_runs_that_it_chose(tiny: Run, tmp_path: Path) -> None:
    """Not the ends of the interval, with which the command was checked."""
    result = tiny(*OPTUNA, "training.lr=tag(log, interval(0.1,4))", "hydra.sweeper.n_trials=2",
                  "hydra.sweeper.sampler.seed=3")  # fmt: skip
    assert result.code == 0, (result.out, result.err)
    entries = runs_of_the_newest_sweep(tmp_path)
    rates = [float(rate_of(entry).partition("=")[2]) for entry in entries]
    assert len(rates) == 2 and all(0.1 < rate < 4 for rate in rates)
    assert "2 of 2 runs complete" in result.out


def test_a_grid_takes_every_value_of_a_range(tiny: Run, tmp_path: Path) -> None:
    words = (
        *OPTUNA,
        "hydra/sweeper/sampler=grid",
        "training.lr=choice(0.1,1.0)",
        "seed=range(0,2)",
    )
    assert tiny(*words).code == 0
    entries = runs_of_the_newest_sweep(tmp_path)
    found = {(rate_of(entry), entry["names"]["seed"]) for entry in entries}
    assert found == {(f"training.lr={rate}", seed) for rate in (0.1, 1.0) for seed in (0, 1)}


GRID = "hydra/sweeper/sampler=grid"
LISTED = "a grid has listed values, as choice(0.1,0.3); or use another sampler, as hydra/sweeper/"
SEEDS = "expected a whole number from 0 to 4,294,967,295, or null"
REVERSED = "no such sweep (an interval goes from its lower bound to its upper: interval(0.1,5))"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.lr=interval(5,0.1)"], f"'training.lr=interval(5,0.1)': {REVERSED}"),
        (["training.lr=tag(log, interval(5,0.1))"], REVERSED),
        (["training.lr=tag(log, interval(0,4))"],
         "no such sweep (the tag log needs bounds above 0)"),
        (["training.lr=interval(0,4)"], "training.lr=0"),
        (["training.lr=interval(0.1,inf)"], "training.lr=inf: expected a number (above 0)"),
        (["training.lr=choice()"], "choice is used as in choice(0.1,0.3)"),
        (["training.lr=interval(0.1)"], "interval is used as in interval(0.1,5)"),
        (["training.lr=interval(0.1,4)", GRID], f"training.lr=interval(0.1,4): {LISTED}"),
        (["task.num_layers=int(interval(1,3))", GRID],
         f"task.num_layers=int(interval(1,3)): {LISTED}"),
        (["seed=range(0,10,3)", GRID], f"seed=range(0,10,3): {LISTED}"),
        (["seed=0,1", "hydra.sweeper.n_trials=0"],
         "hydra.sweeper.n_trials=0: expected a whole number from 1 to 10,000"),
        (["seed=0,1", "hydra.sweeper.n_jobs=0"],
         "hydra.sweeper.n_jobs=0: expected a whole number from 1 to 10,000"),
        (["seed=0,1", "hydra.sweeper.max_failure_rate=1.5"],
         "hydra.sweeper.max_failure_rate=1.5: expected a number from 0 to 1"),
        (["seed=0,1", "hydra.sweeper.storage=study.db"],
         "hydra.sweeper.storage=study.db: expected an address, as sqlite:///study.db, or null"),
        (["seed=0,1", "hydra.sweeper.sampler.seed=-1"],
         f"hydra.sweeper.sampler.seed=-1: {SEEDS}"),
        (["seed=0,1", "hydra.sweeper.sampler.seed=4294967296"],
         f"hydra.sweeper.sampler.seed=4294967296: {SEEDS}"),
        (["seed=0,1", "hydra.sweeper.sampler.n_ei_candidates=0"],
         "hydra.sweeper.sampler.n_ei_candidates=0: expected a whole number from 1 to 10,000"),
        (["seed=0,1", "hydra/sweeper/sampler=nsgaii", "hydra.sweeper.sampler.population_size=1"],
         "hydra.sweeper.sampler.population_size=1: expected a whole number from 2 to 10,000"),
        (["seed=0,1", "hydra.sweeper.sampler.sede=1"],
         "Did you mean hydra.sweeper.sampler.seed?"),
        (['hydra.sweeper.params.seed="interval(5,1)"'], REVERSED),
    ],
)  # fmt: skip
def test_values_that_optuna_could_not_use_are_refused_before_anything_starts(
    words: list[str], said: str, tiny: Run, tmp_path: Path
) -> None:
    result = tiny(*OPTUNA, *words)
    assert result.code == 2, (result.out, result.err)
    (problem,) = result.problems
    assert said in problem
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sampler", "key", "least"),
    [
        ("tpe", "n_trials", 1),
        ("tpe", "n_jobs", 1),
        ("tpe", "sampler.n_startup_trials", 0),
        ("tpe", "sampler.n_ei_candidates", 1),
        ("motpe", "sampler.n_ehvi_candidates", 1),
        ("nsgaii", "sampler.population_size", 2),
    ],
)
def test_counts_have_an_upper_bound(
    sampler: str, key: str, least: int, tiny: Run, tmp_path: Path
) -> None:
    """All trials of a batch are made before its first run: a giant would be silent for hours."""
    word = f"hydra.sweeper.{key}=10001"
    result = tiny(*OPTUNA, f"hydra/sweeper/sampler={sampler}", "seed=0,1", word)
    said = f"{word}: expected a whole number from {least} to 10,000"
    assert (result.code, result.problems, result.out) == (2, [said], "")
    assert not (tmp_path / "runs").exists()


STORAGE = "hydra.sweeper.storage"


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy 1, as far as what is asked for its version knows."""
    monkeypatch.setattr(storage, "version", lambda _: "1.4.54")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("sqlite:///{folder}/text.db", "file is not a database"),
        ("foo://x", "Can't load plugin: sqlalchemy.dialects:foo"),
    ],
)
@pytest.mark.usefixtures("older")
def test_a_storage_that_cannot_be_opened_is_refused_before_anything_starts(
    address: str, said: str, tiny: Run, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("no database\n" * 100)
    address = address.format(folder=tmp_path)
    result = tiny(*OPTUNA, "seed=0,1", f"{STORAGE}={address}")
    assert (result.code, result.problems, result.out) == (2, [f"{STORAGE}={address}: {said}"], "")
    assert not (tmp_path / "runs").exists()


def test_storage_needs_an_older_sqlalchemy(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said without opening: with a newer one the tables of a database would stay incomplete."""
    monkeypatch.setattr(storage, "version", lambda _: "2.1.9")
    word = f"{STORAGE}=sqlite:///{tmp_path}/study.db"
    result = tiny(*OPTUNA, "seed=0,1", word)
    said = "it needs SQLAlchemy below 2, and 2.1.9 is installed; pip install 'sqlalchemy<2' "
    assert (result.code, result.problems) == (2, [f"{word}: {said}'alembic<1.20'"])
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("older")
def test_storage_is_opened_once_and_by_a_sweep_with_optuna_alone(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def refusing(address: str) -> None:
        opened.append(address)
        try:
            raise OSError("nobody\n  there")
        except OSError as error:
            raise RuntimeError("what the library makes of it") from error

    monkeypatch.setattr("optuna.storages.get_storage", refusing)
    words = (*OPTUNA, "seed=0,1", f"{STORAGE}=redis://nowhere")
    assert tiny(*words, "plan=true").code == 0
    assert opened == []
    assert tiny(*words).problems == [f"{STORAGE}=redis://nowhere: nobody there"]
    assert opened == ["redis://nowhere"]


@pytest.mark.skipif(NEWER, reason="Optuna 2 keeps no study with SQLAlchemy 2")
def test_a_study_in_a_database_goes_on(tiny: Run, tmp_path: Path) -> None:
    import optuna

    address = f"sqlite:///{tmp_path}/study.db"
    words = (*OPTUNA, "training.lr=interval(0.1,1)", "hydra.sweeper.n_trials=1",
             f"{STORAGE}={address}", "hydra.sweeper.study_name=rates")  # fmt: skip
    for trials in (1, 2):
        result = tiny(*words)
        assert result.code == 0, (result.out, result.err)
        assert len(optuna.load_study(study_name="rates", storage=address).trials) == trials


def test_a_sampler_that_fails_is_a_whole_line_and_no_run_is_listed(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made before the launcher: nothing was launched of what the command was checked with."""
    import optuna

    def failing(*_: Any, **__: Any) -> None:
        raise ValueError("no sampler today")

    monkeypatch.setattr(optuna.samplers.TPESampler, "__init__", failing)
    result = tiny(*OPTUNA, "training.lr=interval(0.1,4)")
    said = (
        "Error in call to target 'optuna.samplers._tpe.sampler.TPESampler': "
        "ValueError('no sampler today') full_key: hydra.sweeper.sampler\n"
    )
    assert (result.code, result.out, result.err) == (1, "", said)


def test_an_error_of_the_sweeper_itself_is_a_line_and_no_run_is_listed(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    def failing(**_: Any) -> None:
        raise ValueError("no study today")

    monkeypatch.setattr(optuna, "create_study", failing)
    result = tiny(*OPTUNA, "training.lr=interval(0.1,4)")
    assert (result.code, result.out, result.err) == (1, "", "no study today\n")
