"""Our launchers as Hydra finds them: `_target_: hydra_plugins.noisyexp.<class>`.

Hydra takes plugins of the package `hydra_plugins` alone. They are entered into its list under that
name, so that no second top-level package is installed. `basic` and `joblib`, like `submitit_local`
in configs/, are names of Hydra's own launchers; ours take their place, for commands people know.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from noisyexp.cli.engines.local import LocalLauncher, SerialLauncher
from noisyexp.cli.engines.ray import RayLauncher
from noisyexp.cli.engines.slurm import SubmititLauncher

PACKAGE = "hydra_plugins.noisyexp"

NAMED_LIKE_HYDRAS: dict[str, dict[str, Any]] = {
    "basic": {"_target_": f"{PACKAGE}.SerialLauncher"},
    "joblib": {"_target_": f"{PACKAGE}.LocalLauncher", "n_jobs": -1},
}


def register() -> None:
    """Enter the launchers; more than once does no harm."""
    known = Plugins.instance().class_name_to_class
    for launcher in (SerialLauncher, LocalLauncher, SubmititLauncher, RayLauncher):
        known[f"{PACKAGE}.{launcher.__name__}"] = launcher
    store = ConfigStore.instance()
    for name, node in NAMED_LIKE_HYDRAS.items():
        store.store(group="hydra/launcher", name=name, node=node, provider="noisyexp")
