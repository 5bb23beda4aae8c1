"""The digest by which a record shows that it was not changed after it was written.

It finds slips and damage: a number of the test set stands nowhere else. Who forges a record can
make a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from noisyexp.fileio import finite

DIGEST = "digest"
"""Its key; records of older versions lack it."""


def content_digest(record: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of everything in a record but the digest itself.

    The same before it is written and after it is read.
    """
    kept = finite({key: value for key, value in record.items() if key != DIGEST})
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the digest of its content, at the end."""
    kept = {key: value for key, value in record.items() if key != DIGEST}
    return {**kept, DIGEST: content_digest(kept)}
