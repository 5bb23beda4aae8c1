"""Show what a trained model does: text, and a picture beside it where there is something to draw.

Language models print text and, that of words, how saturated its units are; learning to execute
prints programs with true and predicted outputs, recall draws the read and write weightings over
time, unique_count the confusion matrix.

Examples:
    noisyexp sample run=runs/unique_count/reference-smoke-s0-0123456789ab
    noisyexp sample run=<folder> weights=best
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from noisyexp.cli.arguments import read_pairs
from noisyexp.cli.verb import exit_code_of, writing
from noisyexp.pictures.curves import plot_panels
from noisyexp.schema import option
from noisyexp.training.load import WEIGHTS, load_run


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    run: str = option("folder of a run")
    weights: str = option("of the last update, or of the best validation", choices=WEIGHTS)


def show(arguments: Sequence[str]) -> None:
    """Print the samples of a run, and draw their pictures into its folder."""
    given = read_pairs(Arguments, arguments, {"weights": "last"}, about=__doc__ or "")
    folder = Path(given.run)
    run = load_run(folder, given.weights)
    with torch.no_grad():
        look = run.task.look(run.model, torch.device("cpu"))
    print(f"{folder.name}, {run.step:,} updates")
    print(look.text)
    if look.panels:
        panels = [(p.title, p.values.cpu().numpy(), p.x, p.y) for p in look.panels]
        with writing(f"{folder}/sample.png"):
            _, png = plot_panels(panels, folder / "sample")
        print(f"figure: {png}")


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(lambda: show(arguments))
