"""Which of three Gaussians a point comes from (Figures 6 and 7, Section 6.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec
from noisyexp.nn.saturation import Saturation
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Panel, Sample
from noisyexp.tasks.classification.examples import Examples
from noisyexp.tasks.classification.mlp import MLP, confusion, score
from noisyexp.tasks.classification.task import Classification
from noisyexp.tasks.mixture import data
from noisyexp.tasks.size import MOST_EXAMPLES, Size, linear

SHOWN = 200
"""Test points whose pre-activations are kept for the figures."""


@dataclass(frozen=True)
class MixtureConfig:
    """Section `task` of a mixture run."""

    name: str = option("the task's folder")
    hidden_size: int = option("units of a hidden layer", low=1)
    num_layers: int = option("hidden layers", low=1)
    batch_size: int = option("B, points of an update", low=1)
    train_size: int = option("training points", low=1, high=MOST_EXAMPLES)
    valid_size: int = option("validation points", low=1, high=MOST_EXAMPLES)
    test_size: int = option("test points", low=1, high=MOST_EXAMPLES)

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.batch_size > self.train_size:
            yield f"batch_size={self.batch_size}: at most train_size={self.train_size}"


class Mixture(Classification):
    """A small MLP on points in the plane; the loss is the mean of -log P(component | point)."""

    config_type = MixtureConfig
    config: MixtureConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "train_nll": Metric("training NLL, noise on", "nats", "min"),
        "train_accuracy": Metric("training accuracy, noise on", "%", "max"),
        "valid_nll": Metric("validation NLL", "nats", "min"),
        "valid_accuracy": Metric("validation accuracy", "%", "max"),
        "test_nll": Metric("test NLL", "nats", "min"),
        "test_accuracy": Metric("test accuracy", "%", "max"),
        "saturated": Metric("hidden units with |x| > 1, validation", "%", "min"),
    }
    selection = "valid_nll"
    item = "points"
    makes_data = True

    @classmethod
    def size(cls, config: MixtureConfig, source: str) -> Size:
        """A few numbers a unit; the points, two orders of them, and what drawing them takes."""
        h, layers = config.hidden_size, config.num_layers
        sizes = config.train_size, config.valid_size, config.test_size
        return Size(
            linear(data.DIMENSIONS, h) + (layers - 1) * linear(h, h) + linear(h, data.CLASSES),
            4.0 * config.batch_size * layers * h,
            16.0 * sum(sizes) + 16.0 * config.train_size + 40.0 * max(sizes),
            layers,
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Draw the three sets; there are no files."""
        config = self.config
        self._sets: dict[str, Examples] = {
            split: data.points(split, size)
            for split, size in (
                ("train", config.train_size),
                ("valid", config.valid_size),
                ("test", config.test_size),
            )
        }
        self.train = self._sets["train"]
        return {}

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """Hidden layers of equal size with `spec`."""
        config = self.config
        hidden = [config.hidden_size] * config.num_layers
        return MLP((data.DIMENSIONS, *hidden, data.CLASSES), spec)

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Over the epoch, with noise on and while the weights move."""
        return {
            "train_nll": sums["nll"] / sums["examples"],
            "train_accuracy": 100.0 * (1.0 - sums["wrong"] / sums["examples"]),
        }

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Validation set; saturation over all hidden layers."""
        saturation = Saturation()
        with saturation.watch(model):
            found = self._measure(model, device, "valid")
        return {**found, "saturated": saturation.percent}

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Test set."""
        return self._measure(model, device, "test")

    def _measure(self, model: nn.Module, device: torch.device, split: str) -> dict[str, float]:
        found = score(model, self._sets[split], device)
        return {f"{split}_nll": found.nll, f"{split}_accuracy": 100.0 - found.error}

    def floor(self) -> dict[str, float]:
        """What the classifier that knows the law reaches, expected over test points."""
        nll, accuracy = data.best_possible()
        return {"test_nll": nll, "test_accuracy": accuracy}

    @torch.no_grad()
    def findings(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """What Figures 6 and 7 show, of a model in evaluation mode; nothing for units without p.

        Returns:
            `p_before` and `p_after`: (layers, units); `pre_activations`: (layers, units, points)
            of the first `SHOWN` test points, rounded to four digits.
        """
        assert isinstance(model, MLP)
        before, after = model.p_before_and_after()
        if not after:
            return {}
        inputs, _ = self._sets["test"].first(SHOWN).take(slice(None))
        pre_activations: list[Tensor] = []
        model(inputs.to(device), pre_activations)
        return {
            "p_before": [_rounded(p) for p in before],
            "p_after": [_rounded(p) for p in after],
            "pre_activations": [
                [_rounded(unit) for unit in layer.float().T.tolist()] for layer in pre_activations
            ],
        }

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """Right answers by component, and the answer everywhere in the plane."""
        table = confusion(model, self._sets["test"], data.CLASSES, device)
        lines = ["component: mean, deviation, points, share of right answers"]
        for k, row in enumerate(table.tolist()):
            lines.append(
                f"{k:9d}: {data.MEANS[k]}, {data.DEVIATIONS[k]}, {sum(row)}, "
                f"{100 * row[k] / max(sum(row), 1):.1f} %"
            )
        across, down = torch.linspace(-6, 6, 121), torch.linspace(6, -6, 121)
        plane = torch.stack([across.expand(121, 121), down.unsqueeze(1).expand(121, 121)], -1)
        with torch.no_grad():
            answers = model(plane.view(-1, 2).to(device)).argmax(-1).cpu().view(121, 121)
        panel = Panel("component answered", answers.double(), "from -6 to 6", "from 6 to -6")
        return Sample("\n".join(lines), (panel,))


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]
