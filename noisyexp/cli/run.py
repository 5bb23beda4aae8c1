"""The command line: check everything, then hand single runs and sweeps to Hydra."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from noisyexp.cli.attempt import attempt
from noisyexp.cli.compose import check, spec_from_config
from noisyexp.cli.config_groups import ROOT_FILE
from noisyexp.cli.engines.jobs import RunFailedError, objective
from noisyexp.cli.engines.plugins import register
from noisyexp.cli.engines.report import sweep_report
from noisyexp.cli.engines.storage import check_storage
from noisyexp.cli.engines.sweep import Sweep, begin, complain, say
from noisyexp.cli.help import SEARCHPATH, key_texts, long_text, short_text
from noisyexp.cli.hydra_errors import NOT_COMPOSED
from noisyexp.cli.named_sweeps import expand_sweeps
from noisyexp.cli.overrides import spell_free
from noisyexp.cli.unused import Unused
from noisyexp.cli.workers import announce_sweep, tied_to_sweep
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.fileio import explain, explain_at
from noisyexp.nan_names import as_typed, spell_nan
from noisyexp.places import CONFIG_DIR
from noisyexp.process import only_tells, settle_output
from noisyexp.training.finished import finished_record
from noisyexp.training.processes import torchrun_size
from noisyexp.training.run import RunSpec
from noisyexp.training.signals import Interrupted, hand_on

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

EXPECTED = (NoisyexpError, HydraException, OmegaConfBaseException, ValueError, OSError)
"""Errors of sweepers and launchers of which a line is enough."""

MULTIRUN_FLAGS = ("-m", "--multirun")
PLAN = "plan=true"
"""Makes any command line of runs one of `noisyexp plan`."""


def main(argv: list[str]) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0 all runs finished, 1 a run failed, 2 a mistake in the configuration, 75 a time
        limit came near (SIGUSR1 or 2): put me back into the queue, 128 + n ended by signal n.
    """
    if not argv:
        print(short_text())
        return 0
    try:
        argv = [spell(argument) for argument in expand_sweeps(argv)]
        asked = [word for word in argv if not word.startswith("-")]
        if "--help" in argv or "-h" in argv:
            folders = [word for word in asked if word.startswith(SEARCHPATH)]
            print(long_text(folders) if asked == folders else key_texts(asked))
            return 0
    except NoisyexpError as error:  # a word, or a file that it chooses
        print(spoken(error), file=sys.stderr)
        return error.exit_code
    register()
    if any(argument in HYDRA_FLAGS for argument in argv):
        return _show(argv)
    if PLAN in argv:
        from noisyexp.cli.plan import main as plan_only

        return plan_only([word for word in argv if word != PLAN])
    multirun = any(flag in argv for flag in MULTIRUN_FLAGS)
    overrides = [argument for argument in argv if argument not in MULTIRUN_FLAGS]
    try:
        _check_flags(overrides)
        unused = Unused()
        specs = check(overrides, once=True, unused=unused)
        if multirun and torchrun_size() > 1:
            raise ConfigError(["torchrun does one run with all of its processes: leave out -m"])
        if len(specs) > 1 and not multirun:
            raise ConfigError([f"{len(specs)} runs in one command: add -m to sweep over values"])
        _check_start(overrides)
        if multirun:
            check_storage(specs[0].command[1:])
    except NoisyexpError as error:
        # Of the processes of a torchrun one on each machine says it.
        if torchrun_size() == 1 or os.environ.get("LOCAL_RANK") == "0":
            print(spoken(error), file=sys.stderr)
        return error.exit_code
    only_tells()
    try:
        return _sweep(argv, specs, unused) if multirun else run_one(specs[0])
    except Interrupted as stop:
        name = signal.Signals(stop.signum).name
        complain(f"{name}: checkpoint written; the same command goes on from it")
        return stop.exit_code
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last checkpoint")
        return 128 + signal.SIGINT


def read_words(words: Sequence[str], unused: Unused | None = None) -> list[RunSpec]:
    """The runs of a command line, in the words that a person types.

    Args:
        words: of the command line.
        unused: see `check`.

    Raises:
        ConfigError: with every mistake.
    """
    register()
    overrides = [spell(word) for word in expand_sweeps(words)]
    specs = check(overrides, once=True, unused=unused)
    _check_start(overrides)
    return specs


def _check_flags(words: Sequence[str]) -> None:
    unknown = [word for word in words if word.startswith("-")]
    if unknown:
        raise ConfigError([f"{flag}: no such option; see noisyexp run --help" for flag in unknown])


