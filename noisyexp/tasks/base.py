"""What an experiment is to the trainer; it knows nothing of Hydra or of files under results/."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, device, nn

from noisyexp.activations import ActivationSpec
from noisyexp.activations.share import Share
from noisyexp.errors import ConfigError, DataError
from noisyexp.records.metric import Metric
from noisyexp.schema import closest
from noisyexp.tasks.size import Size


@dataclass
class StepOutput:
    """Result of one training step.

    Attributes:
        loss: scalar to differentiate.
        sums: what the task adds up over an epoch for its training metrics.
        items: number of items (tokens, sequences) in the step, for the throughput.
    """

    loss: Tensor
    sums: dict[str, Tensor | float] = field(default_factory=dict)
    items: int = 0


@dataclass(frozen=True)
class Decision:
    """What a curriculum asks of the trainer after an epoch.

    Attributes:
        lr_factor: the learning rate is multiplied by this.
        stop: training ends with this epoch.
    """

    lr_factor: float = 1.0
    stop: bool = False


class Curriculum(ABC):
    """What a task trains on now, decided after each epoch; its state is in the checkpoint."""

    @abstractmethod
    def level(self) -> dict[str, float]:
        """The present level by name, for the curve: {"level": 3}."""

    @abstractmethod
    def decide(self, row: Mapping[str, Any], lr: float) -> Decision:
        """Move on or stay.

        Args:
            row: metrics of the epoch that ends, of training and of validation.
            lr: its learning rate.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts that a resumed run needs."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


@dataclass(frozen=True)
class Panel:
    """A matrix to draw.

    Attributes:
        title: above it.
        values: (rows, columns), drawn as shades, row 0 at the top.
        x: what the columns are.
        y: what the rows are.
    """

    title: str
    values: Tensor
    x: str
    y: str


@dataclass(frozen=True)
class Sample:
    """What a trained model does on examples: text to print, matrices to draw."""

    text: str
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What a language model is asked to write.

    Attributes:
        prompt: read before writing.
        temperature: scores are divided by it before a token is drawn; 0 takes the likeliest.
        samples: number of continuations.
    """

    prompt: str
    temperature: float
    samples: int


class Task(ABC):
    """One experiment: its data, its model, its loss and its metrics.

    Args:
        config: the section `task` of the configuration, an instance of `config_type`, a dataclass
            whose fields are made by `noisyexp.schema.option`, one of them `name`.
        source: "real" or "generated" data.
        seed: seed of the run: weights and, for generated tasks, data.
    """

    config_type: ClassVar[type]
    metrics: ClassVar[Mapping[str, Metric]]
    selection: ClassVar[str]
    """Metric that decides which weights are best; of validation data, never of test data."""
    item: ClassVar[str] = "items"
    """What `StepOutput.items` counts."""
    makes_data: ClassVar[bool] = False
    """Whether the task has no files and always generates its data, which then are the real ones."""
    rows_first: ClassVar[tuple[str, ...]] = ()
    """Units, by module path, whose batch is their first dimension and not the one before the last;
    read where a batch is divided."""
    share: Share | None = None
    """Set while a task that can be divided computes the loss of a share of its batch."""
    curriculum: Curriculum | None = None
    """Set by a task whose training data depends on how well it is doing."""

    def __init__(self, config: Any, source: str, seed: int) -> None:
        self.config, self.source, self.seed = config, source, seed

    def check_programs(self) -> None:  # noqa: B027
        """Whether a run can be measured at its end; asked before its data are read.

        Raises:
            NoisyexpError: a library or a program is missing.
        """

    @abstractmethod
    def prepare(self, root: Path) -> dict[str, str]:
        """Load or generate the data.

        Args:
            root: folder of the data sets.

        Returns:
            SHA-256 by file name.

        Raises:
            DataError: a file is missing or wrong.
        """

    def words(self) -> list[str]:
        """Words of the model's ids, in their order; none where a model does not speak."""
        return []

    def prepare_words(self, words: list[str]) -> None:
        """Prepare for a trained model to speak, without data: `build_model` and what decodes.

        Args:
            words: what `words` gave.

        Raises:
            DataError: the task does nothing without data.
        """
        raise DataError(f"{self.config.name} needs its data")

    @abstractmethod
    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """The model with units made by `spec`, initialised from torch's global generator."""

    @classmethod
    def size(cls, config: Any, source: str) -> Size:
        """How much memory a run takes, about, from its configuration; zeros if nothing is known.

        Args:
            config: the section `task`.
            source: "real" or "generated" data.
        """
        return Size()

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Updates in one epoch."""

    @abstractmethod
    def loss(self, model: nn.Module, step: int, device: device) -> StepOutput:
        """Loss of update `step` (from 0), whose batch depends on (seed, step) alone."""

    @abstractmethod
    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics of an epoch from the `StepOutput.sums` added up over it."""

    @abstractmethod
    def validate(self, model: nn.Module, device: device) -> dict[str, float]:
        """Metrics on validation data; the trainer has put the model into evaluation mode."""

    @abstractmethod
    def test(self, model: nn.Module, device: device) -> dict[str, float]:
        """Metrics on test data, measured once, at the end."""

    def sample(self, model: nn.Module, device: device) -> Sample:
        """A few examples with the model's answers, for people; the model is in evaluation mode."""
        return Sample(f"{self.config.name} has no examples to show")

    def write(self, model: nn.Module, device: device, wanted: Wanted) -> list[str]:
        """Texts of a language model; the model is in evaluation mode.

        Raises:
            ConfigError: the task is none of language.
        """
        raise ConfigError([f"{self.config.name} is no language model: it takes no prompt"])

    def findings(self, model: nn.Module, device: device) -> dict[str, Any]:
        """What figures need of the final model beside metrics: numbers, texts, lists and dicts.

        It becomes part of the run record; the model is in evaluation mode.
        """
        return {}

    @classmethod
    def chance(cls, config: Any) -> dict[str, dict[str, float]]:
        """What predictors that learned nothing of the task reach: value by metric and name.

        Args:
            config: an instance of `config_type`, or the settings of an older run as attributes.
        """
        return {}

    def floor(self) -> dict[str, float]:
        """Best value that any model can reach, by metric, where it is known (generated data)."""
        return {}

    def why_whole(self) -> str | None:
        """Why a batch cannot be divided over processes or passes; None if it can.

        A task that can takes the rows of `share` where it is not None, and divides by the rows of
        the whole batch.
        """
        return "its batch cannot be divided"

    @property
    def full_batch(self) -> int:
        """Rows of a full batch."""
        return int(self.config.batch_size)

    def carried(self) -> list[Tensor]:
        """Tensors that go from step to step, the rows of the batch in dimension 1."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What the next step needs besides its number, such as a carried hidden state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` gave."""


