"""Measure Figure 2: where gradient descent with and without noise ends; writes results/escape.json.

Examples:
    python scripts/escape.py
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyexp.activations import SCHEDULES
from noisyexp.fileio import write_json
from noisyexp.pictures.escape import (
    ARMS,
    CENTRES,
    GLOBAL,
    POOR,
    TARGET,
    WEIGHTS,
    Arm,
    make_unit,
    objective,
)
from noisyexp.places import CHECKOUT
from noisyexp.training.record import code_version, describe_machine

SHOWN = (-7.0, -3.5, 0.5, 6.5)
"""Starts whose way is recorded, two on a plateau; they do not count in the rates."""


@dataclass(frozen=True)
class Settings:
    """Settings of all arms.

    Attributes:
        starts: number of starts for each arm and learning rate, uniform in [-width, width].
        updates: length of each run; 3,600 bring c from 30 to 0.5 when t rises at every update.
        learning_rates: all of them are run, so that no arm is tuned more than another.
        clip: bound on |dL/dw|, as the paper's tasks clip their gradients.
        width: half the range of the starts.
        p: scale inside sigma, fixed.
        seed: of starts and noise, which are the same in all arms.
        keep: every how many updates the recorded ways are kept.
    """

    starts: int = 500
    updates: int = 4000
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    clip: float = 1.0
    width: float = 8.0
    p: float = 1.0
    seed: int = 0
    keep: int = 40


def draw_starts(settings: Settings, generator: torch.Generator) -> Tensor:
    """The first w, (starts,), uniform in [-width, width]."""
    return settings.width * (2 * torch.rand(settings.starts, generator=generator) - 1)


def descend(arm: Arm, settings: Settings) -> tuple[Tensor, Tensor]:
    """Gradient descent from all starts at all learning rates at once.

    Returns:
        Last w, (learning rates, starts), and the recorded ways of `SHOWN`, (learning rates,
        1 + updates // keep, len(SHOWN)).
    """
    generator = torch.Generator().manual_seed(settings.seed)
    first = torch.cat([draw_starts(settings, generator), torch.tensor(SHOWN)])
    rates = len(settings.learning_rates)
    step = torch.tensor(settings.learning_rates).repeat_interleave(len(first))
    w = first.repeat(rates)
    unit = make_unit(arm, settings.p)
    schedule = SCHEDULES["interval"](arm.start, arm.floor, 1)  # the literal one, t at every update
    ways = [w]
    for update in range(settings.updates):
        unit.c = schedule(update) if arm.annealed else arm.start
        xi = None
        if unit.has_noise:
            xi = torch.randn(len(first), len(CENTRES), generator=generator).repeat(rates, 1)
        w.requires_grad_(True)
        (slope,) = torch.autograd.grad(objective(w, unit, xi).sum(), w)
        w = (w - step * slope.clamp(-settings.clip, settings.clip)).detach()
        if (update + 1) % settings.keep == 0:
            ways.append(w)
    shown = torch.stack(ways).view(len(ways), rates, -1)[..., settings.starts :].transpose(0, 1)
    return w.view(rates, -1)[:, : settings.starts], shown


def shares(first: Tensor, last: Tensor) -> dict[str, Any]:
    """Where runs from `first` (n,) to `last` (n,) end, with binomial standard errors.

    A run ends in a minimum when it is in the inner half of its well, and it began in a well when
    the hard unit has a gradient towards its minimum there.

    Returns:
        "all" and "from_poor" (those that began in the poor well), each with the number of starts
        and the share that ends in the global minimum; "poor", the share of all in the poor one.
    """
    found = (last - GLOBAL).abs() < 1
    groups = {"all": torch.ones_like(found), "from_poor": (first - POOR).abs() < 2}
    result: dict[str, Any] = {}
    for name, members in groups.items():
        n = int(members.sum())
        share = float(found[members].double().mean())
        result[name] = {
            "starts": n,
            "global": round(share, 4),
            "standard_error": round(math.sqrt(share * (1 - share) / n), 4),
        }
    return {**result, "poor": round(float(((last - POOR).abs() < 1).double().mean()), 4)}


def measure(settings: Settings | None = None) -> dict[str, Any]:
    """Run every arm.

    Returns:
        "settings", "rates" (one entry for each arm and learning rate: its settings and `shares`)
        and "ways" of the arms that the figure shows, at the largest learning rate.
    """
    settings = settings or Settings()
    first = draw_starts(settings, torch.Generator().manual_seed(settings.seed))
    rates, ways = [], {}
    for arm in ARMS:
        last, shown = descend(arm, settings)
        for rate, ends in zip(settings.learning_rates, last, strict=True):
            rates.append({**asdict(arm), "learning_rate": rate, **shares(first, ends)})
        if arm.variant == "hard" or (arm.variant == "nan" and arm.start == 30.0):
            ways[arm.label] = [[round(w, 3) for w in way] for way in shown[-1].T.tolist()]
    network = {"centres": CENTRES, "weights": WEIGHTS, "target": TARGET}
    return {"settings": {**asdict(settings), **network}, "rates": rates, "ways": ways}


def main(path: Path | None = None, settings: Settings | None = None) -> int:
    """Measure, print the shares and write them.

    Args:
        path: of the JSON; results/escape.json by default.
        settings: of the experiment; those of the figure by default.
    """
    path = path or CHECKOUT / "results" / "escape.json"
    torch.set_num_threads(1)  # the tensors are small
    began = time.perf_counter()
    result = measure(settings)
    for entry in result["rates"]:
        every, poor = entry["all"], entry["from_poor"]
        print(
            f"{entry['label']:20s} learning rate {entry['learning_rate']:<5g} global minimum: of "
            f"all {every['global']:.3f} ± {every['standard_error']:.3f}, of starts in the poor "
            f"well {poor['global']:.3f} ± {poor['standard_error']:.3f}"
        )
    record = {
        "command": "python scripts/escape.py",
        "code": code_version(),
        "machine": describe_machine(torch.device("cpu")),
        "torch": str(torch.__version__),
        "seconds": round(time.perf_counter() - began, 1),
        **result,
    }
    write_json(path, record)
    print(f"wrote {path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path}")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    sys.exit(main())
