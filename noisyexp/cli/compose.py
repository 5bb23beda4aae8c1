"""Composing the configuration, and finding all of its mistakes before anything is touched."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from noisyexp.activations import find_variant
from noisyexp.cli.overrides import countable, given_twice, parse, values
from noisyexp.errors import ConfigError
from noisyexp.places import CONFIG_DIR
from noisyexp.schema import build, closest, shown
from noisyexp.tasks import find_task
from noisyexp.training.config import RunConfig
from noisyexp.training.estimate import estimate, too_large
from noisyexp.training.folder import RunNames
from noisyexp.training.run import RunSpec, chosen_device

ROOT_FILE = "config"
GROUPS = ("task", "act", "scale", "data", "logger", "experiment")
"""Groups of choices, in the order of the help."""


NOT_COMPOSED = (
    HydraException, OmegaConfBaseException, YAMLError, RecursionError, AssertionError, OSError,
    TypeError, AttributeError, KeyError,
)  # fmt: skip
"""What Hydra raises for words that it cannot make a configuration of."""


class Groups:
    """The files that can be chosen from, those of `hydra.searchpath` overrides included."""

    def __init__(self, loader: ConfigLoader, searchpath: list[str]) -> None:
        self.loader, self.searchpath = loader, searchpath
        self._options: dict[str, list[str]] = {}

    def options(self, group: str) -> list[str]:
        """Files of a group, those in its folders as "folder/file"; empty without such a group."""
        # Hydra reads its files again at every question, 50 ms each; a key with a dot is no group.
        if "." in group:
            return []
        if group not in self._options:
            files = self._list(group, ObjectType.CONFIG)
            for folder in self._list(group, ObjectType.GROUP):
                files += [f"{folder}/{name}" for name in self.options(f"{group}/{folder}")]
            self._options[group] = files
        return self._options[group]

    def _list(self, group: str, kind: ObjectType) -> list[str]:
        # The root file is read only for a search path, which without an override is ours alone.
        root = ROOT_FILE if self.searchpath else None
        return list(self.loader.get_group_options(group, kind, root, self.searchpath))


@contextmanager
def hydra_session(config_dir: Path = CONFIG_DIR) -> Iterator[ConfigLoader]:
    """Hydra set up on `config_dir` for `compose`; gives its loader of groups."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        yield GlobalHydra.instance().config_loader()


def compose_config(overrides: list[str]) -> dict[str, Any]:
    """The resolved configuration for `overrides`, as plain values.

    Raises:
        ConfigError: the overrides do not compose or do not check.
    """
    return dict(check([*overrides])[0].plain)


def check(overrides: list[str], *, once: bool = False) -> list[RunSpec]:
    """All runs that `overrides` ask for: one, or the product of a sweep.

    Args:
        overrides: of the command line.
        once: whether a key that is given twice is a mistake; else the last one counts.

    Raises:
        ConfigError: with every mistake of every run.
    """
    problems: list[str] = list(given_twice(overrides)) if once else []
    with hydra_session() as loader:
        parsed = countable(parse(overrides, loader, problems), problems)
        groups = Groups(loader, _searchpath(parsed))
        try:
            parsed = _known_keys(_known_choices(parsed, groups, problems), groups, problems)
        except (*NOT_COMPOSED, ValueError) as error:  # a search path that leads nowhere
            raise ConfigError([*problems, _first_line(error)]) from error
        specs = []
        for job in _jobs(parsed):
            spec = _check_job(job, groups, problems)
            specs += [] if spec is None else [spec]
    if problems:
        raise ConfigError(problems)
    return specs


