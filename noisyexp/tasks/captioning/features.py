"""Annotations of images: maps of a trained network, computed once and kept in the user's cache.

A cached file has one row an image, in the order of the file names: (images, locations, channels)
in half precision, location-major, so that row l of an image is all that is known of location l.
Its name is a hash of the images, the network, its weights and the preparation of a picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from noisyexp.data.flickr8k import ImageArchive
from noisyexp.data.progress import Counter
from noisyexp.errors import DataError, NoisyexpError
from noisyexp.fileio import explain, explain_read, read_json, sha256_file, write_json
from noisyexp.locks import hold
from noisyexp.places import cache_folder
from noisyexp.tasks.captioning.extractors import (
    EXTRACTORS,
    PREPARATION,
    Extractor,
    Network,
    annotate,
    prepare_image,
)

PIECE = 256
"""Images between two steps of an extraction that a kill cannot undo."""
BATCH = 8


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """Annotations of all images.

    Attributes:
        values: (images, locations, channels) float16, mapped from the file.
        rows: row of an image by its file name.
        facts: how they were made, their mean and 99th percentile.
    """

    values: np.ndarray
    rows: dict[str, int]
    facts: dict[str, Any]


def feature_key(archive_sha256: str, extractor: Extractor) -> str:
    """Name of the cached file: 16 hexadecimal digits."""
    parts = (archive_sha256, extractor.weights, PREPARATION, "float16 location-major")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def load_features(archive: ImageArchive, name: str, folder: Path | None = None) -> FeatureFile:
    """Annotations of all images of `archive` by the extractor `name`, from the cache if there.

    Args:
        archive: the images.
        name: of `EXTRACTORS`.
        folder: where they are kept; None is `features` in the user's cache (NOISYEXP_CACHE).

    Raises:
        NoisyexpError: the network or its weights are not installed, or the cache has no room.
        DataError: an image cannot be read, or the cached file is damaged.
    """
    extractor = EXTRACTORS[name]
    folder = cache_folder() / "features" if folder is None else folder
    path = folder / f"{name}-{feature_key(archive.sha256, extractor)}.npy"
    if not _is_there(path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with hold(path.with_suffix(".lock"), _wait_for(path.stem)):
                if not _is_there(path):  # another process may have made it while we waited
                    _extract(archive, name, path)
        except OSError as error:
            raise NoisyexpError(
                f"{path} cannot be written ({explain(error)}). What was extracted is kept: make "
                "room, or set the environment variable NOISYEXP_CACHE to a folder with room."
            ) from error
    shutil.rmtree(path.with_suffix(".pieces"), ignore_errors=True)  # a kill may have left them
    rows = {image: row for row, image in enumerate(archive.members)}
    return _read(path, rows, (len(rows), extractor.locations, extractor.channels))


def _is_there(path: Path) -> bool:
    return path.is_file() and path.with_suffix(".json").is_file()


def _read(path: Path, rows: dict[str, int], shape: tuple[int, int, int]) -> FeatureFile:
    facts = path.with_suffix(".json")
    try:
        found = FeatureFile(np.load(path, mmap_mode="r"), rows, read_json(facts))
        if found.values.shape != shape:
            raise ValueError(f"its shape is {found.values.shape} and not {shape}")
        if sha256_file(path) != found.facts["sha256"]:
            raise ValueError("its SHA-256 is not the one recorded")
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be used ({explain_read(error)}). Delete it and {facts} and run again: "
            "its annotations are then extracted once more."
        ) from error
    return found


def _wait_for(name: str) -> Callable[[str], None]:
    """What to say when another process extracts the same."""

    def say(holder: str) -> None:
        print(f"another process extracts {name} ({holder}): waiting for it", file=sys.stderr)

    return say


@contextlib.contextmanager
def _whole_or_nothing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is `path` once all of it is on the disk."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _is_piece(path: Path, shape: tuple[int, int, int]) -> bool:
    try:
        return bool(np.load(path).shape == shape)
    except (OSError, ValueError, EOFError):
        return False


def _extract(archive: ImageArchive, name: str, path: Path) -> None:
    extractor, images = EXTRACTORS[name], list(archive.members)
    pieces, place = path.with_suffix(".pieces"), (extractor.locations, extractor.channels)
    pieces.mkdir(exist_ok=True)
    starts = range(0, len(images), PIECE)
    missing = [
        start for start in starts
        if not _is_piece(pieces / f"{start}.npy", (len(images[start : start + PIECE]), *place))
    ]  # fmt: skip
    network = extractor.load() if missing else None
    with Counter(f"annotations by {name}", "images", len(images)) as counter:
        counter.add(
            sum(len(images[k : k + PIECE]) for k in starts if k not in missing), counts=False
        )
        for start in missing:
            assert network is not None
            values = _piece(archive, network, images[start : start + PIECE])
            with _whole_or_nothing(pieces / f"{start}.npy") as file:
                np.save(file, values)
            counter.add(len(values))
        rate = counter.rate
    shape = (len(images), *place)
    # Written piece by piece and not through a map, which on a full disk ends the process.
    with _whole_or_nothing(path) as file:
        header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in starts:
            file.write(np.load(pieces / f"{start}.npy").tobytes())
    sample = np.load(path, mmap_mode="r")[::16].astype(np.float32)
    facts = {
        "extractor": name,
        "weights": extractor.weights,
        "preparation": PREPARATION,
        "images_sha256": archive.sha256,
        "shape": list(shape),
        "mean": float(sample.mean(dtype=np.float64)),
        "percentile_99": float(np.percentile(sample, 99)),
        "images_per_s": round(rate, 2),
        "sha256": sha256_file(path),
    }
    write_json(path.with_suffix(".json"), facts)
    print(
        f"{name}: mean {facts['mean']:.4f}, 99th percentile {facts['percentile_99']:.4f} (of every "
        f"16th image), {rate:.1f} images/s, kept in {path}",
        file=sys.stderr,
    )


def _piece(archive: ImageArchive, network: Network, images: Sequence[str]) -> np.ndarray:
    pictures = []
    for image, content in zip(images, archive.read(images), strict=True):
        try:
            pictures.append(prepare_image(content))
        except ValueError as error:
            raise DataError(f"{archive.path}: {image} cannot be read ({error})") from error
    batches = torch.split(torch.stack(pictures), BATCH)
    return np.concatenate([annotate(network, batch).half().numpy() for batch in batches])
