"""Learning to execute (Table 1, Fig. 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, derive_seed
from noisyexp.nn.language_model import LanguageModel, detach
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Sample, StepOutput
from noisyexp.tasks.lte.answers import describe
from noisyexp.tasks.lte.curriculum import LevelCurriculum
from noisyexp.tasks.lte.layout import NO_TARGET, Matrix, fill
from noisyexp.tasks.lte.programs import ALPHABET, STRATEGIES, Level, Program, programs
from noisyexp.tasks.lte.scoring import (
    accuracy,
    chance_accuracies,
    column_scores,
    held_out_programs,
    standard_error,
)
from noisyexp.tasks.size import MOST_CHARACTERS, Size, linear, recurrent
from noisyexp.tasks.text.carried import CarriesState


@dataclass(frozen=True)
class LTEConfig:
    """Section `task` of a learning-to-execute run."""

    name: str = option("the task's folder")
    hidden_size: int = option("H, units of a layer and size of the embedding", low=1)
    num_layers: int = option("LSTM layers", low=1)
    init_range: float = option("weights are drawn from U[-r, r]", above=0)
    columns: int = option("B, parallel streams of programs in training", low=1)
    steps: int = option("T, steps of a window and of backpropagation", low=1)
    epoch_steps: int = option("updates between validations, each time from a zero state", low=1)
    data_epochs: int = option("epochs on one set of programs", low=1)
    strategy: str = option("levels of the training programs", choices=STRATEGIES)
    level_draw: str = option("how often a level is drawn", choices=("per_call", "per_program"))
    target_length: int = option("L of the last level: operands up to 10^L", low=1, high=9)
    target_nesting: int = option("N of the last level, chained operations", low=1, high=10)
    threshold: float = option("validation accuracy in percent that ends a level", low=0, high=100)
    patience: int = option("validations until training accuracy must have grown", low=1)
    decay: float = option("factor of the learning rate at the last level", above=0, high=1)
    min_lr: float = option("training ends below this learning rate", above=0)
    eval_windows: int = option("windows of an evaluation set", low=1)
    eval_columns: int = option("columns of an evaluation set", low=1)
    large_columns: int = option("columns of the large test set", low=2)

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        longest = 60 * self.target_nesting + 20
        counts = {"eval_windows": self.eval_windows, "epoch_steps": self.epoch_steps}
        for name, windows in counts.items():
            rows = windows * self.steps
            if rows < longest:
                yield (
                    f"{name}={windows}: {windows} * steps = {rows} rows; programs of "
                    f"target_nesting={self.target_nesting} may have {longest} characters"
                )
        key = max(counts, key=lambda name: counts[name])
        for name in ("columns", "eval_columns", "large_columns"):
            characters = getattr(self, name) * counts[key] * self.steps
            if characters > MOST_CHARACTERS:
                yield (
                    f"{name}={getattr(self, name)}: with {key}={counts[key]} and steps="
                    f"{self.steps} a set may have {characters:,} characters; at most "
                    f"{MOST_CHARACTERS:,}"
                )


class LTE(CarriesState):
    """Reads programs character by character and predicts what they print.

    Loss of a window: negative log-likelihood of the target characters, summed over its T steps and
    divided by its B columns (not by the number of targets).
    """

    config_type = LTEConfig
    config: LTEConfig
    curriculum: LevelCurriculum
    metrics: ClassVar[Mapping[str, Metric]] = {
        "train_acc": Metric("training accuracy", "%", "max"),
        "valid_acc": Metric("validation accuracy at the present level", "%", "max"),
        "target_acc": Metric("validation accuracy at the last level", "%", "max"),
        "test_acc": Metric("test accuracy", "%", "max"),
        "test_acc_large": Metric("test accuracy, large set", "%", "max"),
        "test_acc_large_se": Metric("its standard error", "points", "min"),
    }
    selection = "target_acc"
    item = "characters"
    makes_data = True

    def __init__(self, config: LTEConfig, source: str, seed: int) -> None:
        super().__init__(config, source, seed)
        self.target: Level = (config.target_length, config.target_nesting)
        self.curriculum = LevelCurriculum(
            self.target, config.threshold, config.patience, config.decay, config.min_lr
        )
        self._kept: dict[str, tuple[tuple[Any, ...], Matrix]] = {}

    @classmethod
    def size(cls, config: LTEConfig, source: str) -> Size:
        """The model of Table 2 on characters; matrices of characters for each set."""
        h, letters = config.hidden_size, len(ALPHABET)
        rows = config.steps * max(config.epoch_steps, config.eval_windows)
        columns = config.columns + 4.0 * config.eval_columns + config.large_columns
        return Size(
            letters * h + recurrent(4, h, h, config.num_layers) + linear(h, letters),
            10.0 * config.columns * config.steps * config.num_layers * h,
            16.0 * rows * columns + 11.0 * rows * config.large_columns,
            config.num_layers,
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Nothing: there are no files, and sets are made when they are needed."""
        return {}

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """Embedding, LSTM with `spec` in its five units, linear layer: the model of Table 2."""
        config = self.config
        return LanguageModel(
            len(ALPHABET), config.hidden_size, config.num_layers, 0.0, config.init_range, spec
        )

    @property
    def steps_per_epoch(self) -> int:
        """Updates between two validations: there is no training set to pass over."""
        return self.config.epoch_steps

    def training_set(self, epoch: int, device: torch.device) -> Matrix:
        """Programs of an epoch (from 0), a function of (seed, moves of the curriculum, epoch)."""
        config, curriculum = self.config, self.curriculum
        key = (self.seed, curriculum.moves, epoch // config.data_epochs)

        def make() -> Matrix:
            stream = programs(
                derive_seed("lte", "train", *key),
                "train",
                config.strategy,
                curriculum.current,
                self.target,
                per_program=config.level_draw == "per_program",
            )
            return fill(stream, config.epoch_steps * config.steps + 1, config.columns).to(device)

        return self._keep("train", (*key, device), make)

    def evaluation_set(self, name: str) -> Matrix:
        """One of the sets that no seed and no arm changes.

        Args:
            name: "valid" at the present level, new after each move of the curriculum; at the last
                level "target" of the validation class, "test", and "test_large" with more columns.
        """
        config, curriculum = self.config, self.curriculum
        moves = curriculum.moves if name == "valid" else 0
        columns = config.large_columns if name == "test_large" else config.eval_columns

        def make() -> Matrix:
            level = curriculum.current if name == "valid" else self.target
            split = "test" if name.startswith("test") else "valid"
            stream = programs(derive_seed("lte", name, moves), split, "naive", level, self.target)
            return fill(stream, config.eval_windows * config.steps + 1, columns)

        return self._keep(name, (moves,), make)

    def _keep(self, name: str, key: tuple[Any, ...], make: Callable[[], Matrix]) -> Matrix:
        """Keep one set a name; make it anew when its key has changed."""
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = key, make()
        return self._kept[name][1]

    def loss(self, model: nn.Module, step: int, device: torch.device) -> StepOutput:
        """Negative log-likelihood of one window, summed over T and divided by B."""
        assert isinstance(model, LanguageModel)
        epoch, index = divmod(step, self.config.epoch_steps)
        if index == 0:
            self.begin_text()
        inputs, targets = self.training_set(epoch, device).window(index, self.config.steps)
        columns = inputs.shape[1]
        inputs, targets, state = self.with_state(model, inputs, targets)
        found, state = model.loss(inputs, state, targets, 1.0 / columns, NO_TARGET)
        self.keep(detach(state))
        sums: dict[str, Tensor | float] = {
            "right": found.hits.sum(),
            "scored": (targets != NO_TARGET).sum(),
        }
        return StepOutput(found.total, sums, targets.numel())

    def why_whole(self) -> str | None:
        """Columns of programs are independent."""
        return None

    @property
    def full_batch(self) -> int:
        """Columns."""
        return self.config.columns

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Accuracy on the training programs of the epoch, noise on, while the weights move."""
        return {"train_acc": 100.0 * sums["right"] / max(sums["scored"], 1.0)}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Accuracy on validation programs of the present level and of the last one."""
        return {
            "valid_acc": accuracy(*self._score("valid", model, device)),
            "target_acc": accuracy(*self._score("target", model, device)),
        }

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Accuracy on a test set of the original size, and on a larger one with its error."""
        large = self._score("test_large", model, device)
        return {
            "test_acc": accuracy(*self._score("test", model, device)),
            "test_acc_large": accuracy(*large),
            "test_acc_large_se": standard_error(*large),
        }

    def _score(self, name: str, model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
        assert isinstance(model, LanguageModel)
        return column_scores(model, self.evaluation_set(name), self.config.steps, device)

    def test_programs(self, count: int) -> list[Program]:
        """Test programs of the last level, the same for every seed and arm."""
        return held_out_programs(self.target, count)

    @classmethod
    def chance(cls, config: Any) -> dict[str, dict[str, float]]:
        """The most frequent character at each place of the output, given the one before it."""
        found = chance_accuracies((config.target_length, config.target_nesting))
        return {"target_acc": {"place and last character": found["previous"]}}

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """Ten test programs of the last level with the model's answers, and chance."""
        assert isinstance(model, LanguageModel)
        return Sample(
            describe(model, self.test_programs(10), chance_accuracies(self.target), device)
        )
