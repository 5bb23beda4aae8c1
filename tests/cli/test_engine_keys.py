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
    sent: Callable[[], set[str]], run: Callable[..., Any], settings: Callable[..., list[str]],
    tmp_path: Path,
) -> None:  # fmt: skip
    """In one key or one by one; what sbatch says against them is the reason of every run."""
    words = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=30",
             "hydra.launcher.sbatch={partition: gpu, mem_gb: 1.5, gpus_per_node: 1}",
             "hydra.launcher.sbatch.account=lab",
             "hydra.launcher.sbatch.additional_parameters.reservation=week",
             "hydra.launcher.sbatch.additional_parameters.contiguous=true",
             "hydra.launcher.sbatch.additional_parameters.reboot=false",
             "hydra.launcher.sbatch.exclusive=false",
             "hydra.launcher.sbatch.setup=['module load cuda']",
             "hydra.launcher.sbatch.srun_args=['--mpi=none']")  # fmt: skip
    own = [word for word in settings() if not word.startswith("threads=")]
    result = run(*SWEEP, *words, *own, "threads=2")
    assert {"partition=gpu", "mem=1536MB", "gpus-per-node=1", "account=lab", "reservation=week",
            "cpus-per-task=2", "time=30", "signal=USR2@120", "array=0-1%2", "contiguous",
            } <= sent()  # fmt: skip
    # False is to leave a word out, and no value of it.
    assert not [word for word in sent() if word.startswith(("exclusive", "reboot"))]
    lines = (tmp_path / "script").read_text().splitlines()
    assert "module load cuda" in lines
    assert [line for line in lines if line.startswith("srun ") and " --mpi=none " in line]
    why = "submitit could not send the jobs: sbatch: error: invalid partition specified: gpu"
    assert (result.code, result.err.splitlines()[-1]) == (1, why)  # before it what sbatch said
    assert f"  seed=0: not run: {why}" in result.out.splitlines()
    assert "no table" not in result.out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.launcher.sbatch.partion=gpu", "hydra.launcher.sbatch.partion=gpu: no such key. "
         "Did you mean hydra.launcher.sbatch.partition?"),
        ("hydra.launcher.sbatch={partion: gpu}", "hydra.launcher.sbatch.partion: no such key. "
         "Did you mean hydra.launcher.sbatch.partition?"),
        ("training={lrr: 0.1}", "training.lrr: no such key. Did you mean training.lr?"),
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
GPUS = "expected a whole number of at least 0, or one with a kind, a100:2, or null"
LOCAL, SUBMITIT, SLURM = (f"hydra/launcher={name}" for name in ("local", "submitit_local", "slurm"))
SBATCH_KEY = "hydra.launcher.sbatch"


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
        (SLURM, f"{SBATCH_KEY}.cpus_per_task=two", f"{ONE}, or null"),
        (SLURM, f"{SBATCH_KEY}.cpus_per_task=0", f"{ONE}, or null"),
        (SLURM, f"{SBATCH_KEY}.mem_gb=lots", "expected a number above 0, or null"),
        (SLURM, f"{SBATCH_KEY}.mem_gb=0", "expected a number above 0, or null"),
        (SLURM, f"{SBATCH_KEY}.mem_per_cpu=lots", "expected an amount of memory, as 4G, or null"),
        (SLURM, f"{SBATCH_KEY}.gpus_per_node=-1", GPUS),
        (SLURM, f"{SBATCH_KEY}.gpus_per_node=two", GPUS),
        (SLURM, f"{SBATCH_KEY}.partition=true", "expected a text, as gpu, or null"),
        (SLURM, f"{SBATCH_KEY}.nodelist=[n1, n2]", "expected a text, as 'n1,n2', or null"),
        (SLURM, f"{SBATCH_KEY}.exclusive=1", "expected true, false or a text, as user, or null"),
        (SLURM, f"{SBATCH_KEY}.setup=module",
         "expected a list of texts, as ['module load cuda'], or null"),
        (SLURM, f"{SBATCH_KEY}.additional_parameters={{reservation: [a]}}",
         "expected words with their values, as {reservation: week}"),
        ("hydra/launcher=ray", "hydra.launcher.resources={big: two}",
         "expected names with numbers, as {big: 1}"),
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


