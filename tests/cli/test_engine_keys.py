"""Keys of launchers as a user types them: none needs a plus, a misspelt one is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.overrides import spell_free

SWEEP = ("-m", "task=ptb", "act=nah", "seed=0,1")
SBATCH = """#!/bin/sh
cp "$1" {kept}
echo "sbatch: error: invalid partition specified: gpu" >&2
exit 1
"""


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """A cluster that refuses every job; gives the words for sbatch of the last script."""
    pytest.importorskip("submitit")
    kept, programs = tmp_path / "script", tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "srun"):
        path = programs / name
        path.write_text(SBATCH.format(kept=kept))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    marks = "#SBATCH --"
    return lambda: {
        line.removeprefix(marks) for line in kept.read_text().splitlines() if line[:10] == marks
    }


def test_words_for_sbatch(
    sent: Callable[[], set[str]], run: Callable[..., Any], settings: Callable[..., list[str]]
) -> None:
    """In one key or one by one; what sbatch says against them is the reason of every run."""
    words = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=30",
             "hydra.launcher.sbatch={partition: gpu, mem_gb: 1.5, gpus_per_node: 1}",
             "hydra.launcher.sbatch.account=lab",
             "hydra.launcher.sbatch.additional_parameters.reservation=week")  # fmt: skip
    own = [word for word in settings() if not word.startswith("threads=")]
    result = run(*SWEEP, *words, *own, "threads=2")
    assert {"partition=gpu", "mem=1536MB", "gpus-per-node=1", "account=lab", "reservation=week",
            "cpus-per-task=2", "time=30", "signal=USR2@120", "array=0-1%2"} <= sent()  # fmt: skip
    why = "submitit could not send the jobs: sbatch: error: invalid partition specified: gpu"
    assert (result.code, result.err.splitlines()[-1]) == (1, why)  # before it what sbatch said
    assert f"  seed=0: not run: {why}" in result.out.splitlines()
    assert "no table" not in result.out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.launcher.sbatch.partion=gpu", "hydra.launcher.sbatch.partion=gpu: no such key. "
         "Did you mean hydra.launcher.sbatch.partition?"),
        ("hydra.launcher.sbatch={partion: gpu}", "hydra.launcher.sbatch.partion: no such key"),
        ("hydra.launcher.timeout=3", "hydra.launcher.timeout=3: no such key. "
         "Did you mean hydra.launcher.timeout_min?"),
    ],
)  # fmt: skip
def test_a_misspelt_word_is_refused(
    word: str, said: str, run: Callable[..., Any], settings: Callable[..., list[str]]
) -> None:
    result = run(*SWEEP, "hydra/launcher=slurm", word, *settings())
    assert (result.code, result.problems) == (2, [said])


ROOM = "expected a whole number of at least 1, or -1 for as many as there is room for"
ALL = "expected a whole number of at least 1, or null for all runs at once"
ONE, NONE = (f"expected a whole number of at least {least}" for least in (1, 0))
LOCAL, SUBMITIT = "hydra/launcher=local", "hydra/launcher=submitit_local"


@pytest.mark.parametrize(
    ("launcher", "word", "said"),
    [
        (LOCAL, "hydra.launcher.n_jobs=0", ROOM),
        (LOCAL, "hydra.launcher.n_jobs=two", ROOM),
        (LOCAL, "hydra.launcher.n_jobs=null", ROOM),
        (LOCAL, "hydra.launcher.n_jobs=1.5", ROOM),
        (LOCAL, "hydra.launcher.n_jobs=true", ROOM),
        (SUBMITIT, "hydra.launcher.array_parallelism=0", ONE),
        (SUBMITIT, "hydra.launcher.array_parallelism=two", ONE),
        ("hydra/launcher=slurm", "hydra.launcher.array_parallelism=-1", ONE),
        (SUBMITIT, "hydra.launcher.timeout_min=long", ONE),
        (SUBMITIT, "hydra.launcher.signal_delay_s=null", NONE),
        (SUBMITIT, "hydra.launcher.max_num_timeout=-3", NONE),
        (SUBMITIT, "hydra.launcher.cluster=lokal", "expected slurm or local"),
        ("hydra/launcher=ray", "hydra.launcher.num_gpus=-1", "expected a number of at least 0"),
        ("hydra/launcher=basic", "hydra.sweeper.max_batch_size=0", ALL),
        ("hydra/launcher=basic", "hydra.sweeper.max_batch_size=-1", ALL),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_before_anything_starts(
    launcher: str, word: str, said: str, run: Callable[..., Any],
    settings: Callable[..., list[str]], tmp_path: Path,
) -> None:  # fmt: skip
    result = run(*SWEEP, launcher, word, *settings())
    assert (result.code, result.problems, result.out) == (2, [f"{word}: {said}"], "")
    assert not (tmp_path / "runs").exists()


def test_a_value_that_refers_to_another_key_is_judged_with_its_value(
    run: Callable[..., Any], settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Known when the runs are composed; null would be its value before."""
    words = [word for word in settings() if not word.startswith("threads=")]
    many = (*SWEEP, LOCAL, "hydra.launcher.n_jobs=${threads}", *words)
    assert run(*many).problems == [f"hydra.launcher.n_jobs=null: {ROOM}"]
    assert not [*(tmp_path / "runs").rglob("run.json")]
    assert run(*many, "threads=1", "plan=true").code == 0


def test_sections_of_the_users_own_need_no_plus() -> None:
    for word in ("hydra.launcher.resources.big=1", "hydra.launcher.resources={big: 1}",
                 'hydra.sweeper.params.seed="0,1"'):  # fmt: skip
        assert spell_free(word) == f"++{word}"
    for word in ("hydra.launcher.resources_x=1", "+hydra.sweeper.params.seed=0", "training.lr=1"):
        assert spell_free(word) == word
