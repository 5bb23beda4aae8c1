"""Weights & Biases: one run a job, its id the hash of the run; needs the extra `wandb`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisyexp.errors import NoisyexpError
from noisyexp.fileio import ADVICE
from noisyexp.records.config_hash import config_hash
from noisyexp.training.config import LoggerConfig
from noisyexp.training.folder import RunNames
from noisyexp.training.loggers import StepLogger, missing_extra

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer

PATIENCE = 60
"""Seconds that a server may take to answer."""
LATER = "logger.wandb=offline (`wandb sync` uploads later)"
"""What to use where a run cannot be online."""


class _Contradicted(Exception):
    """The user's W&B says that nothing is to be online.

    Args:
        where: what says so, as a sentence.
        mend: how to end that.
    """

    def __init__(self, where: str, mend: str) -> None:
        super().__init__(where)
        self.mend = mend


class WandbLogger(StepLogger):
    """A run of W&B for this run.

    Args:
        folder: the run folder.
        config: section `logger`; mode "auto" is online, or offline where that does not work.
        run_id: hash of the resolved configuration and seed; a resumed job continues its run.
        names: task, act, seed and experiment of the run.
        plain: resolved configuration.
    """

    def __init__(
        self,
        folder: Path,
        config: LoggerConfig,
        run_id: str,
        names: RunNames,
        plain: Mapping[str, Any],
    ) -> None:
        super().__init__(config.every_steps)
        self.folder, self.config, self.run_id = folder, config, run_id
        self.names, self.plain = names, plain
        self._run: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Start the run, ending one that an earlier job of this process left open."""
        self.start()

    def start(self) -> None:
        """Start the run.

        Raises:
            NoisyexpError: W&B refuses its settings or does not start; or the run cannot be online,
                and mode is "online".
        """
        if self.config.wandb == "offline":
            self._start_offline()
            return
        try:
            self._run = self._init("online")
        except NoisyexpError:
            raise
        except Exception as error:
            import wandb

            wandb.teardown()  # what the try has begun still has the run's id
            if self.config.wandb != "auto":
                raise _not_online(error) from error
            self._start_offline()  # whose reason, if it too is refused, is the one that counts
            reason = _refusal(error) or _first_line(error)
            print(f"Weights & Biases: offline, because {reason}", file=sys.stderr)

    def _start_offline(self) -> None:
        try:
            self._run = self._init("offline")
        except NoisyexpError:
            raise
        except Exception as error:
            import wandb

            wandb.teardown()  # the next job of a sweep starts afresh
            if isinstance(error, OSError) and error.errno in ADVICE:
                raise  # a full disk has a line of its own
            raise NoisyexpError(
                _refused(error) or f"Weights & Biases does not start: {_first_line(error)}"
            ) from error

    def _init(self, mode: str) -> Any:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb") from error
        wandb.setup(settings=wandb.Settings(silent=True))
        if mode == "online":
            _check_mode(wandb.setup().settings.mode)
            # It would ask for a key, and be told much later that one is wrong.
            if not wandb.login(prompt=False):
                raise RuntimeError("there is no key here")
        names = self.names
        # Runs that differ in their seed alone belong together.
        alike = config_hash({**self.plain, "seed": 0})[:6]
        group = names.experiment or f"{names.task}-{names.act}-{alike}"
        return wandb.init(
            project=self.config.wandb_project,
            entity=self.config.wandb_entity,
            tags=self.config.wandb_tags or None,
            # An agent of a W&B sweep has chosen the id of its trial.
            id=None if in_sweep() else self.run_id,
            name=f"{names.act}-s{names.seed}",
            group=self.config.wandb_group or group,
            job_type=names.task,
            config=dict(self.plain),
            dir=str(self.folder),
            mode=mode,  # type: ignore[arg-type]
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, init_timeout=PATIENCE),
        )

    def write(self, row: Mapping[str, Any]) -> None:
        """Every number of the row, at its step."""
        values = {name: value for name, value in row.items() if name != "step"}
        self._run.log(values, step=row["step"])

    def close(self, trainer: Trainer) -> None:
        """End the run: the next job of a sweep must not log into it."""
        if self._run is not None:
            done = trainer.stop or trainer.step == trainer.total_steps
            self._run.finish(exit_code=0 if done else 1)

    def tell(self, record: Mapping[str, Any]) -> None:
        """For the trial of an agent whose run was finished before: log its curve."""
        self.start()
        for row in record["curve"]:
            self.write(row)
        with contextlib.suppress(AttributeError):
            self._run.summary.update(record.get("final") or {})
        self._run.finish(exit_code=0)


def _check_mode(mode: str) -> None:
    """With such a mode of the user's own, a login is not even tried."""
    if mode not in ("offline", "dryrun", "disabled"):
        return
    if "WANDB_MODE" in os.environ:
        raise _Contradicted(f"the environment has WANDB_MODE={mode}", "unset it")
    raise _Contradicted(f"its settings file has mode={mode}", "run `wandb online`")


def _not_online(error: Exception) -> NoisyexpError:
    """For a run that must be online."""
    if isinstance(error, _Contradicted):
        return NoisyexpError(
            f"Weights & Biases: logger.wandb=online, but {error}: {error.mend}, or use {LATER}"
        )
    return NoisyexpError(
        _refused(error)
        or f"Weights & Biases cannot be reached or does not let us in ({_first_line(error)}): run "
        f"`wandb login`, or use {LATER} or logger.wandb=auto (offline where online does not work)"
    )


def _refused(error: Exception) -> str | None:
    said = _refusal(error)
    return None if said is None else f"Weights & Biases refuses its settings: {said}"


def _refusal(error: Exception) -> str | None:
    """Why W&B refuses a value, or None if that is not what happened."""
    import wandb
    from pydantic import ValidationError

    if isinstance(error, ValidationError):  # its last line is an address of pydantic's pages
        last = error.errors()[-1]
        key = ".".join(str(part) for part in last["loc"])
        return f"{key}: {last['msg'].removeprefix('Value error, ')}"
    if isinstance(error, wandb.errors.UsageError):
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_sweep() -> bool:
    """Whether an agent of a W&B sweep started this process."""
    return "WANDB_SWEEP_ID" in os.environ
