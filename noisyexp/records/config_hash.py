"""The hash that tells one configuration from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

NOT_HASHED = (
    "run_root", "device", "threads", "progress", "logger", "checkpoint", "row", "data.root",
    "task.workers", "training.cuda_graph", "training.accumulate", "init_from",
)  # fmt: skip
"""Keys that change at most the last bits of the result: runs that differ only here are one run.

Device and threads are among them; the record says which were used, over all sessions.
"""


def config_hash(config: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of the resolved configuration, seed included, less `NOT_HASHED`.

    Of the resolved one and not of the overrides: editing a default makes another run.
    """
    kept = json.loads(json.dumps(config))
    for key in NOT_HASHED:
        *path, last = key.split(".")
        section = kept
        for part in path:
            section = section.get(part, {})
        section.pop(last, None)
    for key, off in (("init_weights", None), ("debug", "none")):  # keys that came later
        if kept.get(key, off) == off:
            kept.pop(key, None)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