def spec_from_config(
    config: DictConfig, choices: Mapping[str, Any], command: list[str], problems: list[str]
) -> RunSpec | None:
    """A run from a composed configuration, or None with the reasons in `problems`."""
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        problems.append(_first_line(error))
        return None
    found: list[str] = []
    _expand_homes(plain, found)
    run = build(RunConfig, plain, "", found)
    problems += without_echoes(found)
    task = _task_section(plain.get("task"), problems)
    # Another launcher may start the run on a machine with other devices.
    local = choices.get("hydra/launcher") in (None, "basic", "joblib")
    if run is not None:
        problems += _cross_checks(run, local)
    if run is None or task is None:
        return None
    needed = estimate(task, run.training, run.data.source)
    if local and (excess := too_large(needed, chosen_device(run.device))):
        problems.append(excess)
    if run.data.source == "generated" and find_task(task.name).makes_data:
        problems.append(f"data=generated: {task.name} always makes its data; leave data out")
    # From the typed sections: 1 and 1.0 are one learning rate, and one run.
    plain = {**dataclasses.asdict(run), "task": dataclasses.asdict(task)}
    names = RunNames(
        task=str(choices.get("task")),
        act=str(choices.get("act")),
        scale=run.scale,
        data=run.data.source,
        experiment=_own_experiment(choices),
        seed=run.seed,
    )
    if names.experiment is None:
        plain["row"] = None
    return RunSpec(run, task, plain, names, command)


def _expand_homes(plain: dict[str, Any], problems: list[str]) -> None:
    """Folders that begin with ~, which no shell has expanded."""
    data: Any = plain.get("data")
    for section, key, name in ((plain, "run_root", "run_root"), (data, "root", "data.root")):
        text = section.get(key) if isinstance(section, dict) else None
        if isinstance(text, str) and text.startswith("~"):
            section[key] = os.path.expanduser(text)
            if section[key].startswith("~"):
                problems.append(f"{name}={text}: there is no such home folder")


def without_echoes(problems: list[str]) -> list[str]:
    """The problems but those of `act.tanh` and `act.sigmoid` that `act` itself has.

    What is set for both kinds is the value of each, and one mistake is one problem.
    """
    said = set(problems)
    return [p for p in problems if re.sub(r"^act\.(tanh|sigmoid)\.", "act.", p) not in said - {p}]


def _own_experiment(choices: Mapping[str, Any]) -> str | None:
    """The experiment, unless the command line has put another task or unit into its row."""
    name = choices.get("experiment")
    path = CONFIG_DIR / "experiment" / f"{name}.yaml"
    if name is None or not path.is_file():  # a file of the user's own folder
        return None if name is None else str(name)
    defaults = OmegaConf.to_container(OmegaConf.load(path)).get("defaults", [])  # type: ignore[union-attr]
    own = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    changed = any(choices.get(key.removeprefix("override /")) != value for key, value in own)
    return None if changed else str(name)


def _task_section(values: Any, problems: list[str]) -> Any:
    if not isinstance(values, Mapping) or "name" not in values:
        problems.append("task.name: missing (the task's folder)")
        return None
    try:
        task = find_task(str(values["name"]))
    except ValueError as error:
        problems.append(f"task.name={error}")
        return None
    return build(task.config_type, values, "task", problems)


def _cross_checks(run: RunConfig, local: bool) -> Iterator[str]:
    """Problems that need more than one section, or the machine."""
    import torch

    if run.device == "cuda" and local and not torch.cuda.is_available():
        yield "device='cuda': torch sees no CUDA device here; use device=cpu or device=auto"
    cores = os.cpu_count() or 1
    if run.threads is not None and run.threads > cores and local:
        yield f"threads={run.threads}: this machine has {cores}"
    if run.precision == "fp16" and (run.device == "cpu" or not torch.cuda.is_available()) and local:
        yield "precision='fp16': needs a CUDA device; use bf16 or fp32"
    for extra, wanted in (
        ("wandb", run.logger.wandb != "off"),
        ("tensorboard", run.logger.tensorboard),
    ):
        if wanted and importlib.util.find_spec(extra) is None:
            yield f"logger: {extra} is not installed; run pip install -e '.[{extra}]'"
    unit = find_variant(run.act.variant)
    if run.anneal.schedule != "none" and not (unit.has_noise or unit.has_p):
        yield (
            f"anneal.schedule={run.anneal.schedule!r}: act.variant={run.act.variant!r} has no "
            "noise to anneal; use anneal.schedule=none"
        )
    if run.anneal.schedule != "none" and run.anneal.floor > run.anneal.start:
        yield f"anneal.floor={run.anneal.floor}: must not be above anneal.start={run.anneal.start}"


