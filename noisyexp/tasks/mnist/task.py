"""Handwritten digits and one hidden layer (Figure 5, Section 6.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from noisyexp.activations import ActivationSpec
from noisyexp.data.mnist import CLASSES, PIXELS, TEST_SIZE, TRAIN_SIZE
from noisyexp.nn.saturation import Saturation
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Panel, Sample
from noisyexp.tasks.classification.mlp import MLP, confusion, score
from noisyexp.tasks.classification.task import Classification
from noisyexp.tasks.mnist import data
from noisyexp.tasks.size import Size, linear


@dataclass(frozen=True)
class MNISTConfig:
    """Section `task` of a mnist run."""

    name: str = option("the task's folder")
    hidden_size: int = option("H, units of the hidden layer", low=1)
    batch_size: int = option("B, images of an update", low=1)
    train_size: int = option("training images", low=1, high=TRAIN_SIZE)
    valid_size: int = option("validation images, the last of the 60,000", low=1, high=TRAIN_SIZE)
    test_size: int = option("test images", low=1, high=TEST_SIZE)
    clean_size: int = option("training images that are scored without noise", low=1)

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.train_size + self.valid_size > TRAIN_SIZE:
            yield (
                f"train_size={self.train_size} and valid_size={self.valid_size}: together at most "
                f"{TRAIN_SIZE:,}"
            )
        if self.clean_size > self.train_size:
            yield f"clean_size={self.clean_size}: at most train_size={self.train_size}"


class MNISTTask(Classification):
    """An MLP on pixels in [0, 1]; the loss is the mean of -log P(digit | image)."""

    config_type = MNISTConfig
    config: MNISTConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "train_nll": Metric("training NLL, noise on", "nats", "min"),
        "train_nll_clean": Metric("training NLL, test mode", "nats", "min"),
        "train_error": Metric("training error, noise on", "%", "min"),
        "valid_nll": Metric("validation NLL", "nats", "min"),
        "valid_error": Metric("validation error", "%", "min"),
        "test_nll": Metric("test NLL", "nats", "min"),
        "test_error": Metric("test error", "%", "min"),
        "saturated": Metric("hidden units with |x| > 1, validation", "%", "min"),
    }
    selection = "valid_nll"
    item = "images"

    @classmethod
    def size(cls, config: MNISTConfig, source: str) -> Size:
        """The 70,000 images as bytes, those that are used as numbers."""
        h = config.hidden_size
        used = config.train_size + config.valid_size + config.test_size
        return Size(
            linear(PIXELS, h) + linear(h, CLASSES),
            config.batch_size * (PIXELS + 4.0 * h),
            PIXELS * (70_000.0 + 4 * used),
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Read MNIST, or draw the stand-in."""
        config = self.config
        sizes = config.train_size, config.valid_size, config.test_size
        self.splits = (
            data.real_splits(root, *sizes)
            if self.source == "real"
            else data.generated_splits(*sizes)
        )
        self.train = self.splits.train
        return self.splits.files

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """One hidden layer with `spec`."""
        return MLP((PIXELS, self.config.hidden_size, CLASSES), spec)

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Over the epoch, with noise on and while the weights move."""
        return {
            "train_nll": sums["nll"] / sums["examples"],
            "train_error": 100.0 * sums["wrong"] / sums["examples"],
        }

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Validation set, saturation, and the first `clean_size` training images."""
        saturation = Saturation()
        with saturation.watch(model):
            found = score(model, self.splits.valid, device)
        clean = score(model, self.splits.train.first(self.config.clean_size), device)
        return {
            "train_nll_clean": clean.nll,
            "valid_nll": found.nll,
            "valid_error": found.error,
            "saturated": saturation.percent,
        }

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Test set."""
        found = score(model, self.splits.test, device)
        return {"test_nll": found.nll, "test_error": found.error}

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """Which digits are taken for which in the test set."""
        table = confusion(model, self.splits.test, CLASSES, device)
        share = 100 * table.double() / table.sum(1, keepdim=True).clamp(min=1)
        lines = ["digit: images, share of right answers"]
        for digit, row in enumerate(table.tolist()):
            lines.append(f"{digit:5d}: {sum(row):6d}, {float(share[digit, digit]):6.2f} %")
        panel = Panel("percent of each digit", share, "answer", "digit")
        return Sample("\n".join(lines), (panel,))
