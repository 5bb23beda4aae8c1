"""Reading the hand-written YAML files of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from noisyexp.errors import RecordError


def read_yaml(path: Path) -> Any:
    """Content of a YAML file as plain lists, dicts and scalars; interpolations stay as text.

    Raises:
        RecordError: it cannot be read or is not YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    # OmegaConf lets the errors of its YAML parser through, which share no base class with its own.
    except Exception as error:
        raise RecordError(f"{path} cannot be read as YAML: {error}") from error
