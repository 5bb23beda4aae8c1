"""Every configuration file: it composes, its values are the sources', its header can be read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from omegaconf import OmegaConf

from noisyexp.activations import find_variant, variants
from noisyexp.cli.compose import CONFIG_DIR, check, compose_config
from noisyexp.cli.config_groups import GROUPS
from noisyexp.nan_names import spell_nan
from noisyexp.records.row_files import HEADER_FIELDS, MAX_OVERLAY_LINES, load_row, parse_header
from noisyexp.tasks import find_task
from noisyexp.training.run import RunSpec

FILES = sorted(CONFIG_DIR.rglob("*.yaml"))
NAMES = [path.relative_to(CONFIG_DIR).with_suffix("").as_posix() for path in FILES]
EXPERIMENTS = [name.removeprefix("experiment/") for name in NAMES if name.startswith("experiment/")]
# To compose a row takes a second: the last of every table in the suite, the others by name.
FIRST = [*{name.split("/")[0]: name for name in EXPERIMENTS}.values()]
REST = [pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS if name not in FIRST]
TASKS = [name.removeprefix("task/") for name in NAMES if name.startswith("task/")]
ACTS = [name.removeprefix("act/") for name in NAMES if name.startswith("act/")]
SCALES = [name.removeprefix("scale/") for name in NAMES if name.startswith("scale/")]


def scales_of(task: str) -> list[str]:
    overlays = [name.split("/")[-1] for name in NAMES if name.startswith(f"overlay/{task}/")]
    return ["paper", *overlays]


@cache
def run_of(task: str, act: str, scale: str) -> RunSpec:
    """The run of a task with a unit at a scale, at seed 0."""
    (spec,) = check([f"task={task}", f"act={act}", f"scale={scale}"])
    assert (spec.names.task, spec.names.act, spec.config.scale) == (task, act, scale)
    return spec


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all leaves."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    found = {}
    for key, value in config.items():
        found.update(flat(value, f"{prefix}.{key}" if prefix else key))
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    a, b = flat(one), flat(other)
    return {key for key in a.keys() | b.keys() if a.get(key, "absent") != b.get(key, "absent")}


# --- the files


def test_every_file_is_in_a_known_place() -> None:
    # A new file changes these numbers by hand, so that none can be lost unseen.
    assert Counter(name.split("/")[0] for name in NAMES) == {
        "act": 9, "config": 1, "data": 2, "experiment": 93, "hydra": 4, "logger": 3, "overlay": 34,
        "scale": 4, "sheet": 9, "sweep": 1, "task": 12,
    }  # fmt: skip
    assert len(FILES) == 172
    others = [p for p in CONFIG_DIR.rglob("*") if p.is_file() and p not in FILES]
    assert others == []


def test_every_overlay_belongs_to_a_task_and_a_scale() -> None:
    overlays = [name.split("/")[1:] for name in NAMES if name.startswith("overlay/")]
    assert all(task in TASKS and scale in SCALES for task, scale in overlays)
    # The paper's scale is the task's own file.
    assert not [scale for _, scale in overlays if scale == "paper"]
    assert {scale for _, scale in overlays} == {*SCALES} - {"paper"}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_what_it_is(name: str) -> None:
    lines = (CONFIG_DIR / f"{name}.yaml").read_text().splitlines()
    comments = [line for line in lines if re.match(r"# (?!@package)\S", line)]
    assert comments or name.startswith("overlay/")
    assert all(len(line) <= 100 for line in lines)


# --- combinations


def _same_but_for_the_units(task: str, acts: list[str], scales: list[str]) -> None:
    """Every arm of a comparison gets the same setting, and each run has a hash of its own."""
    found = {(act, scale): run_of(task, act, scale) for act in acts for scale in scales}
    assert len({spec.digest for spec in found.values()}) == len(acts) * len(scales)
    for scale in scales:
        first, *others = [spec.plain for (_, at), spec in found.items() if at == scale]
        for other in others:
            assert {key.split(".")[0] for key in differences(first, other)} == {"act"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_at_every_scale(task: str) -> None:
    _same_but_for_the_units(task, ["reference", "nah"], ["paper"])
    _same_but_for_the_units(task, ["nah"], scales_of(task))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_with_every_unit_at_every_scale(task: str) -> None:
    _same_but_for_the_units(task, ACTS, scales_of(task))


def test_data_and_loggers() -> None:
    specs = check(["data=real,generated", "logger=files,tensorboard,wandb"])
    assert [(s.config.data.source, s.config.logger.tensorboard, s.config.logger.wandb)
            for s in specs] == [
        (source, board, wandb)
        for source in ("real", "generated")
        for board, wandb in ((False, "off"), (True, "off"), (False, "offline"))
    ]  # fmt: skip
    # Where numbers are logged changes nothing that is computed; what is learned from does.
    assert [len({s.digest for s in specs[i : i + 3]}) for i in (0, 3)] == [1, 1]
    assert specs[0].digest != specs[3].digest


def test_data_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYEXP_DATA", "/some/where")
    assert compose_config([])["data"]["root"] == "/some/where"
    monkeypatch.delenv("NOISYEXP_DATA")
    assert compose_config([])["data"]["root"] == "data"


def test_defaults_of_a_run() -> None:
    (spec,) = check([])
    assert (spec.names.task, spec.names.act, spec.names.experiment) == ("ptb", "nah", None)
    config = spec.config
    assert (config.scale, config.seed, config.device, config.precision, config.row) == (
        "paper", 0, "auto", "fp32", None,
    )  # fmt: skip
    assert (config.logger.wandb, config.logger.tensorboard) == ("off", False)
    assert config.anneal.schedule == "none"


# --- units


def test_there_is_a_file_for_every_variant_and_a_variant_for_every_file() -> None:
    own = {name for name in variants() if find_variant(name).__module__.startswith("noisyexp.")}
    specs = check(["act=glob(*)"])
    assert len(specs) == len(own) == 9
    assert {spec.config.act.variant for spec in specs} == own
    # Hydra reads a bare nan as a number.
    assert "nan" not in ACTS
    for spec in specs:
        assert spec.names.act == {"nan": "nan_normal"}.get(
            spec.config.act.variant, spec.config.act.variant
        )


@pytest.mark.parametrize(
    ("act", "label", "c"),
    [
        # c of Section 6, sigma of Section 6.5 (NANI) and of the released code (NANIS).
        ("reference", "Reference", None), ("hard", "Hard", None), ("nan_normal", "NAN", 0.5),
        ("nah", "NAH", 0.5), ("nani", "NANI", 0.05), ("nanil", "NANIL", 0.5),
        ("nanis", "NANIS", 0.25),
    ],
)  # fmt: skip
def test_settings_of_the_units(act: str, label: str, c: float | None) -> None:
    config = run_of("ptb", act, "paper").plain["act"]
    assert (config["label"], config["c"]) == (label, c)
    assert config["tanh"] == config["sigmoid"] == {"alpha": 1.0, "c": c, "clip_output": False}
    assert (config["p_shape"], config["clip_output"], config["code_compat"]) == (
        "unit", False, False,
    )  # fmt: skip
    assert config["settings"] == {}


# --- Penn Treebank

ZAREMBA = {
    # Zaremba et al. (2014) and their code of 20 May 2015: H, dropout, init, T, B, clip, epochs,
    # first epochs at the full rate less one, divisor of the rate.
    "ptb": (200, 0.0, 0.1, 20, 20, 5.0, 13, 4, 2.0),
    "ptb_medium": (650, 0.5, 0.05, 35, 20, 5.0, 39, 6, 1.2),
    "ptb_large": (1500, 0.65, 0.04, 35, 20, 10.0, 55, 14, 1.15),
}


@pytest.mark.parametrize("name", ZAREMBA)
def test_the_models_of_zaremba(name: str) -> None:
    config = run_of(name, "nah", "paper").plain
    task, training = config["task"], config["training"]
    schedule = training["lr_schedule"]
    assert (
        task["hidden_size"], task["dropout"], task["init_range"], task["steps"],
        task["batch_size"], training["max_grad_norm"], training["epochs"], schedule["after"],
        schedule["factor"],
    ) == ZAREMBA[name]  # fmt: skip
    assert (task["name"], task["num_layers"], task["max_tokens"]) == ("ptb", 2, None)
    assert (training["optimizer"], training["lr"]) == ("sgd", 1.0)
    assert (training["momentum"], training["weight_decay"]) == (0.0, 0.0)
    assert (schedule["rule"], training["patience"], training["max_steps"]) == (
        "decay_after", None, None,
    )  # fmt: skip
    # Fixed schedule, no best-model selection.
    assert (training["use_weights"], training["evaluate_every"]) == ("last", 1)


@pytest.mark.parametrize("task", ZAREMBA)
def test_the_cpu_scale_is_the_same_model_for_fewer_epochs(task: str) -> None:
    paper, cpu = (run_of(task, "nah", scale).plain for scale in ("paper", "cpu"))
    assert differences(paper, cpu) == {"scale", "training.epochs", "training.lr_schedule.after"}
    # Two epochs, the second at a smaller rate: `after` is the last finished epoch without a change.
    assert (cpu["training"]["epochs"], cpu["training"]["lr_schedule"]["after"]) == (2, 0)


def test_the_small_scales_change_sizes_and_length_alone() -> None:
    paper, demo, smoke = (run_of("ptb", "nah", s).plain for s in ("paper", "demo", "smoke"))
    lengths = {"scale", "training.epochs", "training.lr_schedule.after"}
    assert differences(paper, demo) == lengths | {
        "task.hidden_size", "task.train_tokens",
    }  # fmt: skip
    assert differences(paper, smoke) == {
        "scale", "training.epochs", "task.hidden_size", "task.max_tokens", "task.train_tokens",
        "logger.every_steps",
    }  # fmt: skip


# --- table rows


@pytest.mark.parametrize("name", [*FIRST, *REST])
def test_row_files(name: str) -> None:
    path = CONFIG_DIR / "experiment" / f"{name}.yaml"
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    fields, _ = parse_header(text)
    assert set(fields) == {"title", *HEADER_FIELDS}
    row = load_row(path)
    assert row.overlay_lines <= MAX_OVERLAY_LINES == 25
    assert row.command == f"python run.py experiment={name} seed=0"
    assert row.seeds == tuple(range(len(row.seeds)))

    overrides = [spell_nan(word) for word in row.command.split()[2:]]
    (spec,) = check(overrides)
    assert (spec.names.experiment, spec.names.task, spec.names.act) == (name, row.task, row.act)
    assert (spec.config.scale, spec.config.seed) == ("paper", 0)
    assert spec.config.row is not None
    assert spec.config.row["label"] == row.label
    # The metrics of the paper's numbers are metrics of the task.
    assert set(row.paper) <= set(find_task(spec.task_config.name).metrics)


@pytest.mark.parametrize("name", [*FIRST, *REST])
def test_a_row_is_the_run_that_one_would_type(name: str) -> None:
    path = CONFIG_DIR / "experiment" / f"{name}.yaml"
    row, scales = load_row(path), f"scale={','.join(scales_of(load_row(path).task))}"
    own: Any = OmegaConf.to_container(OmegaConf.load(path))
    settings = {key: value for key, value in own.items() if key not in ("defaults", "row")}
    typed = [f"{key}={value}" for key, value in flat(settings).items() if key]
    if typed:
        by_hand = check([f"task={row.task}", f"act={row.act}", scales, *typed])
    else:  # composed before
        by_hand = [run_of(row.task, row.act, scale) for scale in scales_of(row.task)]
    by_name = check([f"experiment={name}", scales])
    assert [spec.digest for spec in by_name] == [spec.digest for spec in by_hand]


def test_groups_of_the_help_are_the_folders() -> None:
    folders = {name.split("/")[0] for name in NAMES if "/" in name}
    assert folders == {*GROUPS, "hydra", "overlay", "sheet", "sweep"}
