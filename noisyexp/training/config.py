"""What a run is configured by: the sections that do not belong to one task."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from noisyexp.activations import SCHEDULES, Activation, ActivationSpec, find_variant
from noisyexp.schema import closest, option, shown
from noisyexp.training.device import DEVICES
from noisyexp.training.optimizer import OPTIMIZERS, with_option


@dataclass(frozen=True)
class LearningRateConfig:
    """How the learning rate changes at the end of an epoch."""

    rule: str = option("rule", choices=("constant", "decay_after", "plateau"))
    after: int = option("decay_after: first epoch with a smaller rate is after + 2", low=0)
    factor: float = option("the rate is divided by this", low=1.0)
    patience: int = option("plateau: validations in a row without a better one", low=0)

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.rule == "plateau" and self.patience < 1:
            yield f"patience={self.patience}: rule=plateau needs at least 1"


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, the same for every arm of a comparison."""

    epochs: int = option("passes over the training data", low=1)
    max_steps: int | None = option("stop after this many updates; null for no limit", low=1)
    optimizer: str = option("optimiser", choices=tuple(OPTIMIZERS))
    lr: float = option("initial learning rate", above=0)
    momentum: float = option(f"{', '.join(with_option('momentum'))}: momentum", low=0, high=1)
    rms_decay: float = option(
        f"{', '.join(with_option('rms_decay'))}: decay of the mean square", low=0, high=1
    )
    rms_eps: float = option(
        "rmsprop: added to the root of the mean square; graves_rmsprop, adadelta: inside the root",
        above=0,
    )
    weight_decay: float = option("L2 penalty; p of the noisy units is left out", low=0)
    max_grad_norm: float | None = option("global L2 norm to clip to; null for none", above=0)
    lr_schedule: LearningRateConfig = option("learning-rate rule")
    patience: int | None = option(
        "validations without a better one until a stop; null: never", low=1
    )
    stopping: str = option("which validations are in vain", choices=("in_a_row", "history"))
    evaluate_every: int = option("epochs between validations", low=1)
    use_weights: str = option("weights of the final evaluation", choices=("last", "best"))
    accumulate: int = option("passes that share a batch, for memory; their gradients add up", low=1)
    cuda_graph: bool = option(
        "replay whole updates as CUDA graphs: the same numbers, without the processor's time"
    )

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.momentum and self.optimizer not in with_option("momentum"):
            yield f"momentum={self.momentum}: {self.optimizer} has none; use momentum=0"


@dataclass(frozen=True)
class AnnealConfig:
    """Noise annealing (Section 6.6 of the paper)."""

    schedule: str = option("reading of the schedule", choices=("none", *SCHEDULES))
    start: float = option("c at update 0", above=0)
    floor: float = option("smallest c", low=0)
    every: int = option("updates between changes of c", low=1)


@dataclass(frozen=True)
class CheckpointConfig:
    """When `last` is written besides the end of every epoch."""

    every_seconds: float | None = option("seconds; null for epochs only", above=0)
    every_steps: int | None = option("updates; null for none", low=1)


@dataclass(frozen=True)
class LoggerConfig:
    """Loggers besides metrics.jsonl and metrics.csv, which are always written."""

    every_steps: int = option("updates between lines of the training loss", low=1)
    tensorboard: bool = option("write TensorBoard event files")
    wandb: str = option(
        "Weights & Biases; auto: online, or offline where that does not work",
        choices=("off", "offline", "online", "auto"),
    )
    wandb_project: str = option("Weights & Biases project", longest=128, without="/\\#?%:")
    wandb_entity: str | None = option("user or team of the project; null: that of the login")
    wandb_tags: list[str] = option("tags of the run", longest=64)
    wandb_group: str | None = option("group; null: the row, or runs that differ in seed alone")


@dataclass(frozen=True)
class DataConfig:
    """Where data comes from."""

    source: str = option(
        "real files or the task's generated stand-in", choices=("real", "generated")
    )
    root: str = option("folder of the data sets; default from NOISYEXP_DATA")


@dataclass(frozen=True)
class UnitConfig:
    """Settings of the units of one kind."""

    alpha: float = option("weight of the hard unit against its linearisation (Eq 11)")
    c: float | None = option("scale of the noise (Eq 9); sigma for NANI and NANIS", low=0)
    clip_output: bool = option("clip to the range of the soft unit")