def _known_choices(parsed: list[Override], groups: Groups, problems: list[str]) -> list[Override]:
    """The overrides but those that choose a file which does not exist; these are reported."""
    kept = []
    for override in parsed:
        key, wanted = override.key_or_group, values(override)
        options = groups.options(key)
        allowed = ", ".join(options)
        if options and override.is_delete():
            problems.append(f"~{key}: a run needs one; choose from {allowed}")
            continue
        if not wanted:
            problems.append(f"{override.input_line}: a sweep over no value")
            continue
        wrong = [value for value in wanted if options and value not in options]
        for value in wrong:
            problems.append(f"{key}={value}: choose from {allowed}.{closest(value, options)}")
        kept += [] if wrong else [override]
    return kept


def _known_keys(parsed: list[Override], groups: Groups, problems: list[str]) -> list[Override]:
    """The overrides but those of a key that does not exist; these are reported."""
    chosen = {o.key_or_group: values(o)[0] for o in parsed if groups.options(o.key_or_group)}
    plain = all(not (o.is_add() or o.is_force_add()) for o in parsed)
    if plain and all(o.key_or_group in chosen for o in parsed):
        return parsed  # whole files only, as every table asks for: composed once, by their job
    choices = [f"{key}={value}" for key, value in chosen.items()]
    try:
        config = compose(
            ROOT_FILE, overrides=[*groups.searchpath, *choices], return_hydra_config=True
        )
    except NOT_COMPOSED as error:
        problems.append(_first_line(error))
        return []
    names = list(_dotted(config))
    kept = []
    for override in parsed:
        key = override.key_or_group
        known, plus = key in chosen or key in names, override.is_add()
        if known and (plus or (override.is_force_add() and key in chosen)):
            problems.append(f"{override.input_line}: {key} is there already; leave out the +")
        elif known or plus:
            kept.append(override)
        else:
            # Hydra's own keys are suggested only to those who ask for one.
            near = [n for n in names if n.startswith("hydra") == override.is_hydra_override()]
            problems.append(f"{override.input_line}: no such key.{closest(key, [*near, *GROUPS])}")
    return kept


def _searchpath(parsed: list[Override]) -> list[str]:
    return [str(o.input_line) for o in parsed if o.key_or_group == "hydra.searchpath"]


def _dotted(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys, sections included."""
    for key in config:
        name = prefix + str(key)
        yield name
        if OmegaConf.is_missing(config, key):
            continue
        # Reading the node itself keeps interpolations unresolved.
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _dotted(node, f"{name}.")


def _jobs(parsed: list[Override]) -> list[list[str]]:
    """Overrides of every job, in the order in which Hydra's basic sweeper runs them."""
    choices = []
    for override in parsed:
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
    return [list(job) for job in itertools.product(*choices)]


def _check_job(job: list[str], groups: Groups, problems: list[str]) -> RunSpec | None:
    try:
        config = compose(ROOT_FILE, overrides=job, return_hydra_config=True)
    except NOT_COMPOSED as error:
        problems.append(_first_line(error))
        return None
    try:
        choices = dict(config.hydra.runtime.choices)
        for word in job:  # Hydra would read these only when it starts the runs
            key = word.partition("=")[0].lstrip("+~")
            if key.startswith("hydra."):
                OmegaConf.to_container(
                    OmegaConf.create([OmegaConf.select(config, key)]), resolve=True
                )
    except (*NOT_COMPOSED, ValueError) as error:
        problems.append(f"{shown(word)}: {_first_line(error)}")
        return None
    with open_dict(config):
        del config["hydra"]
    task, scale = choices.get("task"), choices.get("scale")
    scales = ["paper", *groups.options(f"overlay/{task}")]
    if scale not in scales:
        problems.append(f"scale={scale}: task {task} has the scales {', '.join(scales)}")
        return None
    return spec_from_config(config, choices, ["run.py", *job], problems)


def _first_line(error: Exception) -> str:
    if isinstance(error, YAMLError):  # what, and in which file and line
        return " ".join(str(error).split())
    key = getattr(error, "full_key", None)
    said = str(error).strip() or str(error.__cause__ or "").strip() or type(error).__name__
    lines = said.splitlines()
    return (f"{key}: " if key else "") + lines[0]
