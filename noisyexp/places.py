"""Where the project's own files lie: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent

CONFIG_DIR = next(
    (folder for folder in (CHECKOUT / "configs", PACKAGE / "configs") if folder.is_dir()),
    CHECKOUT / "configs",
)
"""Hydra's files and those of tables. A checkout's come first: they are the ones that are edited."""


def project_root() -> Path:
    """The folder whose `results` are read and written: the checkout, else the current folder.

    An installed package has no results of its own.
    """
    return CHECKOUT if (CHECKOUT / "results").is_dir() else Path.cwd()
