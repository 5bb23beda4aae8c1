"""What a run will cost, before it starts: time from records or ten updates here, memory, disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noisyexp.activations import find_variant
from noisyexp.places import project_root
from noisyexp.records.record_files import load_records
from noisyexp.records.run_record import RunRecord
from noisyexp.tasks import find_task
from noisyexp.training.device import chosen_device, setup_torch
from noisyexp.training.estimate import estimate
from noisyexp.training.record import describe_machine
from noisyexp.training.run import RunSpec, build_trainer

UPDATES = 10
"""Updates of a calibration, behind `WARM` that compile and fill caches."""
WARM = 2


@dataclass(frozen=True)
class Pace:
    """How fast a run goes.

    Attributes:
        per_update: seconds.
        updates: of the whole run, unless something stops it early.
        whole: seconds of a run with its evaluations, as a factor of its updates' seconds.
        source: where the numbers are from, for people.
        here: whether they are of this machine's kind.
    """

    per_update: float
    updates: int
    whole: float
    source: str
    here: bool

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.per_update * self.updates * self.whole


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        pace: None where nothing is known.
        memory: bytes, about, torch itself left out; 0 where the task does not say its size.
        disk: bytes of its checkpoints while it runs, about.
        compiled: whether its units have compiled kernels, of which `memory` is made.
    """

    pace: Pace | None
    memory: float
    disk: float
    compiled: bool = True


def published(root: Path | None = None) -> list[RunRecord]:
    """The committed records of complete runs."""
    records = load_records((root or project_root()) / "results" / "records")
    return [record for record in records if record.complete and record.curve]


def cost_of(spec: RunSpec, records: Sequence[RunRecord], calibrate: bool) -> Cost:
    """Time, memory and disk of a run.

    Args:
        spec: the run.
        records: of complete runs, to learn the time from.
        calibrate: whether ten updates are made here if no record is of this kind of machine.

    Raises:
        NoisyexpError: the calibration needs data that are not there.
    """
    pace = pace_of_records(spec, records)
    if calibrate and (pace is None or not pace.here):
        pace = measure(spec)
    needed = estimate(spec.task_config, spec.config.training, spec.config.data.source)
    act = spec.config.act
    return Cost(pace, needed.total, needed.checkpoints, has_kernels(act.variant))


def has_kernels(variant: str) -> bool:
    """Whether the compiled kernels know a unit; one that is not there has none."""
    try:
        return "kernel_forms" in vars(find_variant(variant))
    except ValueError:
        return False


def pace_of_records(spec: RunSpec, records: Sequence[RunRecord]) -> Pace | None:
    """The pace of the records that are most like `spec`.

    They are of its task and batch and of its kind of device, and their units are compiled if its
    own are: a GPU says nothing of a processor, nor kernels of a unit that has none. This machine's
    kind counts most, then the unit, precision and threads; of the records that are equally near it
    is the median.
    """
    machine = describe_machine(torch.device(chosen_device(spec.config.device)))
    alike = [record for record in records if _comparable(spec, machine["device"], record)]
    if not alike:
        return None
    threads = spec.config.threads or machine["threads"]

    def nearness(record: RunRecord) -> tuple[bool, ...]:
        return (
            (record.machine["device"], record.machine["name"])
            == (machine["device"], machine["name"]),
            record.config["act"]["variant"] == spec.config.act.variant,
            record.config.get("precision", "fp32") == spec.config.precision,
            record.machine.get("threads") == threads,
        )

    best = max(map(nearness, alike))
    nearest = [record for record in alike if nearness(record) == best]
    one = nearest[-1]
    return Pace(
        per_update=statistics.median(r.cost["s_per_step"] for r in nearest),
        updates=_updates(spec, nearest),
        whole=statistics.median(_whole(r) for r in nearest),
        source=_source(one, len(nearest), best),
        here=best[0],
    )


def _comparable(spec: RunSpec, device: str, record: RunRecord) -> bool:
    return (
        record.machine["device"] == device
        and record.data == spec.config.data.source
        and _paced(record)
        and _agree(_sized(spec.plain["task"]), _sized(record.config["task"]))
        and has_kernels(record.config["act"]["variant"]) == has_kernels(spec.config.act.variant)
    )


def _sized(task: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in task.items() if key != "workers"}


def _agree(task: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sections are equal in the keys of both: records of older versions have fewer."""
    return all(task[key] == other[key] for key in task.keys() & other.keys())


def _paced(record: RunRecord) -> bool:
    return bool(record.cost.get("s_per_step")) and bool(record.curve[-1].get("epoch"))


def _whole(record: RunRecord) -> float:
    train, wall = record.cost.get("train_s"), record.cost.get("wall_s")
    return max(wall / train, 1.0) if train and wall else 1.0


def _updates(spec: RunSpec, records: Sequence[RunRecord]) -> int:
    """Updates of a run from those of records of its task, of as many epochs where there is one."""
    wanted = spec.config.training
    same = [
        int(r.curve[-1]["step"])
        for r in records
        if (r.config["training"]["epochs"], r.config["training"]["max_steps"])
        == (wanted.epochs, wanted.max_steps)
    ]
    if same:
        return round(statistics.median(same))
    an_epoch: float = max(row["step"] / row["epoch"] for r in records for row in r.curve)
    return round(min(wanted.epochs * an_epoch, wanted.max_steps or float("inf")))


def _source(record: RunRecord, count: int, near: Sequence[bool]) -> str:
    here, unit, precision, threads = near
    machine = record.machine
    text = f"{count} record{'s' if count > 1 else ''}, {machine['name']}"
    notes = [] if here else ["another machine than this one"]
    notes += [] if unit else [f"of {record.config['act']['variant']} units"]
    notes += [] if precision else [f"in {record.config.get('precision', 'fp32')}"]
    notes += [] if threads else [f"{machine.get('threads')} threads"]
    return text + (f" ({', '.join(notes)})" if notes else "")


def measure(spec: RunSpec) -> Pace:
    """Ten updates of a run on this machine; nothing is written.

    Raises:
        NoisyexpError: data are missing, or the run diverges at once.
    """
    device = setup_torch(spec.config)
    task = find_task(spec.task_config.name)(spec.task_config, spec.config.data.source,
                                            spec.config.seed)  # fmt: skip
    task.prepare(Path(spec.config.data.root))
    trainer = build_trainer(spec, task, device, [], quiet=True)
    trainer.model.train()
    seconds = []
    for _ in range(min(WARM + UPDATES, trainer.total_steps)):
        began = time.perf_counter()
        trainer.run_step()  # reads its loss: the device has finished
        seconds.append(time.perf_counter() - began)
    pace = statistics.median(seconds[WARM:] or seconds)
    source = f"{len(seconds[WARM:])} updates on this machine, evaluations left out"
    return Pace(pace, trainer.total_steps, 1.0, source, True)
