"""The groups of configuration files, and the files in each that can be chosen."""

from __future__ import annotations

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType

ROOT_FILE = "config"
GROUPS = ("task", "act", "scale", "data", "logger", "experiment")
"""Groups of choices, in the order of the help."""


class Groups:
    """The files that can be chosen from, those of `hydra.searchpath` overrides included."""

    def __init__(self, loader: ConfigLoader, searchpath: list[str]) -> None:
        self.loader, self.searchpath = loader, searchpath
        self._options: dict[str, list[str]] = {}

    def options(self, group: str) -> list[str]:
        """Files of a group, those in its folders as "folder/file"; empty without such a group."""
        # Hydra reads its files again at every question, 50 ms each; a key with a dot is no group.
        # So is `hydra`, the folder of Hydra's own groups.
        if "." in group or group == "hydra":
            return []
        if group not in self._options:
            files = self._list(group, ObjectType.CONFIG)
            for folder in self._list(group, ObjectType.GROUP):
                files += [f"{folder}/{name}" for name in self.options(f"{group}/{folder}")]
            self._options[group] = files
        return self._options[group]

    def _list(self, group: str, kind: ObjectType) -> list[str]:
        # The root file is read only for a search path, which without an override is ours alone.
        root = ROOT_FILE if self.searchpath else None
        return list(self.loader.get_group_options(group, kind, root, self.searchpath))
