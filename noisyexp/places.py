"""Where the project's own files lie: in a checkout beside the package, in a wheel inside it.

And where it keeps what it makes once a machine.
"""

from __future__ import annotations

import os
import tempfile
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


def configs_of(root: Path) -> Path:
    """The configuration files that go with `root`/results: its own, else the installed ones."""
    own = root / "configs"
    return own if own.is_dir() else CONFIG_DIR


DATA_VARIABLE = "NOISYEXP_DATA"
"""Environment variable: the folder of the data sets."""


def data_folder() -> Path:
    """$NOISYEXP_DATA, else `data` in the current folder; a variable that is empty is not set."""
    return Path(os.environ.get(DATA_VARIABLE) or "data").expanduser()


CACHE_VARIABLE = "NOISYEXP_CACHE"
"""Environment variable: the folder of compiled kernels, features and vocabularies."""


def cache_folder() -> Path:
    """$NOISYEXP_CACHE, else the noisyexp folder of the user's cache.

    Without a home, as in a container, it is a folder of this user's in the one for temporary files.
    """
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.path.expanduser(os.environ[CACHE_VARIABLE]))
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        return Path(tempfile.gettempdir()) / f"noisyexp-{os.getuid()}"
    return Path(base) / "noisyexp"
