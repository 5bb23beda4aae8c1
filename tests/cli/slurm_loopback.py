"""A SLURM of one machine with accounting, for tests: munge, MariaDB, slurmdbd, slurmctld, slurmd.

Two partitions: `low` is preempted and requeued by `high`. Needs root and the Debian packages
slurm-wlm, slurmdbd, mariadb-server and munge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "munged", "mariadb-install-db")

CONF = """\
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SwitchType=switch/none
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
SlurmctldPort=17817
SlurmdPort=17818
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=10
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={host}
AccountingStoragePort=17819
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes={host} State=UP PriorityTier=100 PreemptMode=OFF
"""

DATABASE = """\
AuthType=auth/munge
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort=17819
SlurmUser=root
LogFile={place}/slurmdbd.log
PidFile={place}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=14306
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""

GRANTS = (
    "create database if not exists slurm_acct_db;"
    "create user if not exists slurm@'127.0.0.1' identified by 'slurm';"
    "create user if not exists slurm@'localhost' identified by 'slurm';"
    "grant all on slurm_acct_db.* to slurm@'127.0.0.1';"
    "grant all on slurm_acct_db.* to slurm@'localhost';"
)


def missing() -> str | None:
    """Why there can be none here, None if there can."""
    # Debian keeps daemons where not everyone looks for programs.
    os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here"
    return None if os.geteuid() == 0 else "a SLURM for a test needs root"


def answers(*command: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True).returncode == 0


def wait_until(*command: str) -> None:
    """Until the command succeeds; a minute at most."""
    deadline = time.monotonic() + 60
    while not answers(*command):
        assert time.monotonic() < deadline, command
        time.sleep(0.5)


@contextlib.contextmanager
def slurm(place: Path) -> Iterator[Path]:
    """Start one in `place` and end it; gives the path of slurm.conf, also in the environment."""
    values = {"host": socket.gethostname(), "place": place, "cpus": os.cpu_count()}
    for name in ("state", "spool", "run", "mysql"):
        (place / name).mkdir(parents=True)
    Path("/run/munge").mkdir(exist_ok=True)
    for folder in (*place.parents, place):
        if os.access(folder, os.W_OK) and folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    conf = place / "slurm.conf"
    conf.write_text(CONF.format(**values))
    (place / "slurmdbd.conf").write_text(DATABASE.format(**values))
    (place / "slurmdbd.conf").chmod(0o600)
    shutil.chown("/run/munge", "munge", "munge")
    for name in ("mysql", "run"):
        shutil.chown(place / name, "mysql")
    os.environ["SLURM_CONF"] = str(conf)
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        log = (place / f"{Path(command[0]).name}.out").open("wb")
        started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    database = str(place / "run" / "m.sock")
    try:
        if not answers("munge", "-n"):
            start("runuser", "-u", "munge", "--", "/usr/sbin/munged", "--foreground")
        subprocess.run(
            ["mariadb-install-db", "--user=mysql", f"--datadir={place / 'mysql'}"],
            check=True, capture_output=True,
        )  # fmt: skip
        start("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={place / 'mysql'}",
              f"--socket={database}", "--port=14306", "--bind-address=127.0.0.1")  # fmt: skip
        wait_until("mariadb", "-S", database, "-e", "select 1")
        subprocess.run(["mariadb", "-S", database, "-e", GRANTS], check=True)
        start("slurmdbd", "-D")
        wait_until("sacctmgr", "-n", "show", "cluster")
        subprocess.run(["sacctmgr", "-i", "add", "cluster", "loop"], capture_output=True)
        start("slurmctld", "-D")
        wait_until("scontrol", "ping")
        start("slurmd", "-D", "-N", socket.gethostname())
        wait_until("srun", "-p", "high", "true")
        yield conf
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)
        del os.environ["SLURM_CONF"]
