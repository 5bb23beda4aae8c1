"""Put noisy units into a model that was written for torch, and train it beside the original.

The model reads 20 numbers and says in which quarter the largest of them was.

Examples:
    python scripts/example_replace.py
    python scripts/example_replace.py nan
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor, nn

from noisyexp import replace_activations

LENGTH, CLASSES, HIDDEN = 20, 4, 32
BATCH, TEST, STEPS, LEARNING_RATE = 64, 1000, 300, 0.01


class Finder(nn.Module):
    """An LSTM and a layer of tanh units on its last state; nothing of noisyexp in it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, HIDDEN, batch_first=True)
        self.head = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 4) for x (batch, 20, 1)."""
        scores: Tensor = self.head(self.lstm(x)[0][:, -1])
        return scores


def examples(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers (size, 20, 1), uniform in [0, 1), and the quarter (size,) of their largest."""
    x = torch.rand(size, LENGTH, 1, generator=generator)
    return x, x[..., 0].argmax(1) // (LENGTH // CLASSES)


def train(model: nn.Module, steps: int) -> float:
    """Train on fresh examples, the same for every model; returns the accuracy on new ones."""
    generator = torch.Generator().manual_seed(1)
    # After the replacement: the noisy units have a parameter p that has to be learned, too.
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    model.train()  # fresh noise at every call
    for _ in range(steps):
        x, target = examples(BATCH, generator)
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()  # the noise's expectation
    with torch.no_grad():
        x, target = examples(TEST, generator)
        return float((model(x).argmax(1) == target).double().mean())


def main(arguments: list[str], steps: int = STEPS) -> int:
    """Command line: the name of a unit, nah by default; returns the exit code."""
    if len(arguments) > 1:
        print(f"one unit at a time, not {' '.join(arguments)}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    model = Finder()
    noisy = copy.deepcopy(model)  # the same first weights
    try:
        variant = arguments[0] if arguments else "nah"
        replaced = replace_activations(noisy, variant, alpha=1.0, c=0.5)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("replaced:", *replaced, sep="\n  ")
    for name, one in (("original", model), ("noisy", noisy)):
        print(f"{name}: test accuracy {train(one, steps):.3f} after {steps} updates (chance 0.25)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
