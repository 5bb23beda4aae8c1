"""What the keys of launchers and sweepers take, checked before anything starts.

Hydra hands the values on as they are: n_jobs=two fails within a launcher, and with
array_parallelism=0 a sweep would wait for ever. Optuna asks for all trials of a batch before the
first run, so that a giant batch would be silent for hours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf

from noisyexp.cli.sweep_space import MAX_JOBS
from noisyexp.schema import closest


class Rule(NamedTuple):
    """What a key takes: in words, and whether it takes a value."""

    expected: str
    takes: Callable[[Any], bool]

    def or_null(self) -> Rule:
        """The same for a key that may be left empty."""
        return Rule(
            f"{self.expected}, or null", lambda value: value is None or bool(self.takes(value))
        )


def _whole(least: int, *others: int | None, words: str = "", most: int | None = None) -> Rule:
    """A whole number of at least `least` and at most `most`, or one of `others`."""

    def takes(value: Any) -> bool:
        if value in others:
            return True
        return type(value) is int and least <= value and (most is None or value <= most)

    bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
    return Rule(f"expected a whole number {bounds}{words}", takes)


def _number(*others: None, words: str = "", least: float = 0, most: float | None = None) -> Rule:
    """A finite number of at least `least`, or one of `others`."""
    high = float("inf") if most is None else most

    def takes(value: Any) -> bool:
        if value in others:
            return True
        return type(value) in (int, float) and least <= value <= high and value != float("inf")

    bounds = f"of at least {least:g}" if most is None else f"from {least:g} to {most:g}"
    return Rule(f"expected a number {bounds}{words}", takes)


def _is_word(value: Any) -> bool:
    """Whether a value is a text, or the name of something that happens to be a number."""
    return (isinstance(value, str) and value != "") or type(value) in (int, float)


def _text(example: str) -> Rule:
    return Rule(f"expected a text, as {example}", _is_word)


def _like(pattern: str, expected: str) -> Rule:
    """A value whose text has a form."""
    found = re.compile(pattern, re.IGNORECASE).fullmatch
    return Rule(expected, lambda value: type(value) in (int, str) and bool(found(str(value))))


def _texts(example: str) -> Rule:
    def takes(value: Any) -> bool:
        return isinstance(value, list | ListConfig) and all(isinstance(v, str) for v in value)

    return Rule(f"expected a list of texts, as {example}", takes)


def _mapping(expected: str, takes: Callable[[Any], bool]) -> Rule:
    def all_taken(value: Any) -> bool:
        return isinstance(value, dict | DictConfig) and all(takes(v) for v in value.values())

    return Rule(expected, all_taken)


SBATCH: dict[str, Rule] = {
    word: rule.or_null()
    for word, rule in {
        "partition": _text("gpu"),
        "account": _text("lab"),
        "qos": _text("long"),
        "cpus_per_task": _whole(1),
        "mem_gb": Rule(
            "expected a number above 0", lambda v: type(v) in (int, float) and 0 < v < 1e9
        ),
        "mem_per_cpu": _like(r"\d+([KMGT]B?)?", "expected an amount of memory, as 4G"),
        "gpus_per_node": _like(
            r"([\w.-]+:)?\d+", "expected a whole number of at least 0, or one with a kind, a100:2"
        ),
        "gres": _text("gpu:2"),
        "constraint": _text("a100"),
        "nodelist": _text("'n1,n2'"),
        "exclude": _text("'n1,n2'"),
        "exclusive": Rule(
            "expected true, false or a text, as user",
            lambda v: isinstance(v, bool | str) and v != "",
        ),
        "dependency": _text("afterok:17"),
        "mail_type": _text("'END,FAIL'"),
        "mail_user": _text("me@example.org"),
        "comment": _text("trial"),
        "wckey": _text("project"),
        "setup": _texts("['module load cuda']"),
        "srun_args": _texts("['--mpi=none']"),
    }.items()
}  # fmt: skip
SBATCH["additional_parameters"] = _mapping(
    "expected words with their values, as {reservation: week}",
    lambda value: value is None or isinstance(value, bool) or _is_word(value),
)
"""Words for sbatch, with underscores."""

ELSEWHERE = {
    "time": "hydra.launcher.timeout_min",
    "signal": "hydra.launcher.signal_delay_s",
    "array": "hydra.launcher.array_parallelism",
    "mem": "hydra.launcher.sbatch.mem_gb",
    **{word: f"hydra.launcher.sbatch.{word}" for word in SBATCH},
    **dict.fromkeys(("job_name", "output", "error", "open_mode"), ""),
}
"""Words for sbatch that have a key of the launcher, or that it says itself."""

SEED = _whole(0, None, words=", or null", most=2**32 - 1)
"""What NumPy's generators take."""

