"""Ray, on this machine or an existing cluster: one task a run.

A task whose worker was killed is tried again by Ray and goes on from its checkpoint; the tasks of a
command that has died are ended by Ray.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from noisyexp.cli.engines.jobs import Job, threads_of
from noisyexp.cli.engines.launcher import EngineLauncher
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.places import CHECKOUT
from noisyexp.training.signals import HANG_UP, Interrupted

LOOK_EVERY = 1.0
"""Seconds that are waited for a task before signals are looked at."""
CONNECT_S = 20.0
"""Seconds that a machine may take to answer."""


class RayLauncher(EngineLauncher):
    """Runs as tasks of Ray.

    Args:
        address: of a cluster; None starts Ray on this machine, "auto" takes the cluster of it.
        num_cpus: processors of a run, None for its threads.
        num_gpus: GPUs of a run, shares allowed.
        max_retries: how often a run is tried again whose worker has died.
        resources: further resources of a run by name.
    """

    def __init__(
        self,
        address: str | None,
        num_cpus: float | None,
        num_gpus: float,
        max_retries: int,
        resources: dict[str, float],
    ) -> None:
        self.address, self.max_retries = address, max_retries
        self.num_cpus = num_cpus
        self.signals: list[int] = []
        self.needs = {"num_gpus": num_gpus, "resources": dict(resources)}

    def check(self, jobs: Sequence[Job]) -> None:
        """Ray is here."""
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(["ray is not installed; run pip install -e '.[ray]'"])

    def where(self) -> str:
        """Which cluster."""
        return f", by Ray ({self.address or 'on this machine'})"

    def _connect(self) -> None:
        """Be a driver of the cluster, or of one that starts here.

        Raises:
            NoisyexpError: it is not there, or does not let us in.
        """
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        try:
            _check_listens(self.address)
            # Without an address Ray takes a cluster that it remembers, which may long be gone.
            ray.init(self.address or "local", log_to_driver=False, logging_level="error")
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            where = self.address or "this machine"
            raise NoisyexpError(f"no Ray at {where}: {why(error, self.address)}") from error
        if threading.current_thread() is threading.main_thread():
            # In place of Ray's own. It is only noted: Ray cannot bear an error while it waits.
            for signum in (signal.SIGTERM, *HANG_UP):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    signal.signal(signum, lambda signum, _: self.signals.append(signum))

    def run(self, jobs: Sequence[Job]) -> Generator[Job, None, None]:
        """See `EngineLauncher`."""
        import ray

        if not jobs:
            return
        self._connect()
        paths = [str(CHECKOUT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        cpus = threads_of(jobs) if self.num_cpus is None else self.num_cpus
        task = ray.remote(max_retries=self.max_retries, num_cpus=cpus, **self.needs)(_carried())
        running: dict[Any, Job] = {}
        try:
            for job in jobs:
                handle = task.options(name=job.name).remote(paths, str(job.write()))
                job.engine_id = handle.task_id().hex()
                running[handle] = job
            while running:
                for handle in ray.wait(list(running), timeout=LOOK_EVERY)[0]:
                    job = running.pop(handle)
                    try:
                        ray.get(handle)
                    except Exception as error:
                        job.message = f"{type(error).__name__}: {first_line(error)}"
                    yield job
                if self.signals:
                    raise Interrupted(self.signals[0])
        finally:
            for handle in running:  # as Ctrl-C: a checkpoint, then the end
                with contextlib.suppress(Exception):
                    ray.cancel(handle)
            with contextlib.suppress(Exception):
                ray.wait(list(running), num_returns=len(running), timeout=60)
            ray.shutdown()  # type: ignore[no-untyped-call]


def _check_listens(address: str | None) -> None:
    """Look whether anything listens at "host:port"; Ray itself tries for a quarter of an hour.

    Other forms of an address are Ray's. Of "auto" Ray remembers where its last cluster was.

    Raises:
        OSError: nothing does.
    """
    if address == "auto":
        with contextlib.suppress(ImportError, AttributeError, TypeError):  # another Ray's
            from ray._private.services import canonicalize_bootstrap_address

            address = canonicalize_bootstrap_address("auto")
    host, _, port = (address or "").rpartition(":")
    if "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def why(error: Exception, address: str | None) -> str:
    """Why a cluster cannot be had, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    reason = str(error).strip().splitlines()[0]
    # Ray sends a token by itself only to a cluster that it has found.
    if address in (None, "auto") or "RAY_AUTH_MODE" in os.environ:
        return reason
    return (
        f"{reason}; if `ray start` said there that it asks for a token, set RAY_AUTH_MODE=token "
        "here, with the token in ~/.ray/auth_token"
    )


def _carried() -> Callable[[Sequence[str], str], None]:
    """The task; a function within a function travels whole, whatever the worker can import."""

    def carried(paths: Sequence[str], file: str) -> None:
        sys.path[:0] = [path for path in paths if path and path not in sys.path]
        from pathlib import Path

        from noisyexp.process import settle

        settle()
        from noisyexp.cli.engines.jobs import RunFailedError, work

        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(Path(file).with_suffix(".log"), "a", buffering=1))
            stack.enter_context(contextlib.redirect_stdout(log))
            stack.enter_context(contextlib.redirect_stderr(log))
            code = work(Path(file))
        if code:
            raise RunFailedError(f"exit status {code}, see {log.name}")

    return carried


def first_line(error: Exception) -> str:
    """What a person needs of an error that Ray brings from a worker: its last line is the cause."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
