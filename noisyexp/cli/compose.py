"""Composing the configuration, and finding all of its mistakes before anything is touched."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from noisyexp.cli.config_files import read_config_files
from noisyexp.cli.config_groups import GROUPS, ROOT_FILE, Groups
from noisyexp.cli.cross_checks import cross_checks, graph_checks
from noisyexp.cli.engines.targets import target_problems
from noisyexp.cli.engines.values import value_problems
from noisyexp.cli.hydra_errors import NOT_COMPOSED, first_line
from noisyexp.cli.kinds import kind_problem
from noisyexp.cli.overrides import given_twice, is_free, parse
from noisyexp.cli.sweep_space import (
    Sweeper,
    check_direction,
    first_job,
    jobs_of,
    read_sweeper,
    readable,
    values_of,
)
from noisyexp.cli.unused import Unused, leave_out, own_settings
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.places import CONFIG_DIR, DATA_VARIABLE
from noisyexp.report.run_set import OWN
from noisyexp.schema import build, closest, echo_typed, shown
from noisyexp.tasks import find_task
from noisyexp.training.config import RunConfig
from noisyexp.training.device import chosen_device
from noisyexp.training.estimate import estimate, too_large
from noisyexp.training.folder import RunNames
from noisyexp.training.processes import gpu_problem, torchrun_size
from noisyexp.training.run import RunSpec
from noisyexp.training.split import split_problem


@contextmanager
def hydra_session(config_dir: Path = CONFIG_DIR) -> Iterator[ConfigLoader]:
    """Hydra set up on `config_dir` for `compose`; gives its loader of groups."""
    GlobalHydra.instance().clear()
    read_config_files()
    if not os.environ.get(DATA_VARIABLE):  # as unset, which Hydra's oc.env does not know
        os.environ.pop(DATA_VARIABLE, None)
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        yield GlobalHydra.instance().config_loader()


def compose_config(overrides: list[str]) -> dict[str, Any]:
    """The resolved configuration for `overrides`, as plain values.

    Raises:
        ConfigError: the overrides do not compose or do not check.
    """
    return dict(check([*overrides])[0].plain)


def check(
    overrides: list[str], *, once: bool = False, unused: Unused | None = None
) -> list[RunSpec]:
    """All runs that `overrides` ask for: one, or the product of a sweep.

    Args:
        overrides: of the command line.
        once: whether a key that is given twice is a mistake; else the last one counts.
        unused: filled with the keys that some units of a sweep are without, see `unused`.

    Raises:
        ConfigError: with every mistake of every run.
    """
    problems: list[str] = list(given_twice(overrides)) if once else []
    with hydra_session() as loader:
        parsed = readable(parse(overrides, loader, problems), problems)
        groups = Groups(loader, _searchpath(parsed))
        try:
            if groups.searchpath:  # Hydra looks at it when it lists files
                groups.options("task")
            parsed = _known_keys(_known_choices(parsed, groups, problems), groups, problems)
            sweeper = _sweeper(parsed, loader, problems)
            if sweeper is None:
                raise ConfigError(problems)
            if params := readable(sweeper.params, problems):
                params = _known_choices(params, groups, problems)
                parsed = _known_keys([*parsed, *params], groups, problems)
        except (*NOT_COMPOSED, ValueError) as error:  # a search path that leads nowhere
            raise ConfigError([*problems, first_line(error)]) from error
        specs = []
        jobs = jobs_of(parsed, sweeper, problems)
        if len(jobs) > 1 and sweeper.ours:
            jobs = leave_out(jobs, Unused() if unused is None else unused)
        for job in jobs:
            spec = _check_job(job, groups, problems)
            specs += [] if spec is None else [spec]
        if specs and not problems:
            check_direction(sweeper, find_task(specs[0].task_config.name), problems)
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
        problems.append(first_line(error))
        return None
    found: list[str] = []
    spec = _spec(plain, choices, command, found)
    problems += echo_typed(found, command, plain)
    return spec


def _spec(
    plain: Any, choices: Mapping[str, Any], command: list[str], problems: list[str]
) -> RunSpec | None:
    found: list[str] = []
    _expand_homes(plain, found)
    run = build(RunConfig, plain, "", found)
    problems += without_echoes(found)
    task = _task_section(plain.get("task"), problems)
    # Another launcher may start the run on a machine with other devices.
    local = choices.get("hydra/launcher") in (None, "basic", "local", "joblib")
    if run is not None:
        problems += cross_checks(run, local)
    if run is None or task is None:
        return None
    if run.training.cuda_graph:
        problems += graph_checks(run, find_task(task.name), local)
    needed = estimate(task, run.training, run.data.source)
    if local and (excess := too_large(needed, chosen_device(run.device))):
        problems.append(excess)
    count = torchrun_size() * run.training.accumulate
    if count > 1:
        made = find_task(task.name)(task, run.data.source, run.seed)
        problems += filter(None, [split_problem(made, count), gpu_problem(run.device)])
    if run.data.source == "generated" and find_task(task.name).makes_data:
        problems.append(f"data=generated: {task.name} always makes its data; leave data out")
    run = _with_weights(run, problems)
    # From the typed sections: 1 and 1.0 are one learning rate, and one run.
    plain = {**dataclasses.asdict(run), "task": dataclasses.asdict(task)}
    names = RunNames(
        task=str(choices.get("task")),
        act=str(choices.get("act")),
        scale=run.scale,
        data=run.data.source,
        # What a debugging run finds is no evidence for a row.
        experiment=_own_experiment(choices) if run.debug == "none" else None,
        seed=run.seed,
    )
    if names.experiment is None:
        plain["row"] = None
    return RunSpec(run, task, plain, names, command)


def _with_weights(run: RunConfig, problems: list[str]) -> RunConfig:
    """The run with the digest of the weights that it starts from, which its hash is made of."""
    from noisyexp.training.init_from import weights_digest

    if run.init_from is None:
        if run.init_weights is not None:
            problems.append("init_weights: filled in by init_from=<run folder>; leave it out")
        return run
    try:
        return dataclasses.replace(run, init_weights=weights_digest(run.init_from))
    except NoisyexpError as error:
        problems.append(f"init_from={run.init_from}: {error}")
        return run


def _expand_homes(plain: dict[str, Any], problems: list[str]) -> None:
    """Folders that begin with ~, which no shell has expanded."""
    data: Any = plain.get("data")
    places = ((plain, "run_root", "run_root"), (plain, "init_from", "init_from"))
    for section, key, name in (*places, (data, "root", "data.root")):
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
    if not isinstance(values["name"], str):
        problems.append(f"task.name={shown(values['name'])}: expected a text, as ptb")
        return None
    try:
        task = find_task(values["name"])
    except ValueError as error:
        problems.append(f"task.name={error}")
        return None
    return build(task.config_type, values, "task", problems)


def _known_choices(parsed: list[Override], groups: Groups, problems: list[str]) -> list[Override]:
    """The overrides but those that choose a file which does not exist; these are reported."""
    kept = []
    for override in parsed:
        key, wanted = override.key_or_group, _values(override)
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
    chosen = {o.key_or_group: _values(o)[0] for o in parsed if groups.options(o.key_or_group)}
    plain = all(not (o.is_add() or o.is_force_add()) for o in parsed)
    if plain and all(o.key_or_group in chosen for o in parsed):
        return parsed  # whole files only, as every table asks for: composed once, by their job
    if _composes(parsed, groups):
        return parsed
    choices = [f"{key}={value}" for key, value in chosen.items()]
    try:
        made = _composed(*groups.searchpath, *choices)
    except NOT_COMPOSED as error:
        problems.append(first_line(error))
        return []
    names, kept = list(_dotted(made)), []
    for override in parsed:
        key = override.key_or_group
        if key.startswith(OWN) and key not in names:
            units = [value for o in parsed if o.key_or_group == "act" for value in _values(o)]
            names += own_settings(groups.searchpath, units)
        known, plus = key in chosen or key in names, override.is_add()
        forced = override.is_force_add()
        if known and (plus or (forced and key in chosen)):
            problems.append(f"{override.input_line}: {key} is there already; leave out the +")
        elif key in names and key not in chosen and f"{key}.".startswith("hydra."):
            wrong = kind_problem(made, override, groups)
            problems += [] if wrong is None else [wrong]
            kept += [override] if wrong is None else []
        elif known or plus or (is_free(key) and (forced or not key.startswith(OWN))):
            kept.append(override)
        else:
            # Hydra's own keys are suggested only to those who ask for one.
            near = [n for n in names if n.startswith("hydra") == override.is_hydra_override()]
            problems.append(f"{override.input_line}: no such key.{closest(key, [*near, *GROUPS])}")
    return kept


def _composes(parsed: list[Override], groups: Groups) -> bool:
    """Whether the first run composes, and so has all keys; False where it has to be looked at.

    What was composed is left for `_check_job`: to compose is most of the time that a check takes.
    """
    for override in parsed:
        changes = override.type is OverrideType.CHANGE and not override.is_hydra_override()
        # Units of a sweep may have settings of their own, see `unused`.
        if not changes or (groups.options(override.key_or_group) and len(_values(override)) > 1):
            return False
    job = first_job(parsed)
    try:
        groups.composed[tuple(job)] = _composed(*job)
    except (*NOT_COMPOSED, ValueError):
        return False
    return True


def keys_of(*choices: str) -> list[str]:
    """Dotted names of all keys, Hydra's own included, that there are with some choices of files."""
    return list(_dotted(_composed(*choices)))