@dataclass(frozen=True)
class ActConfig:
    """The activation variant of a run."""

    variant: str = option("name of a variant, or the import path of a subclass of Activation")
    label: str = option("name in tables and figures")
    alpha: float = option("alpha of both kinds unless set for one")
    c: float | None = option("c of both kinds unless set for one", low=0)
    p_shape: str = option(
        "one p for each hidden unit, or one for all of them", choices=("unit", "scalar")
    )
    learn_p: bool = option("whether p is trained; if not it stays where it was drawn")
    clip_output: bool = option("clip to the range of the soft unit, both kinds unless set for one")
    code_compat: bool = option("the authors' released formulas where they differ")
    tanh: UnitConfig = option("tanh units")
    sigmoid: UnitConfig = option("sigmoid units")
    settings: dict[str, Any] = option("further arguments of a variant of your own")

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        try:
            find_variant(self.variant)
        except ValueError as error:
            said = str(error).removeprefix(f"variant {self.variant!r} ").removeprefix("is ")
            yield f"variant={self.variant!r}: {said}"
            return
        try:
            for kind in ("tanh", "sigmoid"):
                unit = self.spec()(kind, 1)
                if "." in self.variant:  # a class of somebody's own: does it have an equation?
                    unit.eval()(torch.zeros(1, 1))
        except NotImplementedError:
            yield f"variant={self.variant!r}: lacks an equation; see noisyexp.activations"
        except (TypeError, ValueError) as error:
            yield _wrong_setting(find_variant(self.variant), self.settings, error)

    def spec(self) -> ActivationSpec:
        """The factory of this run's units."""
        shared = {
            "p_shape": self.p_shape,
            "code_compat": self.code_compat,
            **self.settings,
        }
        kinds = {
            name: {"alpha": unit.alpha, "c": unit.c, "clip_output": unit.clip_output}
            for name, unit in (("tanh", self.tanh), ("sigmoid", self.sigmoid))
        }
        return ActivationSpec(self.variant, shared, **kinds)


def arguments_of(unit: type[Activation]) -> list[str]:
    """Names of the settings that a unit is made with, those that it hands on included."""
    names: list[str] = []
    for cls in unit.__mro__:
        if "__init__" not in vars(cls):
            continue
        found = inspect.signature(vars(cls)["__init__"]).parameters.values()
        names += [
            one.name for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        if not any(one.kind is one.VAR_KEYWORD for one in found):
            break
    return [name for name in dict.fromkeys(names) if name not in ("self", "kind", "num_units")]


def _wrong_setting(unit: type[Activation], given: Mapping[str, Any], error: Exception) -> str:
    """What is wrong with `act.settings`, from the error with which the unit could not be made."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None or unknown[1] not in given:
        return f"settings: {error}"
    name, common = unknown[1], arguments_of(Activation)
    own = [argument for argument in arguments_of(unit) if argument not in common]
    takes = (
        f"its own are {', '.join(own)}.{closest(name, own)}" if own else "it has none of its own"
    )
    return f"settings.{name}={shown(given[name])}: no argument of {unit.__name__}; {takes}"


@dataclass(frozen=True)
class RunConfig:
    """One run, apart from its task's own section."""

    seed: int = option("seed of weights, data order and noise", low=0)
    device: str = option("device", choices=DEVICES)
    threads: int | None = option("CPU threads of torch; null for its default", low=1)
    precision: str = option("arithmetic of the forward pass", choices=("fp32", "bf16", "fp16"))
    deterministic: bool = option("refuse operations that are not reproducible")
    progress: str = option("progress display", choices=("auto", "bar", "plain", "off"))
    run_root: str = option("folder of the run folders")
    scale: str = option("budget of the experiment")
    task: dict[str, Any] = option("the task's own section")
    training: TrainingConfig = option("optimisation")
    act: ActConfig = option("activation variant")
    anneal: AnnealConfig = option("noise annealing")
    checkpoint: CheckpointConfig = option("checkpoints")
    logger: LoggerConfig = option("loggers")
    data: DataConfig = option("data")
    debug: str = option(
        "overfit: the first batch in every update; profile: of ten updates; anomaly: where a NaN "
        "comes from",
        choices=("none", "overfit", "profile", "anomaly"),
    )
    init_from: str | None = option(
        "run folder, or name in results/weights, whose weights the run starts from"
    )
    init_weights: str | None = option("digest of these weights; filled in, and part of the hash")
    row: dict[str, Any] | None = option("the table row that this run belongs to")
