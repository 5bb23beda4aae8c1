"""Associative recall by a Neural Turing Machine (Figure 11, Section 6.6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from noisyexp.activations import ActivationSpec, derive_seed
from noisyexp.nn.memory import MEMORY_INITS
from noisyexp.nn.saturation import Saturation
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Panel, Sample, StepOutput, Task
from noisyexp.tasks.ntm_recall import data
from noisyexp.tasks.ntm_recall.model import CONTROLLERS, NTM
from noisyexp.tasks.size import MOST_EXAMPLES, Size, linear, recurrent

CHUNK = 320
"""Episodes that are scored at once; it changes memory, not the result."""

ROLES = ("min", "max", "mix")


@dataclass(frozen=True)
class NTMRecallConfig:
    """Section `task` of an ntm_recall run."""

    name: str = option("the task's folder")
    problem: str = option("what is asked of the machine", choices=tuple(data.PROBLEMS))
    min_items: int = option("fewest items of an episode (copy: vectors)", low=1)
    max_items: int = option("most items of an episode", low=1)
    counts: str = option("one item count for a batch or each episode", choices=("batch", "episode"))
    growing_bound: bool = option("raise the most items with the episodes seen")
    batch_size: int = option("B, episodes of an update", low=1)
    epoch_steps: int = option("updates between validations", low=1)
    controller: str = option("kind of controller", choices=tuple(CONTROLLERS))
    controller_size: int = option("C, units of the controller", low=1)
    read_heads: int = option("R", low=1)
    write_heads: int = option("W", low=1)
    memory_rows: int = option("N, locations of the memory", low=3)
    memory_width: int = option("M, size of a location", low=1)
    memory_init: str = option("first memory", choices=MEMORY_INITS)
    valid_size: int = option("episodes of each validation set", low=1, high=MOST_EXAMPLES)
    test_size: int = option("episodes of each test set", low=1, high=MOST_EXAMPLES)

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.problem == "recall" and self.min_items < 2:
            yield f"min_items={self.min_items}: recall needs an item to ask and one to answer, 2"
        if self.min_items > self.max_items:
            yield f"min_items={self.min_items}: at most max_items={self.max_items}"


def _metrics() -> dict[str, Metric]:
    found = {
        "train_nats": Metric("training cost", "nats a sequence", "min"),
        "train_wrong": Metric("wrong bits in training", "bits a sequence", "min"),
        "saturated": Metric("saturated controller units", "%", "min"),
    }
    items = {"min": "fewest items", "max": "most items", "mix": "all item counts"}
    for split, title in (("valid", "validation"), ("test", "test")):
        for role, which in items.items():
            found[f"{split}_nats_{role}"] = Metric(
                f"{title} cost, {which}", "nats a sequence", "min"
            )
            found[f"{split}_wrong_{role}"] = Metric(
                f"{title} wrong bits, {which}", "bits a sequence", "min"
            )
    return found


class NTMRecall(Task):
    """Fresh episodes at every update; validation and test sets that no seed changes.

    The loss is the cost in nats a sequence: binary cross-entropy summed over the bits that are
    asked and averaged over the episodes. Sets are named by their item counts: `min` and `max` hold
    episodes of the fewest and the most items, `mix` every count equally often.
    """

    config_type = NTMRecallConfig
    config: NTMRecallConfig
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()
    selection = "valid_nats_mix"
    item = "sequences"
    makes_data = True

    def __init__(self, config: NTMRecallConfig, source: str, seed: int) -> None:
        super().__init__(config, source, seed)
        self._sets: dict[str, data.Episodes] = {}

    @classmethod
    def size(cls, config: NTMRecallConfig, source: str) -> Size:
        """Controller, heads and output; the memory of every step is kept."""
        c, n, m = config.controller_size, config.memory_rows, config.memory_width
        reads, inputs = config.read_heads * m, data.CHANNELS
        heads = config.read_heads + config.write_heads
        own = linear(inputs + reads, c)
        if config.controller == "lstm":
            own = recurrent(4, inputs + reads, c) + 2 * c
        steps = (config.max_items + 1.0) * (data.VECTORS + 1) + data.VECTORS
        kept = n * m * (1 + config.write_heads) + n * heads * 6 + 10 * c
        return Size(
            own
            + linear(c, heads * (m + 6) + config.write_heads * 2 * m)
            + heads * n
            + reads
            + linear(c + reads, data.BITS),
            config.batch_size * steps * kept,
            60.0 * steps * 3 * (config.valid_size + config.test_size),
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Draw the validation and test sets; there are no files."""
        config = self.config
        low, high = config.min_items, config.max_items
        for split, size in (("valid", config.valid_size), ("test", config.test_size)):
            for role, counts in (
                ("min", data.balanced(low, low, size)),
                ("max", data.balanced(high, high, size)),
                ("mix", data.balanced(low, high, size)),
            ):
                generator = torch.Generator()
                generator.manual_seed(derive_seed("ntm_recall", config.problem, split, role))
                self._sets[f"{split}_{role}"] = data.PROBLEMS[config.problem](counts, generator)
        return {}

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """The machine; `spec` makes the units of its controller."""
        config = self.config
        return NTM(
            inputs=data.CHANNELS,
            outputs=data.BITS,
            controller=config.controller,
            controller_size=config.controller_size,
            rows=config.memory_rows,
            width=config.memory_width,
            read_heads=config.read_heads,
            write_heads=config.write_heads,
            memory_init=config.memory_init,
            spec=spec,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Updates between two validations: there is no training set to pass over."""
        return self.config.epoch_steps

    def batch(self, step: int) -> data.Episodes:
        """Episodes of update `step`."""
        config = self.config
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "ntm_recall", step))
        low, size = config.min_items, config.batch_size
        high = data.bound(step, size, low, config.max_items, config.growing_bound)
        counts = data.counts(low, high, size, config.counts == "batch", generator)
        return data.PROBLEMS[config.problem](counts, generator)

    def loss(self, model: nn.Module, step: int, device: torch.device) -> StepOutput:
        """Nats a sequence of the episodes of update `step`."""
        episodes = self.batch(step)
        size = total = episodes.x.shape[1]
        if self.share is not None:
            rows = self.share.take(total)
            episodes, size = episodes.part(rows.start, rows.stop), rows.stop - rows.start
        nats, wrong = score(model, episodes.to(device))
        sums: dict[str, Tensor | float] = {
            "nats": nats.detach(),
            "wrong": wrong,
            "sequences": size,
        }
        return StepOutput(nats / total, sums, size)

    def why_whole(self) -> str | None:
        """Episodes are independent."""
        return None

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Cost and wrong bits with noise on."""
        return {
            "train_nats": sums["nats"] / sums["sequences"],
            "train_wrong": sums["wrong"] / sums["sequences"],
        }

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Cost and wrong bits on the three validation sets, saturation on the mixed one."""
        found = {}
        saturation = Saturation()
        for role in ROLES[:-1]:
            found.update(self._measure(model, device, "valid", role))
        with saturation.watch(model):
            found.update(self._measure(model, device, "valid", ROLES[-1]))
        return {**found, "saturated": saturation.percent}

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Cost and wrong bits on the three test sets."""
        found: dict[str, float] = {}
        for role in ROLES:
            found.update(self._measure(model, device, "test", role))
        return found

    def _measure(
        self, model: nn.Module, device: torch.device, split: str, role: str
    ) -> dict[str, float]:
        episodes = self._sets[f"{split}_{role}"]
        size = episodes.x.shape[1]
        nats = wrong = 0.0
        for start in range(0, size, CHUNK):
            one, other = score(model, episodes.part(start, start + CHUNK).to(device))
            nats, wrong = nats + float(one), wrong + float(other)
        return {f"{split}_nats_{role}": nats / size, f"{split}_wrong_{role}": wrong / size}

    @classmethod
    def chance(cls, config: Any) -> dict[str, dict[str, float]]:
        """Chance, and the best of a machine that knows the list and ignores the query."""
        low, high = config.min_items, config.max_items
        blind = {
            "max": data.query_blind_nats(high), "mix": data.query_blind_mean(low, high),
            "min": data.query_blind_nats(low),
        }  # fmt: skip
        return {
            f"valid_nats_{role}": {"chance": data.chance_nats(), "query ignored": value}
            for role, value in blind.items()
        }

    @torch.no_grad()
    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """One validation episode of the most items: answer, and where the heads were."""
        episode = self._sets["valid_max"].part(0, 1)
        asked = episode.mask[:, 0].bool()
        weights: list[Tensor] = []
        scores = model(episode.x.to(device), weights=weights).float().cpu()
        answer = torch.sigmoid(scores[asked, 0]).T
        target = episode.target[asked, 0].T
        # The most that any head gives to a location, (locations, time).
        places = torch.stack(weights, -1)[0].float().cpu()
        writing, reading = places[: self.config.write_heads], places[self.config.write_heads :]
        text = "\n".join(
            f"{name} {' '.join(_bits(column) for column in bits.T)}"
            for name, bits in (("target", target), ("output", answer))
        )
        wrong = int(((answer > 0.5) != (target > 0.5)).sum())
        return Sample(
            f"{text}\n{wrong} of {target.numel()} bits wrong",
            (
                Panel("input", episode.x[:, 0].T, "step", "channel"),
                Panel("target", target, "step of the answer", "bit"),
                Panel("output", answer, "step of the answer", "bit"),
                Panel("written to", writing.amax(0), "step", "location"),
                Panel("read from", reading.amax(0), "step", "location"),
            ),
        )


def _bits(values: Tensor) -> str:
    return "".join(str(int(value > 0.5)) for value in values)


def score(model: nn.Module, episodes: data.Episodes) -> tuple[Tensor, Tensor]:
    """Cost in nats and wrong bits, both summed over episodes and the bits that are asked."""
    first = int(episodes.mask.any(1).int().argmax())
    scores = model(episodes.x, first)
    target, mask = episodes.target[first:], episodes.mask[first:].unsqueeze(-1)
    each = binary_cross_entropy_with_logits(scores.float(), target, reduction="none")
    wrong = ((scores > 0) != (target > 0.5)) * mask
    return (each * mask).sum(), wrong.sum()