def _check_start(overrides: Sequence[str]) -> None:
    if not any(word.lstrip("+").startswith(STARTS) for word in overrides):
        raise ConfigError([f"no experiment given; give one: {EXAMPLE_START}"])


def _show(argv: list[str]) -> int:
    """What Hydra's own flags ask for: a configuration, a version; returns the exit code."""
    try:
        if SHOWS_RUN & set(argv):
            check(_overrides_among(argv), once=True)
        _hydra(argv)
    except NoisyexpError as error:
        print(spoken(error), file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:  # Hydra has printed why
        return 2 if stop.code else 0
    except (*NOT_COMPOSED, ValueError) as error:  # flags that exclude each other, a sweep
        print(spoken(error), file=sys.stderr)
        return 2
    return 0


def _overrides_among(argv: list[str]) -> list[str]:
    """The words that are neither flags of Hydra nor values of them."""
    pairs = zip(["", *argv], argv, strict=False)
    return [word for before, word in pairs if word[:1] != "-" and before not in WITH_WORD]


def spoken(error: Exception) -> str:
    """The message in the words that a person types, see `spell`."""
    return re.sub(r"\+\+(hydra|act\.settings)\b", r"\1", as_typed(str(error)))


def spell(argument: str) -> str:
    """An argument as Hydra wants it."""
    return spell_free(spell_home(spell_nan(argument)))


def spell_home(argument: str) -> str:
    """`run_root=~/runs` and `data.root=~/data` with the home folder: no shell does it there."""
    key, _, value = argument.partition("=")
    homes = key.lstrip("+") in ("run_root", "data.root") and value.startswith("~")
    return f"{key}={os.path.expanduser(value)}" if homes else argument


def run_one(spec: RunSpec) -> int:
    """Run one job, print its result or the reason of its failure, and return its exit code."""
    return attempt(spec).code


def run_job(config: DictConfig) -> float:
    """One job of a sweep for a launcher that is not ours, in whatever process it uses.

    Returns:
        What the sweeper is told, see `objective`.

    Raises:
        RunFailedError: the run has no result; the launcher's engine sees a failed job.
    """
    from hydra.core.hydra_config import HydraConfig

    settle_output()  # a worker has a standard output of its own
    hydra_config = HydraConfig.get()
    problems: list[str] = []
    command = ["run.py", *hydra_config.overrides.task]
    spec = spec_from_config(config, hydra_config.runtime.choices, command, problems)
    if spec is None or problems:
        raise ConfigError(problems)
    try:
        with tied_to_sweep():
            reason = attempt(spec).reason
    except Interrupted as stop:
        hand_on(stop)
        sys.exit(stop.exit_code)
    record = finished_record(spec.folder)
    if record is None:
        raise RunFailedError(f"{spec.folder.name}: {reason}")
    return objective(record)


def _sweep(argv: list[str], specs: list[RunSpec], unused: Unused) -> int:
    """All runs by Hydra's launcher; then what became of each, from its record."""
    root = Path(specs[0].config.run_root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"run_root={root}: {explain(error)}", file=sys.stderr)
        return 1
    announce_sweep()
    sweep = Sweep(root, argv, specs, unused)
    for line in unused.lines():
        say(line)
    begin(sweep)
    launched = True
    try:
        _hydra(unused.for_hydra(argv))
    except ConfigError as error:  # refused by its launcher before anything began
        complain(spoken(error))
        return error.exit_code
    except Exception as error:
        launched = False
        sweep.leave_out_unstarted()
        if isinstance(error, OSError):
            complain(explain_at(error))
        elif isinstance(error, EXPECTED):
            # The first line tells enough beside a report; Hydra has the reason in its second.
            whole = isinstance(error, HydraException) or not sweep.list_jobs()
            text = spoken(error).strip()
            complain(" ".join(text.split()) if whole else text.splitlines()[0])
        else:
            traceback.print_exc()
    if not launched and not sweep.list_jobs():  # its sweeper failed before the first run
        return 1
    text, failed = sweep_report(sweep)
    say(text)
    return 1 if failed or not launched else 0


def _hydra(argv: list[str]) -> None:
    before = sys.argv
    # Errors come here; Hydra itself prints a traceback of most and ends the process.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # Flags last: Hydra cannot read one that stands between two overrides.
    sys.argv = ["run.py", *sorted(argv, key=lambda word: "=" not in word and word[:1] != "~")]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=ROOT_FILE)(
            run_job
        )()
    finally:
        sys.argv = before
