"""The resolved configuration of a table row at a scale, merged from its files without Hydra.

A table compares every record with its row's settings. Hydra takes half a second for a row, so that
a table of many rows took longer than some runs. The order is that of the defaults list in
configs/config.yaml; a test compares the result with what Hydra composes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from noisyexp.places import CONFIG_DIR
from noisyexp.records.yaml_file import parse_yaml, read_text

GLOBAL = "# @package _global_"
"""First line of a file whose keys are those of the whole configuration, not of its group."""


def row_config(experiment: str, scale: str, config_dir: Path = CONFIG_DIR) -> dict[str, Any]:
    """Resolved configuration of row `experiment` at `scale`, plain containers, less `data.root`.

    Args:
        experiment: name of the row, "table2/nah".
        scale: "paper", "cpu", ...
        config_dir: folder of the configuration files.

    Raises:
        RecordError: a file that the row names is missing.
    """
    row = _load(config_dir, "experiment", experiment)
    root = _load(config_dir, "", "config")
    chosen = {**_choices(root), **_choices(row), "scale": scale}
    task = chosen["task"]
    layers = [root]
    layers += [
        _load(config_dir, group, chosen[group]) for group in ("task", "act", "data", "logger")
    ]
    layers.append(_load(config_dir, "scale", scale))
    overlay = config_dir / "overlay" / task / f"{scale}.yaml"
    if overlay.is_file():
        layers.append(_load(config_dir, "overlay", f"{task}/{scale}"))
    merged: dict[str, Any] = {}
    for layer in (*layers, row):
        merged = _merged(merged, layer)
    for key in ("defaults", "hydra"):
        merged.pop(key, None)
    merged["data"] = dict(merged["data"])
    merged["data"].pop("root", None)  # a place, which the environment decides
    resolved: dict[str, Any] = _resolved(merged, merged)
    return resolved


def _merged(below: Any, above: Any) -> Any:
    """Sections key by key; anything else is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {key: _merged(below.get(key), above[key]) if key in above else below[key]
            for key in (*below, *(k for k in above if k not in below))}  # fmt: skip


def _resolved(value: Any, root: Mapping[str, Any]) -> Any:
    """`value` with every "${a.b}" in it replaced by what stands at a.b of `root`."""
    if isinstance(value, dict):
        return {key: _resolved(item, root) for key, item in value.items()}
    found = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if found is None:
        return value
    target: Any = root
    for key in found[1].split("."):
        target = target[key]
    return _resolved(target, root)


def _choices(config: Any) -> dict[str, str]:
    """What a defaults list chooses: group -> file."""
    chosen: dict[str, str] = {}
    for entry in config.get("defaults") or ():
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            chosen[str(key).removeprefix("override ").removeprefix("/")] = str(value)
    return chosen


@cache
def _load(config_dir: Path, group: str, name: str) -> Any:
    """A file as Hydra places it: its keys below its group's, or global."""
    path = config_dir / group / f"{name}.yaml"
    text = read_text(path)
    content = parse_yaml(text, path) or {}
    own = not group or text.startswith(GLOBAL)
    return content if own else {group: content}
