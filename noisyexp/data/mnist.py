"""MNIST (LeCun et al. 1998): four files in the IDX format, checked by their unpacked content.

A packed file (.gz) is as good as an unpacked one, whoever packed it: the same numbers may lie in
files of different checksums. What is downloaded is kept unpacked.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import urllib.request
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noisyexp.data.download import RemoteFile, Source, hub_rows, resolve, wrong_file
from noisyexp.errors import DataError
from noisyexp.fileio import check_regular, explain_read

ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist"
HUB_ID = "ylecun/mnist"
SIDE = 28
"""Pixels of an image along one side."""
PIXELS = SIDE * SIDE
CLASSES = 10
TRAIN_SIZE, TEST_SIZE = 60_000, 10_000
_UBYTE = 0x08
_TIMEOUT_S = 30


@dataclass(frozen=True, eq=False)
class MNIST:
    """The data set in memory.

    Attributes:
        images, test_images: (60000, 784) and (10000, 784), uint8; 0 is background, 255 ink.
        labels, test_labels: (60000,) and (10000,), int64.
        files: SHA-256 of the unpacked content of each file, by its name under the data root.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    files: dict[str, str]


def address_bytes(name: str) -> bytes:
    """The unpacked file `name` from the archive's address."""
    with urllib.request.urlopen(f"{ADDRESS}/{name}.gz", timeout=_TIMEOUT_S) as response:
        return gzip.decompress(response.read())


def hub_bytes(split: str, column: str) -> bytes:
    """The original file of a split ("train", "test") from the Hugging Face Hub.

    The Hub has rows of a picture ("image") and a number ("label") in the order of the originals:
    their bytes are put one after the other, behind the header that they had.
    """
    values = hub_rows(HUB_ID, split=split)[column]
    sizes = (len(values),) if column == "label" else (len(values), SIDE, SIDE)
    header = struct.pack(f">HBB{len(sizes)}I", 0, _UBYTE, len(sizes), *sizes)
    if column == "label":
        return header + bytes(values)
    return header + b"".join(np.asarray(image, dtype=np.uint8).tobytes() for image in values)


def _remote_file(name: str, split: str, column: str, size: int, sha256: str) -> RemoteFile:
    address = Source(f"{ADDRESS}/{name}.gz (may stay packed)", partial(address_bytes, name))
    hub = Source(
        f"Hugging Face Hub, dataset {HUB_ID}, split {split}, column {column}",
        partial(hub_bytes, split, column),
    )
    return RemoteFile(f"mnist/{name}", sha256, size, (address, hub))


MNIST_FILES = {
    "images": _remote_file(
        "train-images-idx3-ubyte", "train", "image", 47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "labels": _remote_file(
        "train-labels-idx1-ubyte", "train", "label", 60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "test_images": _remote_file(
        "t10k-images-idx3-ubyte", "test", "image", 7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "test_labels": _remote_file(
        "t10k-labels-idx1-ubyte", "test", "label", 10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}  # fmt: skip


def parse_idx(content: bytes) -> Tensor:
    """The array of an IDX file of unsigned bytes, uint8 of the shape in its header.

    Raises:
        ValueError: another type of number, or a length that does not fit the header.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UBYTE or not content[3]:
        raise ValueError(f"no IDX file of unsigned bytes: it starts with {content[:4].hex()}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"an IDX header of {start} bytes was cut short after {len(content)}")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(f"shape {shape} in the header, but {len(content) - start} bytes follow")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).copy()).view(shape)


def load_mnist(root: Path, offline: bool | None = None) -> MNIST:
    """MNIST from `root`/mnist, packed or unpacked, downloaded there if it is missing.

    Args:
        root: data root.
        offline: never download; None asks the environment.

    Raises:
        DataError: a file is missing or not the right one; see `noisyexp.data.download.resolve`.
    """
    arrays = {name: parse_idx(_content(file, root, offline)) for name, file in MNIST_FILES.items()}
    return MNIST(
        images=arrays["images"].flatten(1),
        labels=arrays["labels"].long(),
        test_images=arrays["test_images"].flatten(1),
        test_labels=arrays["test_labels"].long(),
        files={file.name: file.sha256 for file in MNIST_FILES.values()},
    )


def _content(file: RemoteFile, root: Path, offline: bool | None) -> bytes:
    """Unpacked content of `file`, from the packed copy if there is one."""
    packed = root / f"{file.name}.gz"
    advice = "It was left as it is: delete it and run again, or put the right file there."
    try:
        check_regular(packed)
        bytes_there = packed.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return resolve(file, root, offline=offline).read_bytes()
    except OSError as error:
        raise DataError(f"{packed}: cannot be read ({explain_read(error)})") from error
    try:
        content = gzip.decompress(bytes_there)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{packed}: cannot be unpacked ({explain_read(error)}). {advice}"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        wrong = wrong_file(file, packed, len(content), sha256)
        raise DataError(f"{wrong}\nSizes and sums are those of the unpacked content.")
    return content
