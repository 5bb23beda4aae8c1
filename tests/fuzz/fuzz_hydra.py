"""Hydra, which merges some twenty files for every command line, keeping what it merged before.

Ten thousand command lines then take minutes and not an hour. What a line changes by keys is applied
by Hydra itself, as always; lines that go through a process of their own know nothing of this.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl as loader
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from noisyexp.cli import compose


def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hydra merge each choice of files once."""
    lists: dict[Any, DefaultsList] = {}
    merged: dict[Any, Any] = {}
    names: dict[Any, list[str]] = {}
    merge = loader.ConfigLoaderImpl._compose_config_from_defaults_list
    keys_of = compose.keys_of

    def sources(repo: Any) -> Any:
        return tuple(str(source.path) for source in repo.get_sources())

    def defaults(repo: Any, overrides_list: Any, **rest: Any) -> DefaultsList:
        # A key with a dot chooses no file.
        choices = [o for o in overrides_list if "." not in o.key_or_group]
        key = sources(repo), tuple(o.input_line for o in choices), tuple(rest.items())
        if key not in lists:
            lists[key] = create_defaults_list(repo=repo, overrides_list=choices, **rest)
        own = {o.input_line for o in lists[key].config_overrides}
        changes = [o for o in overrides_list if "." in o.key_or_group or o.input_line in own]
        return dataclasses.replace(lists[key], config_overrides=changes)

    def composed(self: Any, defaults: Any, repo: Any) -> Any:
        key = sources(repo), tuple((d.config_path, d.package) for d in defaults)
        if key not in merged:
            merged[key] = merge(self, defaults, repo)
        return copy.deepcopy(merged[key])

    def known(*choices: str) -> list[str]:
        if choices not in names:
            names[choices] = keys_of(*choices)
        return names[choices]

    real = OmegaConf.load
    parsed = functools.cache(lambda text: real(io.StringIO(text)))

    def load(file: Any) -> Any:
        text = Path(file).read_text("utf-8") if isinstance(file, str | Path) else file.read()
        return copy.deepcopy(parsed(text))

    monkeypatch.setattr(OmegaConf, "load", load)
    monkeypatch.setattr(loader, "create_defaults_list", defaults)
    monkeypatch.setattr(loader.ConfigLoaderImpl, "_compose_config_from_defaults_list", composed)
    monkeypatch.setattr(compose, "keys_of", known)
    # Hydra copies all of its own schemas for every question; nothing writes to them.
    monkeypatch.setattr(ConfigStore, "__deepcopy__", lambda self, memo: self, raising=False)