def _composed(*overrides: str) -> DictConfig:
    """The configuration of some overrides, Hydra's own section included."""
    return compose(ROOT_FILE, overrides=list(overrides), return_hydra_config=True)


def _searchpath(parsed: list[Override]) -> list[str]:
    return [str(o.input_line) for o in parsed if o.key_or_group == "hydra.searchpath"]


def _values(override: Override) -> list[str]:
    """Each value of an override as text without quotes; several in a sweep."""
    return [re.sub(r"""^(['"])(.*)\1$""", r"\2", text) for text in values_of(override)]


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


def _sweeper(parsed: list[Override], loader: ConfigLoader, problems: list[str]) -> Sweeper | None:
    """The sweeper that the overrides of Hydra's own keys choose, None if they do not compose."""
    own = [str(override.input_line) for override in parsed if override.is_hydra_override()]
    if not own or problems:
        return Sweeper()
    try:
        config = _composed(*own)
    except NOT_COMPOSED as error:
        problems.append(first_line(error))
        return None
    problems += [*target_problems(config.hydra), *value_problems(config.hydra, resolved=False)]
    given = {override.key_or_group for override in parsed}
    return read_sweeper(config.hydra, OverridesParser.create(loader), given, problems)


def _check_job(job: list[str], groups: Groups, problems: list[str]) -> RunSpec | None:
    try:
        config = groups.composed.pop(tuple(job), None) or _composed(*job)
    except NOT_COMPOSED as error:
        problems.append(first_line(error))
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
        problems.append(f"{shown(word)}: {first_line(error)}")
        return None
    with open_dict(config):
        del config["hydra"]
    task, scale = choices.get("task"), choices.get("scale")
    scales = ["paper", *groups.options(f"overlay/{task}")]
    if scale not in scales:
        problems.append(f"scale={scale}: task {task} has the scales {', '.join(scales)}")
        return None
    return spec_from_config(config, choices, ["run.py", *job], problems)
