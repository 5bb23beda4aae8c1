"""Sweeps with a name: `sweep=<name>` stands for the overrides of configs/sweep/<name>.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noisyexp.errors import ConfigError
from noisyexp.places import CONFIG_DIR
from noisyexp.records.yaml_file import read_yaml
from noisyexp.schema import closest

FOLDER = CONFIG_DIR / "sweep"
PREFIX = "sweep="


def sweep_names(folder: Path = FOLDER) -> list[str]:
    """Names of the files in `folder`."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def expand_sweeps(argv: Sequence[str], folder: Path = FOLDER) -> list[str]:
    """The command line with every `sweep=<name>` replaced by the words that its file holds.

    A file is a mapping from key to values, "act.c: 0.01,0.1", in the notation of the command line.

    Args:
        argv: arguments without the program's name.
        folder: where the files are.

    Raises:
        ConfigError: no such sweep.
    """
    words: list[str] = []
    for word in argv:
        if not word.startswith(PREFIX):
            words.append(word)
            continue
        name, known = word.removeprefix(PREFIX), sweep_names(folder)
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise ConfigError([f"{word}: choose from {allowed}.{closest(name, known)}"])
        path = folder / f"{name}.yaml"
        overrides = read_yaml(path)
        if not isinstance(overrides, dict):
            raise ConfigError([f"{path}: expected keys and values, as act.c: 0.01,0.1"])
        words += [f"{key}={value}" for key, value in overrides.items()]
    return words
