"""Completion in the shell: configuration files and keys after a verb, without Hydra.

Reading file names takes a millisecond, composing a configuration half a second: the shell waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from noisyexp.nan_names import as_typed
from noisyexp.places import CONFIG_DIR

GROUPS = ("task", "act", "scale", "data", "logger", "experiment", "sweep")
KEYS = ("seed=", "device=", "precision=", "threads=", "run_root=")


def complete(verb: str, word: str) -> list[str]:
    """Words that begin as `word` does, for verbs that take a run's overrides or a table's name.

    Args:
        verb: "run", "table", ...
        word: what has been typed of it.
    """
    if verb in ("run", "plan"):
        return _run_words(word)
    if verb in ("table", "reproduce"):
        return [name for name in _files("experiment", folders=True) if name.startswith(word)]
    return []


def _run_words(word: str) -> list[str]:
    key, equals, value = word.partition("=")
    if not equals:
        return [w for w in (*(f"{group}=" for group in GROUPS), *KEYS) if w.startswith(word)]
    if key not in GROUPS:
        return []
    # The last of several values is the one that is being typed.
    done, comma, last = value.rpartition(",")
    found = map(as_typed, _files(key))
    return [f"{key}={done}{comma}{name}" for name in found if name.startswith(last)]


def _files(group: str, folders: bool = False) -> Iterable[str]:
    root: Path = CONFIG_DIR / group
    if folders:
        return sorted(path.name for path in root.iterdir() if path.is_dir())
    paths = sorted(root.rglob("*.yaml"))
    return [path.relative_to(root).with_suffix("").as_posix() for path in paths]
