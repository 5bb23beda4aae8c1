"""What the keys of launchers and sweepers take, checked before anything starts.

Hydra hands the values on as they are: n_jobs=two fails within a launcher, and with
array_parallelism=0 a sweep would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf


class Rule(NamedTuple):
    """What a key takes: in words, and whether it takes a value."""

    expected: str
    takes: Callable[[Any], bool]


def _whole(least: int, *others: int | None, words: str = "") -> Rule:
    """A whole number of at least `least`, or one of `others`."""

    def takes(value: Any) -> bool:
        return value in others or (type(value) is int and value >= least)

    return Rule(f"expected a whole number of at least {least}{words}", takes)


def _number(*others: None, words: str = "") -> Rule:
    """A number of at least 0, or one of `others`."""

    def takes(value: Any) -> bool:
        return value in others or (type(value) in (int, float) and 0 <= value < float("inf"))

    return Rule(f"expected a number of at least 0{words}", takes)


RULES: dict[str, dict[str, Rule]] = {
    "LocalLauncher": {"n_jobs": _whole(1, -1, words=", or -1 for as many as there is room for")},
    "SubmititLauncher": {
        "cluster": Rule("expected slurm or local", lambda value: value in ("slurm", "local")),
        "timeout_min": _whole(1),
        "signal_delay_s": _whole(0),
        "max_num_timeout": _whole(0),
        "array_parallelism": _whole(1),
    },
    "RayLauncher": {
        "num_cpus": _number(None, words=", or null for the run's threads"),
        "num_gpus": _number(),
        "max_retries": _whole(0, -1, words=", or -1 for no end"),
    },
    "BasicSweeper": {"max_batch_size": _whole(1, None, words=", or null for all runs at once")},
    "OptunaSweeper": {"n_trials": _whole(1), "n_jobs": _whole(1)},
}
"""By the class of a launcher or sweeper; those that are not here check their keys themselves."""


def value_problems(hydra: Mapping[str, Any], *, resolved: bool) -> list[str]:
    """A line for each value of `hydra.launcher` and `hydra.sweeper` that cannot be.

    Args:
        hydra: the section `hydra` of a composed configuration.
        resolved: whether what refers to other keys (`${threads}`) has its value, too.
    """
    problems = []
    for name in ("launcher", "sweeper"):
        section: DictConfig = hydra[name]
        rules = RULES.get(str(section["_target_"]).rpartition(".")[2], {})
        for key, rule in rules.items():
            if key not in section or (not resolved and OmegaConf.is_interpolation(section, key)):
                continue
            if not rule.takes(section[key]):
                text = _as_typed(section[key])
                problems.append(f"hydra.{name}.{key}={text}: {rule.expected}")
    return problems


def _as_typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
