"""Show what a trained model does: text, and a picture beside it where there is something to draw.

Learning to execute prints programs with true and predicted outputs, recall draws the read and write
weightings over time, unique_count the confusion matrix.

Examples:
    python scripts/sample.py run=runs/unique_count/reference-smoke-s0-0123456789ab
    python scripts/sample.py run=<folder> weights=best
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

import torch  # noqa: E402

from noisyexp.errors import NoisyexpError, RecordError  # noqa: E402
from noisyexp.results.figures import plot_panels  # noqa: E402
from noisyexp.schema import closest  # noqa: E402
from noisyexp.training.load import load_run  # noqa: E402

ARGUMENTS = ("run", "weights")


def parse(arguments: list[str]) -> dict[str, str]:
    """The key=value arguments.

    Raises:
        RecordError: an unknown one, a wrong value, or no run.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    problems = [
        f"{key}: no such argument.{closest(key, ARGUMENTS)} Known: {', '.join(ARGUMENTS)}"
        for key in given
        if key not in ARGUMENTS
    ]
    if not given.get("run"):
        problems.append("run=<folder> is missing")
    if given.get("weights", "last") not in ("last", "best"):
        problems.append(f"weights={given['weights']}: choose from last, best")
    if problems:
        raise RecordError("; ".join(problems))
    return given


def main(arguments: list[str]) -> int:
    """Command line; returns the exit code."""
    try:
        given = parse(arguments)
        folder = Path(given["run"])
        run = load_run(folder, given.get("weights", "last"))
        with torch.no_grad():
            look = run.task.look(run.model, torch.device("cpu"))
        print(f"{folder.name}, {run.step:,} updates")
        print(look.text)
        if look.panels:
            panels = [(p.title, p.values.cpu().numpy(), p.x, p.y) for p in look.panels]
            _, png = plot_panels(panels, folder / "sample")
            print(f"figure: {png}")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
