"""Where the project's own files lie: in a checkout beside the package, in a wheel inside it.

And where it keeps what it makes once a machine.
"""

from __future__ import annotations

import os
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


CACHE_VARIABLE = "NOISYEXP_CACHE"
"""Environment variable: the folder of compiled kernels, features and vocabularies."""


def cache_folder() -> Path:
    """$NOISYEXP_CACHE, else the noisyexp folder of the user's cache."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "noisyexp"
