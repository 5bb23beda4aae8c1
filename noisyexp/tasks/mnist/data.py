"""The splits of MNIST, and a stand-in for it without files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from noisyexp.activations import derive_seed
from noisyexp.data.mnist import CLASSES, PIXELS, SIDE, TRAIN_SIZE, load_mnist
from noisyexp.tasks.classification.examples import Examples

CELLS = 7
"""Cells of a generated image along one side."""
FLIP = 0.25
"""Probability that a cell of a generated image is not that of its class's pattern."""


class Splits(NamedTuple):
    """Three sets and the SHA-256 of the files that they come from, by name."""

    train: Examples
    valid: Examples
    test: Examples
    files: dict[str, str]


def real_splits(root: Path, train: int, valid: int, test: int) -> Splits:
    """The first `train` and the last `valid` of MNIST's 60,000, the first `test` of its 10,000.

    With 50,000 and 10,000 this is the split of the Theano tutorials.

    Raises:
        DataError: a file is missing or not the right one.
    """
    mnist = load_mnist(root)
    whole = Examples(mnist.images, mnist.labels)
    held = slice(TRAIN_SIZE - valid, TRAIN_SIZE)
    return Splits(
        whole.first(train),
        Examples(whole.inputs[held], whole.labels[held]),
        Examples(mnist.test_images, mnist.test_labels).first(test),
        mnist.files,
    )


def generated_splits(train: int, valid: int, test: int) -> Splits:
    """A stand-in of the same shape; the same for every seed, as real data is."""
    return Splits(generate("train", train), generate("valid", valid), generate("test", test), {})


def generate(split: str, size: int) -> Examples:
    """`size` noisy patterns: each class has 7 x 7 cells, dark or light, blown up to 28 x 28.

    A cell is flipped with probability `FLIP`, every pixel gets noise of deviation 0.2.
    """
    generator = torch.Generator().manual_seed(derive_seed("mnist patterns"))
    patterns = torch.rand(CLASSES, CELLS, CELLS, generator=generator) < 0.3
    generator.manual_seed(derive_seed("mnist", split))
    labels = torch.randint(CLASSES, (size,), generator=generator)
    flips = torch.rand(size, CELLS, CELLS, generator=generator) < FLIP
    width = SIDE // CELLS
    cells = (patterns[labels] ^ flips).float()
    pixels = cells.repeat_interleave(width, 1).repeat_interleave(width, 2).view(size, PIXELS)
    pixels += 0.2 * torch.randn(size, PIXELS, generator=generator)
    return Examples((255 * pixels.clamp_(0, 1)).round_().to(torch.uint8), labels)
