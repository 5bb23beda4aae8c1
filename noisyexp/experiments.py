"""Experiments from Python: run one, load a finished one, measure it, read and average any records.

from noisyexp.experiments import evaluate, load, means, records, run

Every error that is the user's is a `noisyexp.errors.NoisyexpError` with one clear message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from noisyexp.cli.run import read_words
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.kernels.precision import operand_dtype
from noisyexp.report.averages import average
from noisyexp.report.group_table import flat
from noisyexp.report.run_set import Conditions, find_runs
from noisyexp.tasks.base import Wanted
from noisyexp.training.device import chosen_device
from noisyexp.training.load import LoadedRun, load_run
from noisyexp.training.run import execute
from noisyexp.training.trainer import PRECISIONS

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Finished", "LoadedRun", "evaluate", "frame", "load", "means", "records", "run", "sample",
]  # fmt: skip

Paths = str | Path | Iterable[str | Path]


class Finished(NamedTuple):
    """A run that has ended; `record, model = run(...)[:2]`.

    Attributes:
        record: content of its run.json.
        model: in evaluation mode, with the weights of its result; None if the run diverged.
        folder: where it was written, which `load` takes.
    """

    record: dict[str, Any]
    model: nn.Module | None
    folder: Path


def run(overrides: str | Sequence[str]) -> Finished:
    """Do one run in this process, or read it if it is finished; an interrupted one goes on.

    Args:
        overrides: the words of `noisyexp run`: ["task=ptb", "act=nah", "scale=cpu"], or one text
            with blanks between them.

    Raises:
        ConfigError: with every mistake in the words.
        NoisyexpError: data are missing, or another process works at the run.
        noisyexp.training.signals.Interrupted: a signal came; the same call goes on.
    """
    words = overrides.split() if isinstance(overrides, str) else list(overrides)
    specs = read_words(words)
    if len(specs) != 1:
        raise ConfigError([f"{len(specs)} runs in one call: give one value for each key"])
    outcome = execute(specs[0])
    done = outcome.record["status"] == "complete"
    root = Path(specs[0].config.data.root)
    model = load_run(outcome.folder, None, root).model if done else None
    return Finished(outcome.record, model, outcome.folder)


def load(place: str | Path, weights: str | None = None, data: Path | None = None) -> LoadedRun:
    """Task with its data, model and weights of a run.

    Args:
        place: folder of a run, or the name of published weights as "unique_count/curriculum_nan".
        weights: "last" or "best"; None takes those with which its result was measured.
        data: folder of the data sets; default NOISYEXP_DATA or "data".

    Raises:
        RecordError: there is no such run.
        CheckpointError: its weights are missing or damaged.
        DataError: the data are missing, or are not those of the run.
    """
    return load_run(place, weights, data)


def evaluate(loaded: LoadedRun, device: str = "auto") -> dict[str, float]:
    """Validation and test metrics, noise replaced by its expectation, in the run's precision.

    Args:
        loaded: from `load`. A task of one's own data in `loaded.task` is measured as well.
        device: one of `noisyexp.training.device.DEVICES`; the model is moved there.
    """
    place = torch.device(chosen_device(device))
    model = loaded.model.to(place).eval()
    dtype = PRECISIONS[loaded.precision]
    half = dtype != torch.float32 and operand_dtype(dtype, place) is not None
    with torch.no_grad(), torch.autocast(place.type, dtype=dtype, enabled=half):
        return {**loaded.task.validate(model, place), **loaded.task.test(model, place)}


def sample(loaded: LoadedRun, prompt: str, temperature: float = 0.8, samples: int = 1) -> list[str]:
    """What a language model writes behind a prompt; the same texts at every call.

    Args:
        loaded: from `load`, its model on the CPU.
        prompt: words, or characters for the task ptb_char.
        temperature: 0 takes the likeliest token every time.
        samples: number of texts.

    Raises:
        ConfigError: the run is none of a language model.
        DataError: the prompt is empty or has symbols that the model cannot read.
    """
    device = next(loaded.model.parameters()).device
    with torch.no_grad():
        return loaded.task.write(loaded.model, device, Wanted(prompt, temperature, samples))


def records(paths: Paths = "runs") -> list[dict[str, Any]]:
    """Runs below folders and in record files as plain rows: names, settings, cost and results.

    Keys are those of `noisyexp report`: "task", "act", "seed", "training.lr", "test_ppl", ...
    "cost.wall_s" is wall time, "cost.train_s" training time (seconds, see the metric glossary).
    Files that are no records are left out.

    Raises:
        RecordError: a path does not exist, or there is no run in any of them.
    """
    found, _ = find_runs(_several(paths))
    return [
        {
            **one.settings,
            "config_hash": one.record.config_hash,
            "path": str(one.path),
            **{f"cost.{key}": value for key, value in one.record.cost.items()},
            **one.record.final,
        }
        for one in found
    ]


def means(
    paths: Paths = "runs",
    *,
    by: Sequence[str] | None = None,
    where: Conditions | None = None,
    metrics: Sequence[str] = (),
    baseline: Conditions | None = None,
) -> list[dict[str, Any]]:
    """Means over seeds as plain rows: a group a row, those of `noisyexp report ... out=x.csv`.

    A row has the settings in which the groups differ; "runs" and how many of them ended how; the
    seeds of the mean; and for every metric, here test_ppl, "test_ppl_mean", "test_ppl_low" and
    "test_ppl_high" (95 % interval, None for one seed). Where there is a baseline, also the paired
    difference to it over the seeds that both have, "test_ppl_difference_mean", ..._low, ..._high
    and ..._seeds (how many), and "test_ppl_verdict".

    Args:
        paths: folders of runs, run folders and record files.
        by: keys that tell groups apart, ["act", "act.c"]; None takes the settings that differ.
        where: only runs that have these values: {"task": "ptb"}, or "task=ptb,act.c=0.5".
        metrics: names; none takes what selects and what is tested.
        baseline: what the group has that others are compared with, in the form of `where`; None
            takes the reference units.

    Raises:
        RecordError: no run fits, a key or metric that no run has, a baseline of several groups.
    """
    report = average(_several(paths), by=by, where=where, metrics=metrics, baseline=baseline)
    return flat(report)


def frame(source: Paths | Iterable[Mapping[str, Any]] = "runs") -> pandas.DataFrame:
    """Rows as a pandas.DataFrame.

    Args:
        source: rows, of `records` or `means`; or paths, of which it takes the `records`.

    Raises:
        NoisyexpError: pandas is not installed.
        RecordError: see `records`.
    """
    try:
        import pandas
    except ImportError as error:
        raise NoisyexpError("frame needs pandas: run pip install pandas") from error
    given: list[Any] = [source] if isinstance(source, str | Path) else list(source)
    rows = all(isinstance(one, Mapping) for one in given)
    return pandas.DataFrame(given if rows else records(given))


def _several(paths: Paths) -> list[Path]:
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
