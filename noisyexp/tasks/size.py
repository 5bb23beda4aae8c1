"""How large a run is, from its configuration alone: an estimate before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

MOST_EXAMPLES = 10_000_000
"""Points, sequences, episodes or words of a set that is generated, before the first update: a
minute of work, or minutes. The paper's largest set has 50,000."""
MOST_SENTENCES = 1_000_000
"""Generated sentences, images, or different words, which take longer."""
MOST_CHARACTERS = 100_000_000
"""Of a set of generated programs."""
MOST_DECODED = 1000
"""Words of an output sequence, and hypotheses of a beam search: an untrained model uses all."""


@dataclass(frozen=True)
class Size:
    """What a run keeps in memory.

    Attributes:
        parameters: of the model, p of the noisy units left out.
        activations: numbers that one update keeps for its backward pass, about.
        data: bytes of the data in memory, about.
        modules: layers of the model, each of which costs some Python.
    """

    parameters: float = 0.0
    activations: float = 0.0
    data: float = 0.0
    modules: float = 10.0


def linear(inputs: float, outputs: float) -> float:
    """Parameters of a linear layer with a bias."""
    return (inputs + 1) * outputs


def recurrent(gates: int, inputs: float, hidden: float, layers: float = 1) -> float:
    """Parameters of recurrent layers of `gates` gates each, with torch's two biases."""
    first = gates * hidden * (inputs + hidden + 2)
    return first + (layers - 1) * gates * hidden * (2 * hidden + 2)
