"""The groups of configuration files, and the files in each that can be chosen."""

from __future__ import annotations

from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig

ROOT_FILE = "config"
GROUPS = ("task", "act", "scale", "data", "logger", "experiment")
"""Groups of choices, in the order of the help."""


class Groups:
    """The files that can be chosen from, those of `hydra.searchpath` overrides included."""

    def __init__(self, loader: ConfigLoader, searchpath: list[str]) -> None:
        self.loader, self.searchpath = loader, searchpath
        self.repository: IConfigRepository = loader.repository  # type: ignore[attr-defined]
        self._options: dict[str, list[str]] = {}
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        """Configurations that were made on the way, by their overrides, for who needs them next."""

    def options(self, group: str) -> list[str]:
        """Files of a group, those in its folders as "folder/file"; empty without such a group."""
        # A key with a dot is no group, and neither is `hydra`, the folder of Hydra's own groups.
        if "." in group or group == "hydra":
            return []
        if group not in self._options:
            files = self._list(group, ObjectType.CONFIG)
            for folder in self._list(group, ObjectType.GROUP):
                files += [f"{folder}/{name}" for name in self.options(f"{group}/{folder}")]
            self._options[group] = files
        return self._options[group]

    def _list(self, group: str, kind: ObjectType) -> list[str]:
        if self.searchpath:  # without an override of it, it is ours alone
            return list(self.loader.get_group_options(group, kind, ROOT_FILE, self.searchpath))
        # The loader would copy all that it knows first, for every question.
        return list(self.repository.get_group_options(group, kind))
