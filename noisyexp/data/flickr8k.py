"""Flickr8k (Hodosh et al. 2013): 8,091 photographs, five captions each, and the official splits.

Captions and lists are the public files, byte for byte. The photographs are taken from any archive
that holds all of them: copies of another size or encoding are in use, so the archive's checksum is
recorded rather than demanded, and only a download of the public one is compared with its sum.
"""

from __future__ import annotations

import io
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from noisyexp.data.download import RemoteFile, Source, download, is_offline, resolve
from noisyexp.data.progress import Counter
from noisyexp.errors import DataError
from noisyexp.fileio import check_regular, explain_read, sha256_file

ADDRESS = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
ARCHIVE = "flickr8k/Flickr8k_Dataset.zip"
ARCHIVE_MD5 = "f18a1e2920de5bd84dae7cf08ec78978"
"""Of the public archive of 1.1 GB; its publishers give no other sum."""
IMAGES = 8091
PER_IMAGE = 5
SPLIT_SIZES = {"train": 6000, "valid": 1000, "test": 1000}
_TIMEOUT_S = 30


def _text_bytes(name: str) -> bytes:
    """Member `name` of the public archive of captions and lists."""
    with urllib.request.urlopen(f"{ADDRESS}/Flickr8k_text.zip", timeout=_TIMEOUT_S) as response:
        archive = zipfile.ZipFile(io.BytesIO(response.read()))
    return archive.read(name)


def _text_file(name: str, size: int, sha256: str) -> RemoteFile:
    where = f"{ADDRESS}/Flickr8k_text.zip, member {name}"
    source = Source(where, partial(_text_bytes, name))
    return RemoteFile(f"flickr8k/{name}", sha256, size, (source,))


TEXT_FILES = {
    "captions": _text_file(
        "Flickr8k.token.txt", 3_395_237,
        "1e1f3a371ba1a1bf742e6930521c037e046b2bf3fcc2390ba8405e0301ed7689",
    ),
    "train": _text_file(
        "Flickr_8k.trainImages.txt", 154_678,
        "e330ddd5156a4c2d2e2b67bc587e70e588f2d132bd8a10dc54dcb71e58115d8e",
    ),
    "valid": _text_file(
        "Flickr_8k.devImages.txt", 25_801,
        "18ba829f47f6df1cb830bf7f0506e2ddf333818925299babbd1bbcaf50fdc504",
    ),
    "test": _text_file(
        "Flickr_8k.testImages.txt", 25_775,
        "c0924146c131458ceba45da59670fe9520eadce1e5cafffa16a817672a9b1f17",
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Flickr8k:
    """Captions and splits.

    Attributes:
        captions: by the image's file name, five each, as they are in the file.
        splits: file names of "train", "valid" and "test".
        files: SHA-256 by name under the data root.
    """

    captions: Mapping[str, Sequence[str]]
    splits: Mapping[str, Sequence[str]]
    files: dict[str, str]


def parse_captions(text: str) -> dict[str, list[str]]:
    """Captions by image from lines `<image>#<0..4>` TAB `<caption>`.

    Raises:
        ValueError: a line of another form.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        key, tab, caption = line.partition("\t")
        image, mark, index = key.rpartition("#")
        captions = found.setdefault(image, [])
        if not tab or not mark or index != str(len(captions)):
            raise ValueError(f"line {number}: {line[:60]!r} is not `<image>#<number>` TAB caption")
        captions.append(caption)
    return found


def load_flickr8k(root: Path, offline: bool | None = None) -> Flickr8k:
    """Captions and splits from `root`/flickr8k, downloaded there if they are missing.

    Args:
        root: data root.
        offline: never download; None asks the environment.

    Raises:
        DataError: a file is missing or not the right one; see `noisyexp.data.download.resolve`.
    """
    texts = {
        name: resolve(file, root, offline=offline).read_text("utf-8")
        for name, file in TEXT_FILES.items()
    }
    captions = parse_captions(texts["captions"])
    splits = {name: texts[name].split() for name in SPLIT_SIZES}
    return Flickr8k(captions, splits, {file.name: file.sha256 for file in TEXT_FILES.values()})


@dataclass(frozen=True, eq=False)
class ImageArchive:
    """The photographs.

    Attributes:
        path: the zip archive.
        sha256: of the archive.
        members: name in the archive by file name, in the order of the file names.
    """

    path: Path
    sha256: str
    members: Mapping[str, str]

    def read(self, names: Sequence[str]) -> list[bytes]:
        """Content of the images `names`.

        Raises:
            DataError: the archive is damaged there.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return [archive.read(self.members[name]) for name in names]
        except Exception as error:  # damaged, encrypted, packed by another method: almost anything
            raise DataError(
                f"{self.path}: images cannot be unpacked ({explain_read(error)}); it was left "
                "as it is.\n"
                f"{_advice()}"
            ) from error


def open_images(root: Path, offline: bool | None = None) -> ImageArchive:
    """The archive `root`/flickr8k/Flickr8k_Dataset.zip, downloaded (1.1 GB) if it is missing.

    Args:
        root: data root.
        offline: never download; None asks the environment.

    Raises:
        DataError: missing and not to be had, damaged, or without some of the 8,091 images.
    """
    path = root / ARCHIVE
    try:
        check_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        if is_offline() if offline is None else offline:
            raise DataError(
                f"{path}: the file is missing and downloads are off.\n{_advice()}"
            ) from None
        _download(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({explain_read(error)})") from error
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        said = f"{path}: {explain_read(error)}; it was left as it is.\n{_advice()}"
        raise DataError(said) from error
    members = {
        entry.rsplit("/", 1)[-1]: entry
        for entry in sorted(entries, key=lambda entry: entry.rsplit("/", 1)[-1])
        if entry.endswith(".jpg") and not entry.startswith("__MACOSX")
    }
    if len(members) != IMAGES:
        raise DataError(f"{path} holds {len(members):,} images of {IMAGES:,}.\n{_advice()}")
    return ImageArchive(path, sha256_file(path), members)


def _advice() -> str:
    return (
        f"Put an archive of the {IMAGES:,} images there yourself, or set the environment variable "
        f"NOISYEXP_DATA to the folder that contains {ARCHIVE}; it can be had from:\n"
        f"  {ADDRESS}/Flickr8k_Dataset.zip"
    )


def _download(path: Path) -> None:
    file = RemoteFile(ARCHIVE, "", None, (f"{ADDRESS}/Flickr8k_Dataset.zip",), md5=ARCHIVE_MD5)
    with Counter(f"{ARCHIVE} (1.1 GB)", "MB") as counter:
        download(
            file,
            path,
            timeout_s=_TIMEOUT_S,
            progress=lambda received, _: counter.add(received // 10**6 - counter.done),
        )
