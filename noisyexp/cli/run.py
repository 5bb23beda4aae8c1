"""The command line: check everything, then hand single runs and sweeps to Hydra."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig

from noisyexp.cli.compose import ROOT_FILE, check, spec_from_config
from noisyexp.cli.help import key_texts, long_text, short_text
from noisyexp.cli.named_sweeps import expand_sweeps
from noisyexp.cli.outcome import run_line, sweep_report
from noisyexp.cli.workers import announce_sweep, tied_to_sweep
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.fileio import ADVICE, explain
from noisyexp.places import CONFIG_DIR
from noisyexp.process import settle_output
from noisyexp.training.callbacks import Interrupted
from noisyexp.training.run import RunSpec, execute

HYDRA_FLAGS = (
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--hydra-help",
    "--version",
    "--shell-completion",
    "-sc",
)
SHOWS_RUN = {"--cfg", "-c", "--info", "-i"}
"""Flags that show a run: its overrides are checked. The others have words of their own."""

WITH_WORD = {
    "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--package", "-p", "--config-name",
    "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--experimental-rerun",
}  # fmt: skip
"""Hydra's flags whose value may be the next word."""

STARTS = ("task=", "experiment=")
"""A run needs one of them: the default task is the paper's and takes an hour."""
EXAMPLE_START = "task=ptb, or a row of a table, experiment=table2/nah"

MULTIRUN_FLAGS = ("-m", "--multirun")


def main(argv: list[str]) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0 all runs finished, 1 a run failed, 2 a mistake in the configuration, 128 + n
        ended by signal n.
    """
    if not argv:
        print(short_text())
        return 0
    try:
        argv = [spell_home(spell_nan(argument)) for argument in expand_sweeps(argv)]
        asked = [word for word in argv if not word.startswith("-")]
        if "--help" in argv or "-h" in argv:
            print(key_texts(asked) if asked else long_text())
            return 0
    except ConfigError as error:
        print(spoken(error), file=sys.stderr)
        return error.exit_code
    if any(argument in HYDRA_FLAGS for argument in argv):
        try:
            if SHOWS_RUN & set(argv):
                check(_overrides_among(argv), once=True)
            _hydra(argv)
        except NoisyexpError as error:
            print(spoken(error), file=sys.stderr)
            return error.exit_code
        except SystemExit as stop:  # Hydra has printed why
            return 2 if stop.code else 0
        except ValueError as error:  # two flags that exclude each other, or act=null
            print(error, file=sys.stderr)
            return 2
        return 0
    multirun = any(flag in argv for flag in MULTIRUN_FLAGS)
    overrides = [argument for argument in argv if argument not in MULTIRUN_FLAGS]
    try:
        unknown = [argument for argument in overrides if argument.startswith("-")]
        if unknown:
            raise ConfigError(
                [f"{flag}: no such option; see noisyexp run --help" for flag in unknown]
            )
        specs = check(overrides, once=True)
        if len(specs) > 1 and not multirun:
            raise ConfigError([f"{len(specs)} runs in one command: add -m to sweep over values"])
        if not any(word.lstrip("+").startswith(STARTS) for word in overrides):
            raise ConfigError([f"no experiment given; give one: {EXAMPLE_START}"])
    except NoisyexpError as error:
        print(spoken(error), file=sys.stderr)
        return error.exit_code
    try:
        return _sweep(argv, specs) if multirun else run_one(specs[0])
    except Interrupted as stop:
        name = signal.Signals(stop.signum).name
        print(f"{name}: checkpoint written; the same command goes on from it", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 128 + signal.SIGINT


def _overrides_among(argv: list[str]) -> list[str]:
    """The words that are neither flags of Hydra nor values of them."""
    pairs = zip(["", *argv], argv, strict=False)
    return [word for before, word in pairs if word[:1] != "-" and before not in WITH_WORD]


def spoken(error: Exception) -> str:
    """The message in the words that a person types, see `spell_nan`."""
    return str(error).replace("nan_normal", "nan")


def spell_nan(argument: str) -> str:
    """`act=nan` with the name of its file, in sweeps and any case too, and `experiment=table2/nan`.

    Hydra's grammar reads a bare nan as the floating-point number.
    """
    key, _, values = argument.partition("=")
    if key == "experiment":
        return re.sub(r"(?i)/nan(?=,|$)", "/nan_normal", argument)
    if key.lstrip("+") != "act":
        return argument
    return f"{key}=" + re.sub(r"(?i)(?<![\w.*/-])nan(?![\w.*/-])", "nan_normal", values)


def spell_home(argument: str) -> str:
    """`run_root=~/runs` and `data.root=~/data` with the home folder: no shell does it there."""
    key, _, value = argument.partition("=")
    homes = key.lstrip("+") in ("run_root", "data.root") and value.startswith("~")
    return f"{key}={os.path.expanduser(value)}" if homes else argument


def run_one(spec: RunSpec) -> int:
    """Run one job, print its result or the reason of its failure, and return its exit code."""
    try:
        outcome = execute(spec)
        print(run_line(outcome), flush=True)
    except NoisyexpError as error:
        print(f"{spec.folder.name}: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        name = spec.folder.name
        if isinstance(error, OSError) and error.errno in ADVICE:
            where = f"{error.filename}: " if isinstance(error.filename, str) else ""
            print(f"{name}: {where}{explain(error)}", file=sys.stderr)
        else:  # a bug: keep its traceback, and let the other jobs of a sweep run
            print(f"{name} failed:", file=sys.stderr)
            traceback.print_exc()
        return 1
    return 0 if outcome.record["status"] == "complete" else 1


def run_job(config: DictConfig) -> int:
    """One job of a sweep, called by Hydra in whatever process its launcher uses."""
    from hydra.core.hydra_config import HydraConfig

    settle_output(lossy=True)  # a worker has a standard output of its own
    problems: list[str] = []
    spec = spec_from_config(
        config, HydraConfig.get().runtime.choices, ["run.py", *_overrides()], problems
    )
    if spec is None:
        raise ConfigError(problems)
    with tied_to_sweep():
        return run_one(spec)


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task)


def _sweep(argv: list[str], specs: list[RunSpec]) -> int:
    """All runs by Hydra's launcher; then what became of each, from its record."""
    root = Path(specs[0].config.run_root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"run_root={root}: {explain(error)}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    announce_sweep()
    launched = True
    try:
        _hydra(argv)
    except SystemExit:  # the launcher gave up, and Hydra has printed why
        launched = False
    text, failed = sweep_report(specs)
    print(text)
    return 1 if failed or not launched else 0


def _hydra(argv: list[str]) -> None:
    before = sys.argv
    # Flags last: Hydra cannot read one that stands between two overrides.
    sys.argv = ["run.py", *sorted(argv, key=lambda word: "=" not in word and word[:1] != "~")]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=ROOT_FILE)(
            run_job
        )()
    finally:
        sys.argv = before
