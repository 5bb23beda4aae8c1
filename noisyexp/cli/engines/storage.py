"""Whether the database of a search with Optuna can be used: it is opened once before the sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib.metadata import version

from hydra import compose

from noisyexp.cli.compose import hydra_session
from noisyexp.cli.config_groups import ROOT_FILE
from noisyexp.errors import ConfigError
from noisyexp.schema import cut

KEY = "hydra.sweeper.storage"
LONGEST = 300
"""Characters of a reason: a server may say much."""


def check_storage(job: Sequence[str]) -> None:
    """Open the storage that a sweep with Optuna would use; nothing for another sweeper.

    Args:
        job: overrides of one run of the sweep, Hydra's own included, which compose.

    Raises:
        ConfigError: it cannot be opened, with the reason.
    """
    if not any(word.lstrip("+~").startswith("hydra") for word in job):  # the basic sweeper
        return
    with hydra_session():
        sweeper = compose(ROOT_FILE, overrides=list(job), return_hydra_config=True).hydra.sweeper
        target, address = str(sweeper._target_), sweeper.get("storage")
        name = sweeper.get("study_name")
    if target.rpartition(".")[2] != "OptunaSweeper" or address is None:
        return
    reason = why_not_opened(str(address), None if name is None else str(name))
    if reason is not None:
        raise ConfigError([f"{KEY}={address}: {reason}"])


def why_not_opened(address: str, study: str | None) -> str | None:
    """Open a storage of Optuna's, which makes its tables in a new database.

    Args:
        address: as `sqlite:///study.db`.
        study: name of a study that is looked for; it need not be there.

    Returns:
        Why it cannot be used, in a line, or None.
    """
    from optuna.storages import get_storage

    installed = version("sqlalchemy")
    if not address.startswith("redis") and int(installed.partition(".")[0]) >= 2:
        # Optuna 2 does not commit what later versions want committed: its tables stay incomplete.
        return (
            f"it needs SQLAlchemy below 2, and {installed} is installed; "
            "pip install 'sqlalchemy<2' 'alembic<1.20'"
        )
    try:
        storage = get_storage(address)
        with contextlib.suppress(KeyError):  # a study that is still to be made
            storage.get_study_id_from_name(study or "")  # Redis is asked for the first time here
        storage.remove_session()
    except Exception as error:  # of SQLAlchemy, of any driver, of the machine
        return _reason(error)
    return None


def _reason(error: BaseException) -> str:
    """What the driver said: what is raised from it adds addresses of manuals and SQL."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split())
    return cut(said or type(error).__name__, LONGEST)
