"""Measure where the inputs of the units lie over training, and which gradient passes through them.

A row of Table 2 is trained as by run.py, with the same numbers and record. Before the first update
and after some epochs the model reads validation text, with noise replaced by its expectation. For
every unit (three gates, candidate, cell output of each layer) that gives: a histogram of its
inputs, the share beyond the hard unit's thresholds, the share of the gradient that passes there and
with which slope; and for the model: the gradient of the weights without what passes through
saturated units.

Examples:
    python scripts/mechanism.py table2/tanh_fold          # writes results/mechanism/tanh_fold.json
    python scripts/mechanism.py table2/hard scale=smoke epochs=0,1
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisyexp.activations import Activation
from noisyexp.cli.compose import check
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import ConfigError
from noisyexp.fileio import write_json
from noisyexp.nn.language_model import LanguageModel
from noisyexp.nn.noisy import NoisyModule
from noisyexp.places import CHECKOUT
from noisyexp.records.publish import FOLDERS
from noisyexp.training.callbacks import Callback
from noisyexp.training.run import execute
from noisyexp.training.trainer import Trainer

EPOCHS = (0, 1, 2, 4, 8, 13)
"""Epochs after which is measured; the learning rate falls from the fifth on."""
WINDOWS = 10
"""Windows of 20 words in each of 20 streams: 4,000 words."""
KEPT = ("experiment", "seed", "config_hash", "status", "code", "versions", "machine", "final")
"""What of the run's record goes into the file."""
EDGE, BINS = 12.0, 240
"""Histograms reach from -EDGE to EDGE; what lies beyond is in the outer bins."""


@dataclass
class Reading:
    """Inputs and outputs of a model's units at every call, by the unit's name ("l0.i")."""

    units: dict[str, Activation] = field(default_factory=dict)
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


@contextmanager
def read_units(model: nn.Module, pass_saturated: bool) -> Iterator[Reading]:
    """Keep inputs and outputs of all units while the context lasts, layers running as written.

    Args:
        model: in evaluation mode.
        pass_saturated: False stops the gradient at inputs beyond the thresholds.
    """
    reading, hooks = Reading(), []

    def keep(name: str) -> Any:
        def before(unit: Activation, given: tuple[Any, ...]) -> tuple[Any, ...]:
            x = given[0].view_as(given[0])  # a cell's state is also read by the next step
            if not pass_saturated:
                x = torch.where(x.abs() > unit.kind.threshold, x.detach(), x)
            reading.inputs.setdefault(name, []).append(x)
            return (x, *given[1:])

        return before

    def after(name: str) -> Any:
        return lambda unit, given, out: reading.outputs.setdefault(name, []).append(out)

    for path, unit in model.named_modules():
        if isinstance(unit, Activation):
            name = ".".join(path.split(".")[-2:])
            reading.units[name] = unit
            hooks += [
                unit.register_forward_pre_hook(keep(name)),
                unit.register_forward_hook(after(name)),
            ]
    loops = [module for module in model.modules() if isinstance(module, NoisyModule)]
    backends = [loop.backend for loop in loops]
    try:
        for loop in loops:
            loop.backend = "eager"
        yield reading
    finally:
        for hook in hooks:
            hook.remove()
        for loop, backend in zip(loops, backends, strict=True):
            loop.backend = backend


def describe_unit(x: Tensor, grad_x: Tensor, grad_y: Tensor, threshold: float) -> dict[str, Any]:
    """What one unit's inputs and gradients say.

    Args:
        x: inputs, any shape.
        grad_x: gradient of the loss in them.
        grad_y: gradient of the loss in the outputs.
        threshold: of the hard unit.
    """
    x, grad_x, grad_y = (part.double().flatten() for part in (x, grad_x, grad_y))
    beyond = x.abs() > threshold
    total, reached = grad_x.abs().sum(), (grad_y != 0) & beyond
    # The slope is one number wherever the unit is piecewise linear; for others a mean over inputs.
    ratio = grad_x[reached] / grad_y[reached]
    # On the CPU: torch has no deterministic histogram for a GPU.
    counts = torch.histc(x.cpu().clamp(-EDGE, EDGE).float(), BINS, -EDGE, EDGE)
    return {
        "histogram": [int(count) for count in counts.tolist()],
        "beyond_percent": 100.0 * float(beyond.double().mean()),
        "gradient_beyond_percent": 100.0 * float(grad_x[beyond].abs().sum() / total.clamp(1e-300)),
        "slope_beyond": float(ratio.mean()) if len(ratio) else 0.0,
        "largest": float(x.abs().max()),
        "mean_absolute": float(x.abs().mean()),
    }


