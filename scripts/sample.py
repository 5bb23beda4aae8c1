"""Show what a trained model does: text, and a picture beside it where there is something to draw.

Language models print text and, that of words, how saturated its units are; learning to execute
prints programs with true and predicted outputs, recall draws the read and write weightings over
time, unique_count the confusion matrix.

Examples:
    python scripts/sample.py run=runs/unique_count/reference-smoke-s0-0123456789ab
    python scripts/sample.py run=<folder> weights=best
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

import torch  # noqa: E402

from noisyexp.cli.pairs import read_pairs  # noqa: E402
from noisyexp.cli.scripts import exit_code_of, writing  # noqa: E402
from noisyexp.results.figures import plot_panels  # noqa: E402
from noisyexp.schema import option  # noqa: E402
from noisyexp.training.load import WEIGHTS, load_run  # noqa: E402


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    run: str = option("folder of a run")
    weights: str = option("of the last update, or of the best validation", choices=WEIGHTS)


def show(arguments: Sequence[str]) -> None:
    """Print what the task shows of a run, and draw its pictures into the run's folder."""
    given = read_pairs(Arguments, arguments, {"weights": "last"})
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


def main(arguments: list[str]) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(lambda: show(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
