"""Whether the classes that Hydra is to make (`_target_`) exist: it looks when the runs start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.utils import get_object
from omegaconf import DictConfig

from noisyexp.schema import cut

KINDS: dict[str, type] = {"launcher": Launcher, "sweeper": Sweeper}
"""By the section of Hydra's that makes one of them: only classes that are its plugins."""


def target_problems(hydra: Mapping[str, Any]) -> Iterator[str]:
    """A line for each `_target_` that leads to nothing, or to something else.

    Args:
        hydra: the section `hydra` of a composed configuration.
    """
    from noisyexp.cli.engines.plugins import register  # which imports what calls this

    register()
    known = Plugins.instance().class_name_to_class
    for name, kind in KINDS.items():
        target = str(hydra[name]["_target_"])
        if not issubclass(known.get(target, object), kind):
            said = f"hydra.{name}._target_={cut(target)}"
            yield f"{said}: no such {name}; choose one by its name, as hydra/{name}=basic"
    callbacks = hydra.get("callbacks") or {}
    others = {f"callbacks.{key}": made for key, made in callbacks.items()}
    for name, made in {**others, "sweeper.sampler": hydra["sweeper"].get("sampler")}.items():
        target = str(made.get("_target_", "")) if isinstance(made, DictConfig) else ""
        if target and not _can_be_made(target):
            yield f"hydra.{name}._target_={cut(target)}: there is no such class to import"


def _can_be_made(target: str) -> bool:
    try:
        return callable(get_object(target))
    except Exception:  # whatever its module does when it is imported
        return False
