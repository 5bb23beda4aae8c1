"""What a run knows of all the processes that it took: their time, code, torch, device and data."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Mapping
from typing import Any

from noisyexp.errors import DataError
from noisyexp.records.run_record import RunRecord
from noisyexp.training.callbacks import Callback


class Sessions(Callback):
    """Wall time of a run over all its processes, and what each of them ran with.

    Args:
        environment: code, torch, device and threads of this process.
        files: SHA-256 of the data by file name; a run stays with the data that it began with.
    """

    def __init__(self, environment: dict[str, Any], files: Mapping[str, str]) -> None:
        self.environment, self.files = environment, dict(files)
        self.before, self.environments = 0.0, [environment]
        self.started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Wall time so far."""
        return self.before + time.monotonic() - self._began

    def state_dict(self) -> dict[str, Any]:
        """Time, environments, start and data of the run."""
        kept = {"environments": self.environments, "started": self.started, "files": self.files}
        return {"seconds": self.seconds(), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting, and warn if this process is not like the one before.

        Raises:
            DataError: it has other data.
        """
        check_same_files(state, self.files)
        self.before, self.started = float(state["seconds"]), str(state["started"])
        before = state["environments"][-1]
        changed = [
            f"{key} was {before[key]}, is {value}"
            for key, value in self.environment.items()
            if before.get(key) != value
        ]
        if changed:
            print(
                f"this session differs from the one before it ({'; '.join(changed)}): the last "
                "bits of the result may too",
                file=sys.stderr,
            )
        self.environments = [*state["environments"], self.environment]

    def describe(self, record: RunRecord) -> None:
        """Put the environments that were used, each once, and the time into the record."""
        used: list[dict[str, Any]] = []
        for environment in self.environments:
            if environment not in used:
                used.append(environment)
        record.environments = used
        dirty = any(environment["dirty"] for environment in used)
        record.code = {**record.code, "dirty": dirty}
        record.cost = {
            **record.cost,
            "wall_s": round(self.seconds(), 3),
            "sessions": len(self.environments),
            "started": self.started,
        }


def check_same_files(sessions: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Compare the data at hand with those of a checkpoint.

    Args:
        sessions: state of `Sessions`.
        files: SHA-256 by name.

    Raises:
        DataError: they differ, so that ids of words, for example, may mean something else.
    """
    before = sessions.get("files", files)  # older checkpoints do not say
    if before != files:
        names = sorted(k for k in {*before, *files} if before.get(k) != files.get(k))
        raise DataError(
            f"the data are not those that the run began with: {', '.join(names)} changed. Put the "
            "former files back, or delete the run's folder to begin anew."
        )