MISSING = "there is no such class to import"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.launcher._target_=abc"],
         "no such launcher; choose one by its name, as hydra/launcher=basic"),
        (["hydra.sweeper._target_=hydra_plugins.noisyexp.SerialLauncher"],
         "no such sweeper; choose one by its name, as hydra/sweeper=basic"),
        (["hydra/sweeper=optuna", "hydra.sweeper.sampler._target_=abc"], MISSING),
        (["+hydra.callbacks.mine._target_=not.there"], MISSING),
    ],
)  # fmt: skip
def test_a_class_that_is_not_there_is_refused_before_anything_starts(
    words: list[str], said: str, run: Callable[..., Any], settings: Callable[..., list[str]]
) -> None:
    if "hydra/sweeper=optuna" in words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    result = run(*SWEEP, *words, *settings())
    assert (result.code, result.problems) == (2, [f"{words[-1].lstrip('+')}: {said}"])


def test_parameters_of_the_sweeper_are_keys(
    run: Callable[..., Any], settings: Callable[..., list[str]]
) -> None:
    result = run("-m", "task=ptb", "hydra.sweeper.params={sed: 1}", *settings())
    assert (result.code, result.problems) == (2, ["sed=1: no such key. Did you mean seed?"])


def test_a_value_that_refers_to_another_key_is_judged_with_its_value(
    run: Callable[..., Any], settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Known when the runs are composed; null would be its value before."""
    words = [word for word in settings() if not word.startswith("threads=")]
    many = (*SWEEP, LOCAL, "hydra.launcher.n_jobs=${threads}", *words)
    assert run(*many).problems == [f"hydra.launcher.n_jobs=null: {ROOM}"]
    assert not [*(tmp_path / "runs").rglob("run.json")]
    assert run(*many, "threads=1", "plan=true").code == 0


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("partition=gpu", "partition: use hydra.launcher.sbatch.partition"),
        ("cpus-per-task=2", "cpus-per-task: use hydra.launcher.sbatch.cpus_per_task"),
        ("time=10", "time: use hydra.launcher.timeout_min"),
        ("job_name=mine", "job_name: the launcher says it itself"),
    ],
)
def test_words_that_the_launcher_says_have_no_second_place(
    word: str, said: str, run: Callable[..., Any], settings: Callable[..., list[str]]
) -> None:
    """The second would be taken by SLURM, and not by what waits for the job."""
    place = f"{SBATCH_KEY}.additional_parameters"
    result = run(*SWEEP, SLURM, f"{place}.{word}", *settings())
    assert (result.code, result.problems) == (2, [f"{place}.{said}"])


def test_words_in_a_file_of_ones_own_are_checked(
    run: Callable[..., Any], settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "mine" / "hydra" / "launcher"
    folder.mkdir(parents=True)
    (folder / "lab.yaml").write_text(
        "defaults: [slurm, _self_]\nsbatch: {partition: gpu, acount: lab}\n"
    )
    own = ("hydra/launcher=lab", f"hydra.searchpath=[file://{tmp_path / 'mine'}]")
    result = run(*SWEEP, *own, *settings())
    assert (result.code, result.problems) == (
        2,
        [f"{SBATCH_KEY}.acount: no such key. Did you mean account? Words that are not there go to "
         f"{SBATCH_KEY}.additional_parameters"],
    )  # fmt: skip


def test_sections_of_the_users_own_need_no_plus() -> None:
    for word in ("hydra.launcher.resources.big=1", "hydra.launcher.resources={big: 1}",
                 'hydra.sweeper.params.seed="0,1"'):  # fmt: skip
        assert spell_free(word) == f"++{word}"
    for word in ("hydra.launcher.resources_x=1", "+hydra.sweeper.params.seed=0", "training.lr=1"):
        assert spell_free(word) == word