def gradients(
    model: LanguageModel, streams: Tensor, steps: int, pass_saturated: bool
) -> tuple[dict[str, Any], Tensor, float]:
    """Units' numbers, gradient of all weights, and mean negative log-likelihood in nats.

    Args:
        model: in evaluation mode.
        streams: (rows, B) int64, read window by window with the state carried.
        steps: T, rows of a window and of backpropagation.
        pass_saturated: as in `read_units`.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    whole = [torch.zeros_like(p, dtype=torch.float64) for p in weights]
    state, nll, count = model.zero_state(streams.shape[1]), 0.0, 0
    kept: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    units: dict[str, Activation] = {}
    for start in range(0, len(streams) - 1 - steps, steps):
        targets = streams[start + 1 : start + steps + 1]
        with torch.enable_grad(), read_units(model, pass_saturated) as reading:
            found, state = model.loss(streams[start : start + steps], state, targets)
            wanted = [
                part
                for name in reading.inputs
                for part in (*reading.inputs[name], *reading.outputs[name])
            ]
            grads = torch.autograd.grad(
                found.total, [*weights, *wanted], allow_unused=True, materialize_grads=True
            )
        units = reading.units
        for sum_, grad in zip(whole, grads, strict=False):
            sum_ += grad.double()
        rest = list(grads[len(weights) :])
        for name, xs in reading.inputs.items():
            size = len(xs)
            mine, rest = rest[: 2 * size], rest[2 * size :]
            triple = (torch.stack(part).detach() for part in (xs, mine[:size], mine[size:]))
            kept.setdefault(name, []).append(tuple(triple))  # type: ignore[arg-type]
        state = tuple(part.detach() for part in state)
        nll += float(found.total.detach())
        count += targets.numel()
    described = {}
    for name, parts in kept.items():
        x, grad_x, grad_y = (torch.cat(part) for part in zip(*parts, strict=True))
        described[name] = describe_unit(x, grad_x, grad_y, units[name].kind.threshold)
    return described, torch.cat([part.flatten() for part in whole]) / count, nll / count


def snapshot(model: LanguageModel, streams: Tensor, steps: int) -> dict[str, Any]:
    """All numbers of one moment of training; the model's mode and gradients stay as they are."""
    training = model.training
    model.eval()
    try:
        units, whole, nats = gradients(model, streams, steps, pass_saturated=True)
        _, inside, _ = gradients(model, streams, steps, pass_saturated=False)
    finally:
        model.train(training)
    cosine = torch.nn.functional.cosine_similarity(whole, inside, dim=0)
    return {
        "nats": nats,
        "gradient_norm": float(whole.norm()),
        "gradient_norm_without_saturated": float(inside.norm()),
        "cosine_without_saturated": float(cosine),
        "units": units,
    }


class Measure(Callback):
    """Takes a snapshot before the first update and after some epochs."""

    def __init__(self, epochs: Sequence[int]) -> None:
        self.epochs = set(epochs)
        self.taken: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The snapshots so far: a resumed run keeps them."""
        return {"taken": list(self.taken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the snapshots."""
        self.taken = list(state["taken"])

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first update."""
        self._take(trainer)

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """After an epoch."""
        self._take(trainer)

    def _take(self, trainer: Trainer) -> None:
        done = {one["epoch"] for one in self.taken}
        if trainer.epoch not in self.epochs - done:
            return
        steps: int = trainer.task.config.steps
        streams: Tensor = trainer.task.valid_streams  # type: ignore[attr-defined]
        rows = streams[: WINDOWS * steps + 1].to(trainer.device)
        with torch.random.fork_rng():
            found = snapshot(trainer.model, rows, steps)  # type: ignore[arg-type]
        valid = trainer.curve[-1]["valid_ppl"] if trainer.curve else None
        self.taken.append({"epoch": trainer.epoch, "valid_ppl": valid, **found})
        print(f"epoch {trainer.epoch}: {found['nats']:.3f} nats", flush=True)


def command_of(words: Sequence[str]) -> str:
    """The command line that repeats a measurement, without folders of this machine."""
    kept = [word for word in words if not word.startswith(FOLDERS)]
    return " ".join(["python scripts/mechanism.py", *kept]).replace(" experiment=", " ", 1)


def measure(words: Sequence[str], epochs: Sequence[int], path: Path) -> None:
    """Train the run of `words` with snapshots and write them to `path`."""
    specs = check([*words, "progress=off"])
    if len(specs) != 1:
        raise ConfigError([f"{len(specs)} runs: give one seed"])
    watcher = Measure(epochs)
    outcome = execute(specs[0], [watcher])
    if outcome.skipped:
        raise ConfigError([f"{outcome.folder} is finished already: choose another run_root"])
    write_json(
        path,
        {
            "command": command_of(words),
            **{key: outcome.record[key] for key in KEPT},
            "bins": {"edge": EDGE, "count": BINS},
            "windows": WINDOWS,
            "snapshots": watcher.taken,
        },
    )
    print(f"wrote {path}")


def main(arguments: list[str]) -> int:
    """Command line: a row, then key=value as in run.py; `epochs=` chooses the snapshots."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    row, *rest = arguments
    chosen = [word for word in rest if word.startswith("epochs=")]
    epochs = [int(e) for e in chosen[0][7:].split(",")] if chosen else list(EPOCHS)
    words = [f"experiment={row}", *(word for word in rest if word not in chosen)]
    if not any(word.startswith("seed=") for word in words):
        words.append("seed=0")
    path = CHECKOUT / "results" / "mechanism" / f"{row.split('/')[-1]}.json"

    def run() -> int:
        measure(words, epochs, path)
        return 0

    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
