"""Errors whose message is meant for the person who started the run.

The command line prints them without a traceback; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class NoisyexpError(Exception):
    """Base class: a mistake or a state of the machine that the user can mend."""

    exit_code = 1


class ConfigError(NoisyexpError):
    """One or more mistakes in the configuration, all reported together.

    Args:
        problems: one line each, naming the key, the value, what is allowed and the closest match.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        noun = "problem" if len(self.problems) == 1 else "problems"
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} {noun} in the configuration:\n{lines}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Pickle by the list of problems, so that it survives a worker process."""
        return type(self), (self.problems,)


class DataError(NoisyexpError):
    """A data file is missing, truncated, or not the file that was asked for."""


class CheckpointError(NoisyexpError):
    """A checkpoint cannot be written or none that is left can be read."""


class RunLockedError(NoisyexpError):
    """Another process is working in the same run folder.

    Args:
        message: for the person who started the run.
        holder: that process, as in "process 17 on host a".
    """

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder

    def __reduce__(self) -> tuple[type[RunLockedError], tuple[str, str]]:
        """Pickle by both, so that it survives a worker process."""
        return type(self), (str(self), self.holder)


class FolderLostError(NoisyexpError):
    """The run folder was deleted or moved while the run was going on."""


class RecordError(NoisyexpError):
    """A record, a row or a file that was named is not there, or cannot be used as asked."""

    exit_code = 2


class DivergedError(NoisyexpError):
    """Training met a non-finite loss or gradient, or weights with which nothing can be measured.

    Attributes:
        step: the update that failed, counted from 1.
        learning_rate: learning rate of that update.
        loss: value of the loss, or None when it was finite and a metric was not.
        grad_norm: global L2 norm of the gradient, or None when it was not computed.
        metric: name of the validation metric that is not finite, when loss and gradient were.
    """

    def __init__(
        self,
        step: int,
        learning_rate: float,
        loss: float | None,
        grad_norm: float | None,
        metric: str | None = None,
    ) -> None:
        self.step, self.learning_rate, self.loss, self.grad_norm, self.metric = (
            step, learning_rate, loss, grad_norm, metric,
        )  # fmt: skip
        what = metric or ("loss" if grad_norm is None else "gradient")
        norm = "not computed" if grad_norm is None else f"{grad_norm:g}"
        measured = "" if loss is None else f"loss {loss:g}, gradient norm {norm}, "
        super().__init__(
            f"non-finite {what} at step {step}: {measured}learning rate {learning_rate:g}"
        )

    def __reduce__(self) -> tuple[type[DivergedError], tuple[Any, ...]]:
        """Pickle by the attributes, so that it survives a worker process."""
        return type(self), (
            self.step, self.learning_rate, self.loss, self.grad_norm, self.metric,
        )  # fmt: skip
