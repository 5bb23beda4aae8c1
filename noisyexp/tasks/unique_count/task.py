"""Counting the distinct values of a sequence (Table 5, Section 6.6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from noisyexp.activations import ActivationSpec, derive_seed
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Panel, Sample, StepOutput, Task
from noisyexp.tasks.size import MOST_EXAMPLES, Size, linear, recurrent
from noisyexp.tasks.unique_count import data
from noisyexp.tasks.unique_count.model import Counter

CHUNK = 2000
"""Sequences that are scored at once; it changes memory, not the result."""


@dataclass(frozen=True)
class UniqueCountConfig:
    """Section `task` of a unique_count run."""

    name: str = option("the task's folder")
    num_values: int = option("V, values are drawn from 0 ... V - 1", low=2)
    length: int = option("L, length of the sequences that count", low=1)
    encoding: str = option("how a value is fed", choices=("scalar", "embedding"))
    embedding_size: int = option("size of the embedding", low=1)
    hidden_size: int = option("H, units of the LSTM", low=1)
    mlp_size: int = option("units of the ReLU layer", low=1)
    target: str = option("what is predicted", choices=("classification", "regression"))
    batch_size: int = option("B, sequences of an update", low=1)
    epoch_steps: int = option("updates between validations", low=1)
    curriculum: bool = option("short sequences first")
    curriculum_steps: int = option("updates until the full length, with a curriculum", low=1)
    curriculum_start: int = option("longest sequence at the start of the curriculum", low=1)
    valid_size: int = option("sequences of the validation set", low=1, high=MOST_EXAMPLES)
    test_size: int = option("sequences of the test set", low=1, high=MOST_EXAMPLES)

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.curriculum_start > self.length:
            yield (
                f"curriculum_start={self.curriculum_start}: at most length={self.length}, to "
                f"which the curriculum grows"
            )


class UniqueCount(Task):
    """Fresh sequences at every update; validation and test sets that no seed changes."""

    config_type = UniqueCountConfig
    config: UniqueCountConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "train_error": Metric("training error", "%", "min"),
        "train_length": Metric("mean length in training", "values", "max"),
        "train_cell": Metric("largest |cell| of a batch at the last value, mean", "1", "min"),
        "valid_error": Metric("validation error", "%", "min"),
        "valid_loss": Metric("validation loss", "nats or squared error", "min"),
        "test_error": Metric("test error", "%", "min"),
        "test_loss": Metric("test loss", "nats or squared error", "min"),
    }
    selection = "valid_error"
    item = "sequences"
    makes_data = True

    def __init__(self, config: UniqueCountConfig, source: str, seed: int) -> None:
        super().__init__(config, source, seed)
        self._sets: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def size(cls, config: UniqueCountConfig, source: str) -> Size:
        """Embedding, LSTM, ReLU layer; sequences of validation and test, drawn and scored."""
        h, mlp, values = config.hidden_size, config.mlp_size, config.num_values
        scalar = config.encoding == "scalar"
        inputs = 1 if scalar else config.embedding_size
        outputs = values + 1 if config.target == "classification" else 1
        largest = max(config.valid_size, config.test_size)
        return Size(
            (0 if scalar else values * inputs)
            + recurrent(4, inputs, h)
            + linear(h, mlp)
            + linear(mlp, outputs),
            config.batch_size * (config.length * (10.0 * h + 2 * inputs) + 3 * mlp + 3 * outputs),
            8.0 * config.length * (config.valid_size + config.test_size)
            + (values + 4.0 * config.length) * largest
            + 8.0 * min(CHUNK, largest) * (outputs + mlp + config.length * (h + inputs)),
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Draw the validation and the test set; there are no files."""
        config = self.config
        for split, count in (("valid", config.valid_size), ("test", config.test_size)):
            self._sets[split] = data.fixed_set(split, config.length, count, config.num_values)
        return {}

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """LSTM with `spec` in its five units, mean pooling, ReLU layer."""
        config = self.config
        outputs = config.num_values + 1 if config.target == "classification" else 1
        return Counter(
            config.num_values,
            config.encoding,
            config.embedding_size,
            config.hidden_size,
            config.mlp_size,
            outputs,
            spec,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Updates between two validations: there is no training set to pass over."""
        return self.config.epoch_steps

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Values (length, B) and counts (B,) of update `step`; one length a batch."""
        config = self.config
        steps = config.curriculum_steps if config.curriculum else 0
        top = data.longest(step, config.length, config.curriculum_start, steps)
        length = data.length_of(derive_seed(self.seed, "length", step), top, config.length)
        key = derive_seed(self.seed, "unique_count", step)
        return data.sequences(key, length, config.batch_size, config.num_values)

    def loss(self, model: nn.Module, step: int, device: torch.device) -> StepOutput:
        """Mean cross-entropy, or mean squared error, of the sequences of update `step`."""
        assert isinstance(model, Counter)
        values, counts = self.batch(step)
        scores, targets = model(values.to(device)), counts.to(device)
        wrong = (self.predict(scores) != targets).sum()
        size = len(counts)
        sums: dict[str, Tensor | float] = {
            "wrong": wrong,
            "sequences": size,
            "values": size * len(values),
            "cell": model.largest_cell * size,
        }
        return StepOutput(self._losses(scores, targets) / size, sums, size)

    def _losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Sum over sequences."""
        if self.config.target == "classification":
            return cross_entropy(scores, targets, reduction="sum")
        return mse_loss(scores.squeeze(-1), targets.to(scores.dtype), reduction="sum")

    def predict(self, scores: Tensor) -> Tensor:
        """Predicted counts (B,): the class with the highest score, or the nearest integer."""
        if self.config.target == "classification":
            return scores.argmax(-1)
        return scores.detach().squeeze(-1).round().long()

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Error with noise on, at the lengths of the curriculum; |cell| is a mean over batches."""
        return {
            "train_error": 100.0 * sums["wrong"] / sums["sequences"],
            "train_length": sums["values"] / sums["sequences"],
            "train_cell": sums["cell"] / sums["sequences"],
        }

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Error and loss on the validation set, always at the full length."""
        return self._measure(model, device, "valid")

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Error and loss on the test set."""
        return self._measure(model, device, "test")

    def _measure(self, model: nn.Module, device: torch.device, split: str) -> dict[str, float]:
        values, counts = self._sets[split]
        wrong, total = 0, torch.zeros((), dtype=torch.float64)
        for start in range(0, len(counts), CHUNK):
            scores = model(values[:, start : start + CHUNK].to(device)).float().cpu()
            targets = counts[start : start + CHUNK]
            wrong += int((self.predict(scores) != targets).sum())
            total += self._losses(scores, targets).double()
        error, loss = 100.0 * wrong / len(counts), float(total) / len(counts)
        return {f"{split}_error": error, f"{split}_loss": loss}

    @classmethod
    def chance(cls, config: Any) -> dict[str, dict[str, float]]:
        """The majority error, and smooth counting at the lengths and values of Table 5."""
        found = {"majority": data.majority_error(config.length, config.num_values)}
        if (config.length, config.num_values) == (26, 11):
            # Best thresholds on sums of 1 - exp(-a n); tests/tasks/test_unique_count.py.
            found |= {"smooth counting, a = 0.25": 34.1, "smooth counting, a = 1": 10.3}
        return {"valid_error": found}

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """The confusion matrix of the test set, in percent of each true count."""
        table = self.confusion(model, device).double()
        seen = [u for u, row in enumerate(table.tolist()) if sum(row)]
        share = 100 * table / table.sum(1, keepdim=True).clamp(min=1)
        lines = ["true count: sequences, share of right answers, most frequent answer"]
        for u in seen:
            lines.append(
                f"{u:10d}: {int(table[u].sum()):9d}, {float(share[u, u]):6.1f} %, "
                f"{int(table[u].argmax())}"
            )
        panel = Panel("percent of each true count", share, "predicted count", "true count")
        return Sample("\n".join(lines), (panel,))

    @torch.no_grad()
    def confusion(self, model: nn.Module, device: torch.device) -> Tensor:
        """Counts of (true, predicted) on the test set: (V + 1, V + 1) int64, model in eval mode."""
        values, counts = self._sets["test"]
        size = self.config.num_values + 1
        table = torch.zeros(size * size, dtype=torch.int64)
        for start in range(0, len(counts), CHUNK):
            found = self.predict(model(values[:, start : start + CHUNK].to(device)).cpu())
            pairs = counts[start : start + CHUNK] * size + found.clamp(0, size - 1)
            table += torch.bincount(pairs, minlength=size * size)
        return table.view(size, size)