RULES: dict[str, dict[str, Rule]] = {
    "LocalLauncher": {"n_jobs": _whole(1, -1, words=", or -1 for as many as there is room for")},
    "SubmititLauncher": {
        "cluster": Rule("expected slurm or local", lambda value: value in ("slurm", "local")),
        "timeout_min": _whole(1),
        "signal_delay_s": _whole(0),
        "max_num_timeout": _whole(0),
        "array_parallelism": _whole(1),
        **{f"sbatch.{word}": rule for word, rule in SBATCH.items()},
    },
    "RayLauncher": {
        "address": _text("auto or host:6379").or_null(),
        "num_cpus": _number(None, words=", or null for the run's threads"),
        "num_gpus": _number(),
        "max_retries": _whole(0, -1, words=", or -1 for no end"),
        "resources": _mapping("expected names with numbers, as {big: 1}", _number().takes),
    },
    "BasicSweeper": {"max_batch_size": _whole(1, None, words=", or null for all runs at once")},
    "OptunaSweeper": {
        "n_trials": _whole(1, most=MAX_JOBS),
        "n_jobs": _whole(1, most=MAX_JOBS),
        "max_failure_rate": _number(most=1),
        "storage": _like(r"\w[\w+]*://.*", "expected an address, as sqlite:///study.db").or_null(),
        "study_name": _text("rates").or_null(),
        "sampler.seed": SEED,
        "sampler.n_startup_trials": _whole(0, most=MAX_JOBS),
        "sampler.n_ei_candidates": _whole(1, most=MAX_JOBS),
        "sampler.n_ehvi_candidates": _whole(1, most=MAX_JOBS),
        "sampler.population_size": _whole(2, most=MAX_JOBS),
    },
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
            *sections, last = key.split(".")
            holder = OmegaConf.select(section, ".".join(sections)) if sections else section
            if not isinstance(holder, DictConfig) or last not in holder:
                continue
            if not resolved and _refers(holder, last):
                continue
            if not rule.takes(holder[last]):
                text = _as_typed(holder[last])
                problems.append(f"hydra.{name}.{key}={text}: {rule.expected}")
    return [*problems, *_word_problems(hydra["launcher"])]


def _refers(holder: DictConfig, key: str) -> bool:
    """Whether a value, or one within it, refers to another key."""
    if OmegaConf.is_interpolation(holder, key):
        return True
    inner = holder._get_node(key)
    return isinstance(inner, DictConfig | ListConfig) and "${" in str(inner)


def _word_problems(launcher: DictConfig) -> Iterator[str]:
    """Words for sbatch that do not exist, or that stand in the wrong place."""
    words = launcher.get("sbatch")
    if words is None:
        return
    place = "hydra.launcher.sbatch"
    if not isinstance(words, DictConfig):
        yield f"{place}={words}: expected words with their values, as {{partition: gpu}}"
        return
    for word in map(str, words):
        if word not in SBATCH:
            near = closest(word, SBATCH)
            yield (
                f"{place}.{word}: no such key.{near} Words that are not there go to "
                f"{place}.additional_parameters"
            )
    others = words.get("additional_parameters")
    for word in map(str, others if isinstance(others, DictConfig) else ()):
        key = ELSEWHERE.get(word.lstrip("-").replace("-", "_"))
        if key is not None:
            say = f"use {key}" if key else "the launcher says it itself"
            yield f"{place}.additional_parameters.{word}: {say}"


def _as_typed(value: Any) -> str:
    if isinstance(value, dict | DictConfig):
        return "{" + ", ".join(f"{key!s}: {_as_typed(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | ListConfig):
        return "[" + ", ".join(map(_as_typed, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
