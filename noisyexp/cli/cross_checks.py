"""Rules of a configuration that need more than one of its sections, or the machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

from noisyexp.activations import find_variant
from noisyexp.tasks import Task
from noisyexp.training import graphs
from noisyexp.training.config import RunConfig
from noisyexp.training.device import KINDS, chosen_device


def cross_checks(run: RunConfig, local: bool) -> Iterator[str]:
    """Problems that need more than one section, or the machine."""
    kind = KINDS[chosen_device(run.device)]
    if local and not kind.available():
        missing = f"torch sees no {run.device.upper()} device here"
        yield f"device={run.device}: {missing}; use device=cpu or device=auto"
    cores = os.cpu_count() or 1
    if run.threads is not None and run.threads > cores and local:
        yield f"threads={run.threads}: this machine has {cores}"
    if run.precision == "fp16" and local and not kind.has_fp16:
        yield "precision=fp16: needs a CUDA device; use bf16 or fp32"
    for extra, wanted in (
        ("wandb", run.logger.wandb != "off"),
        ("tensorboard", run.logger.tensorboard),
    ):
        if wanted and importlib.util.find_spec(extra) is None:
            yield f"logger: {extra} is not installed; run pip install -e '.[{extra}]'"
    unit = find_variant(run.act.variant)
    if run.anneal.schedule != "none" and not (unit.has_noise or unit.has_p):
        yield (
            f"anneal.schedule={run.anneal.schedule}: {run.act.variant} units have no noise to "
            "anneal; use anneal.schedule=none"
        )
    if run.anneal.schedule != "none" and run.anneal.floor > run.anneal.start:
        yield f"anneal.floor={run.anneal.floor}: must not be above anneal.start={run.anneal.start}"


def graph_checks(run: RunConfig, task: type[Task], local: bool) -> Iterator[str]:
    """Why the updates of a run cannot be captured."""
    # What "auto" is elsewhere is not known here.
    if (local or run.device != "auto") and not KINDS[chosen_device(run.device)].captures:
        yield f"{graphs.KEY}: {graphs.NEEDS_GPU}"
    reason = graphs.why_not(task, run.precision)
    if reason is not None:
        yield f"{graphs.KEY}: {reason}"
    if run.anneal.schedule != "none":
        yield f"{graphs.KEY}: c is part of what is captured; use anneal.schedule=none"
