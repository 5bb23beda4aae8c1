"""Random damage to files and to the folder of a run."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (None, [], {}, "x", "", -1, 1e300, True, [[]], {"a": None}, 10**30)


def spoil(draw: random.Random, content: bytes) -> bytes:
    """Other bytes: cut, flipped, doubled, zeroed, or something else altogether."""
    kind = draw.randrange(8)
    place = draw.randrange(len(content)) if content else 0
    if kind == 0:
        return content[:place]
    if kind == 1:
        return b""
    if kind == 2:
        return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]
    if kind == 3:
        return content[:place] + b"\0" * min(64, len(content) - place) + content[place + 64 :]
    if kind == 4:
        return content + content[place:]
    if kind == 5:
        return draw.randbytes(draw.choice((1, 10, 1000)))
    if kind == 6:
        return content[:place] + draw.randbytes(8) + content[place:]
    return draw.choice(
        (b"[]", b"null", b"5", b"{}", b"[" * 100_000, b"\xff\xfe", b'"x"', b"\n" * 9)
    )


def spoil_json(draw: random.Random, content: bytes) -> bytes:
    """The same JSON with one value, at any depth, missing or of another kind."""
    value: Any = json.loads(content)
    inside = value
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        if not keys:
            return spoil(draw, content)
        key = draw.choice(keys)
        if isinstance(inside[key], dict | list) and inside[key] and draw.random() < 0.7:
            inside = inside[key]
            continue
        if draw.random() < 0.2:
            del inside[key]
        else:
            inside[key] = draw.choice(ODD)
        return json.dumps(value).encode()


def replace(draw: random.Random, path: Path, others: list[Path]) -> str:
    """Damage `path` in one way; returns which. `others`: files of another run to put there."""
    kind = draw.choice(
        ("bytes", "bytes", "bytes", "json", "gone", "folder", "pipe", "link", "other")
    )
    content = path.read_bytes() if path.is_file() else b""
    if kind == "json" and path.name != "run.json":
        kind = "bytes"
    if kind == "other" and not any(other.name == path.name for other in others):
        kind = "bytes"
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
    if kind == "bytes":
        path.write_bytes(spoil(draw, content))
    elif kind == "json":
        try:
            path.write_bytes(spoil_json(draw, content))
        except ValueError:  # damaged before
            path.write_bytes(spoil(draw, content))
    elif kind == "folder":
        path.mkdir()
        (path / "inside").touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(
            draw.choice((path, path.parent, path.parent.parent / "nope", Path("/dev/zero")))
        )
    elif kind == "other":
        shutil.copy(next(other for other in others if other.name == path.name), path)
    return kind
