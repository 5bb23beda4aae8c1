"""Measure the weights of a run again, on validation and test data, beside what its record says.

Examples:
    noisyexp evaluate run=runs/unique_count/nan_normal-cpu-s0-0123456789ab
    noisyexp evaluate run=<folder> weights=best device=cuda
    noisyexp evaluate weights=unique_count/curriculum_nan
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.outcome import show
from noisyexp.cli.verb import exit_code_of, place_of
from noisyexp.experiments import evaluate, load
from noisyexp.schema import option
from noisyexp.training.device import DEVICES

DEFAULTS: Mapping[str, object] = {"run": None, "weights": None, "device": "auto"}


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    run: str | None = option("folder of a run")
    weights: str | None = option(
        "last or best of the run, or a name in results/weights; default: those of its result"
    )
    device: str = option("where to measure", choices=DEVICES)


def measure(given: Arguments) -> None:
    """Print every metric as it is now and as it was recorded."""
    place = place_of(given.run, given.weights)
    loaded = load(place, given.weights if given.run else None)
    found = evaluate(loaded, given.device)
    print(f"{Path(place).name}, {loaded.step:,} updates")
    for name, value in found.items():
        recorded = loaded.recorded.get(name)
        beside = "" if recorded is None else f"  (recorded: {show(recorded)})"
        print(f"  {name} {show(value)}{beside}")


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(
        lambda: measure(read_arguments(Arguments, arguments, DEFAULTS, about=__doc__ or ""))
    )