class FixedShapeTask(Task):
    """A task whose batches all have the same shapes, so that an update can be captured once.

    Its loss has three parts: `batch` reads data and what the last step left, `loss_of_batch`
    computes with tensors alone, and `keep` takes what the next step needs.
    """

    @abstractmethod
    def batch(self, model: nn.Module, step: int, device: device) -> tuple[Tensor, ...]:
        """All that the loss of update `step` reads besides weights, on `device`."""

    @abstractmethod
    def loss_of_batch(
        self, model: nn.Module, batch: Sequence[Tensor]
    ) -> tuple[StepOutput, tuple[Tensor, ...]]:
        """The loss, and what `keep` gets, without a graph.

        It runs once for all updates where they are captured: no number may be read from a tensor,
        and what it returns besides tensors is the same at every step.
        """

    @abstractmethod
    def keep(self, state: tuple[Tensor, ...]) -> None:
        """Take what `loss_of_batch` returned; it is overwritten by the next update."""

    def loss(self, model: nn.Module, step: int, device: device) -> StepOutput:
        """See `Task.loss`."""
        output, state = self.loss_of_batch(model, self.batch(model, step, device))
        self.keep(state)
        return output


SHARED = ("classification", "text")
"""Folders beside those of the tasks: what several tasks use."""


def find_task(name: str) -> type[Task]:
    """The task of folder noisyexp/tasks/<name>, or of the import path of another such package.

    The package names its class in `TASK`.

    Raises:
        ValueError: no such task; the message lists those there are.
    """
    known = task_names()
    path = f"noisyexp.tasks.{name}" if name in known else name
    try:
        found = importlib.import_module(path).TASK
        if not (isinstance(found, type) and issubclass(found, Task)):
            raise TypeError(f"TASK of {path} is no subclass of Task")
        return found
    except (Exception, SystemExit) as error:  # a package of somebody's own may raise anything
        if name in known and not isinstance(error, ImportError):
            raise
        raise ValueError(
            f"{name!r}: choose from {', '.join(known)}, or name a package on PYTHONPATH "
            f"({error}).{closest(name, known)}"
        ) from error


def task_names() -> list[str]:
    """Names of the folders under noisyexp/tasks that hold a task."""
    here = Path(__file__).parent
    return sorted(
        name for path in here.glob("*/__init__.py") if (name := path.parent.name) not in SHARED
    )
