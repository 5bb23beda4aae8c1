"""Show what a trained model does: text, and a picture beside it where there is something to draw.

Language models print text, and models of words how saturated their units are; with prompt= they go
on from your own words. Learning to execute prints programs with true and predicted outputs, recall
draws the read and write weightings over time, unique_count the confusion matrix.

Examples:
    noisyexp sample run=runs/unique_count/reference-smoke-s0-0123456789ab
    noisyexp sample run=<folder> weights=best
    noisyexp sample weights=unique_count/curriculum_nan     # published in results/weights
    noisyexp sample weights=ptb/nah_released prompt="the company said"     # needs no text
    noisyexp sample run=<folder> prompt="the company said" temperature=0.7 samples=3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import exit_code_of, place_of, writing
from noisyexp.pictures.curves import plot_panels
from noisyexp.schema import option
from noisyexp.tasks.base import Wanted
from noisyexp.training.load import load_run

DEFAULTS: Mapping[str, object] = {
    "run": None, "weights": None, "prompt": None, "temperature": 0.8, "samples": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    run: str | None = option("folder of a run; or give weights= alone")
    weights: str | None = option(
        "last or best of the run (default last), or without run= a name in results/weights"
    )
    prompt: str | None = option("words to go on from, of a language model")
    temperature: float = option("of the draw of each word; 0 takes the likeliest", low=0)
    samples: int = option("number of continuations of the prompt", low=1)


def show(arguments: Sequence[str]) -> None:
    """Print the samples of a run, and draw their pictures into its folder."""
    given = read_arguments(Arguments, arguments, DEFAULTS, about=__doc__ or "")
    place = place_of(given.run, given.weights)
    run = load_run(place, given.weights or "last", only_words=given.prompt is not None)
    device = torch.device("cpu")
    with torch.no_grad():
        if given.prompt is not None:
            wanted = Wanted(given.prompt, given.temperature, given.samples)
            print("\n\n".join(run.task.write(run.model, device, wanted)))
            return
        shown = run.task.sample(run.model, device)
    print(f"{Path(place).name}, {run.step:,} updates")
    print(shown.text)
    if shown.panels:
        panels = [(p.title, p.values.cpu().numpy(), p.x, p.y) for p in shown.panels]
        # Published weights lie in a folder of the repository: the picture goes where we are.
        target = Path(place) / "sample" if given.run else Path("sample")
        with writing(f"{target}.png"):
            _, png = plot_panels(panels, target)
        print(f"figure: {png}")


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(lambda: show(arguments))
