"""Any set of runs: found on disk, told apart by their settings, chosen by conditions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import explain_read, read_json
from noisyexp.nan_names import as_typed
from noisyexp.records.record_files import load_record
from noisyexp.records.run_record import RunRecord
from noisyexp.schema import closest

NAMES = ("task", "act", "scale", "data", "experiment", "seed", "status")
"""What a run is called, before its settings."""
NOT_SETTINGS = (
    "seed", "device", "threads", "run_root", "progress", "deterministic", "logger", "checkpoint",
    "row", "scale", "data", "init_from", "act.label", "task.name", "task.workers",
)  # fmt: skip
"""Keys of a configuration that change no number, or that have a name of their own."""

Conditions = str | Mapping[str, Any]
"""Values that runs should have, see `conditions`."""
OWN = "act.settings."
"""Settings that belong to one unit."""
MOST_ENTRIES = 100_000
"""Files and folders that are looked at below a folder, those of runs left out. A disk has more."""
HINT = (
    "A run is made by, for example, `noisyexp run task=mixture act=nah scale=smoke`, and lies in "
    "runs/ of the folder where that is called; name another place after the verb"
)
RUN = "run.json"
SWEEP = "sweep.json"
"""List of the runs of a sweep, in its folder; the runs lie two folders up."""


@dataclass(frozen=True)
class Run:
    """One run: its record, where it lies, and all its settings by dotted key.

    Attributes:
        record: content of run.json.
        path: the file it was read from.
        settings: names (see `NAMES`) and the configuration, flattened.
    """

    record: RunRecord
    path: Path
    settings: Mapping[str, Any]


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs below some folders and in some files, each configuration and seed once.

    A folder gives every run.json below it and every record of results/records.

    Args:
        paths: folders and JSON files.

    Returns:
        The runs in the order of their paths, and a line for every file that was left out.

    Raises:
        RecordError: a path does not exist, or there is no run in any of them.
    """
    runs: dict[tuple[str, str, int], Run] = {}
    left_out = []
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise RecordError(f"{path.absolute()}: no such file or folder. {HINT}")
        for file in record_files(path):
            try:
                record = load_record(file, str(file))
            except RecordError as error:
                left_out.append(str(error))
                continue
            key = (record.config_hash, record.task, record.seed)
            if key in runs:
                left_out.append(f"{file}: the run of {runs[key].path}, counted once")
            else:
                runs[key] = Run(record, file, settings(record))
    found = _complete(list(runs.values()))
    if not found:
        where = ", ".join(str(path.absolute()) for path in paths)
        raise RecordError("\n".join([f"no runs in {where}. {HINT}", *left_out]))
    return found, left_out


def _complete(runs: Sequence[Run]) -> list[Run]:
    """The runs with every setting that others of their task have.

    A record from before a setting existed takes the value that most runs have: the default. What a
    unit has of its own (`OWN`) other units never had.
    """
    values: dict[tuple[str, str], Counter[Any]] = {}
    for run in runs:
        for key, value in run.settings.items():
            values.setdefault((run.record.task, key), Counter())[value] += 1
    full = []
    for run in runs:
        usual = {
            key: counts.most_common(1)[0][0]
            for (task, key), counts in values.items()
            if task == run.record.task and key not in run.settings and not key.startswith(OWN)
        }
        full.append(replace(run, settings={**run.settings, **usual}))
    return full


def record_files(path: Path) -> list[Path]:
    """JSON files that may be records: the file itself, or run.json and published records below.

    The folder of a sweep stands for the runs of its list. Hidden folders below `path` are left out.

    Raises:
        RecordError: it holds a whole disk, or a damaged list of a sweep.
    """
    if path.is_file():
        return [path]
    if (path / SWEEP).is_file():
        return _runs_of_sweep(path)
    found, seen = list[Path](), 0
    for folder, folders, files in os.walk(path):
        if RUN in files:  # nothing else in it is a record, however much its logs are
            found.append(Path(folder, RUN))
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in files if _published(name)]
        seen += len(folders) + len(files)
        if seen > MOST_ENTRIES:
            raise RecordError(
                f"{path}: more than {MOST_ENTRIES:,} files in it that are of no run; name the "
                "folder of the runs, run_root= of their command"
            )
    return sorted(found)


def _runs_of_sweep(folder: Path) -> list[Path]:
    """The records of the runs that a sweep lists, found from where its folder is now.

    Raises:
        RecordError: the list is damaged.
    """
    file = folder / SWEEP
    root = folder.absolute().parents[1]
    try:
        listed = [Path(run["run"]) for run in read_json(file)["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{file} is no list of a sweep: {explain_read(error)}") from error
    found = [root.joinpath(*run.parts[-2:]) / RUN for run in listed]
    return [file for file in dict.fromkeys(found) if file.is_file()]


def _published(name: str) -> bool:
    return name.endswith(".json") and "-seed" in name and not name.startswith(".")


def settings(record: RunRecord) -> dict[str, Any]:
    """Names and configuration of a run, flattened: {"act.tanh.alpha": 1.15, ...}."""
    names = {name: getattr(record, name) for name in NAMES}
    names["act"] = as_typed(names["act"])
    return {**names, **dict(_flat(record.config, ""))}


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        name = f"{prefix}{key}"
        if name in NOT_SETTINGS:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif name not in NAMES:
            yield name, tuple(value) if isinstance(value, list) else value


def conditions(wanted: Conditions, runs: Sequence[Run]) -> dict[str, str]:
    """Values that runs should have, as a person types them.

    Args:
        wanted: `key=value,key=value`, where a value may hold "=" but no comma; or a mapping.
        runs: whose keys are known.

    Raises:
        RecordError: a part without "=", or a key that no run has.
    """
    pairs = {}
    for part in filter(None, wanted.split(",")) if isinstance(wanted, str) else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise RecordError(f"{part!r}: expected key=value, as act.variant=reference")
        pairs[key] = value
    if not isinstance(wanted, str):
        pairs = {key: "null" if value is None else str(value) for key, value in wanted.items()}
    check_keys(pairs, {key for run in runs for key in run.settings})
    return pairs


def check_keys(keys: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys that no run has.

    Raises:
        RecordError: all of them, each with the closest one that exists.
    """
    known = set(known)
    wrong = [
        f"{key}: no run has it.{closest(key, sorted(known))}" for key in keys if key not in known
    ]
    if wrong:
        raise RecordError("; ".join(wrong))


def meets(run: Run, wanted: Mapping[str, str]) -> bool:
    """Whether the run has all the values; numbers are compared as numbers, a bare nan is a unit."""
    return all(same(run.settings.get(key), value) for key, value in wanted.items())


def same(value: Any, text: str) -> bool:
    """Whether a setting is what a person typed."""
    if isinstance(value, bool) or value is None:
        return text.lower() == {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return as_typed(text) == as_typed(str(value))


def in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """What settings are sorted by: null, then false and true, numbers as numbers, texts."""

    def place(value: Any) -> tuple[int, Any]:
        if value is None:
            return 0, 0
        if isinstance(value, bool):
            return 1, value
        return (2, value) if isinstance(value, int | float) else (3, spoken(value))

    return tuple(map(place, values))


def spoken(value: Any) -> str:
    """A setting as a person types it; "-" for null, which most units have in some place."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
