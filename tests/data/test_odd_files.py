"""What lies where a data file should be: folders, pipes, archives that nobody here can read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from noisyexp.data import flickr8k, mnist
from noisyexp.data.download import RemoteFile, resolve
from noisyexp.data.flickr8k import ImageArchive, open_images
from noisyexp.data.mnist import MNIST_FILES
from noisyexp.errors import DataError

FILE = RemoteFile("set/file.bin", "0" * 64, 4, ())


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    def put(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if kind == "folder" else os.mkfifo(path)

    put(tmp_path / "set" / "file.bin")
    with pytest.raises(DataError, match=r"file\.bin: cannot be read .*not a file"):
        resolve(FILE, tmp_path, offline=False)
    file = MNIST_FILES["labels"]
    put(tmp_path / f"{file.name}.gz")
    with pytest.raises(DataError, match=r"gz: cannot be read .*not a file"):
        mnist._content(file, tmp_path, offline=False)
    put(tmp_path / flickr8k.ARCHIVE)
    with pytest.raises(DataError, match=r"zip: cannot be read .*not a file"):
        open_images(tmp_path, offline=False)


def test_a_mistyped_root_leaves_no_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no mirror gave the file"):
        resolve(FILE, tmp_path / "dtaa" / "x", offline=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError):
        resolve(FILE, tmp_path, offline=False)
    assert (tmp_path / "set").is_dir()  # it was there before


@pytest.mark.parametrize("call", [resolve, None])
def test_a_folder_that_may_not_be_read_gets_the_right_advice(
    call: Callable[..., Path] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(DataError, match="Permission denied; change the permissions"):
        resolve(FILE, tmp_path) if call else open_images(tmp_path)


def archive(path: Path, spoil: Callable[[bytearray, int, int], None]) -> ImageArchive:
    """A zip of one image whose two headers have been changed."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("Images/a.jpg", b"an image")
    content = bytearray(path.read_bytes())
    spoil(content, content.index(b"PK\3\4"), content.index(b"PK\1\2"))
    path.write_bytes(content)
    return ImageArchive(path, "0" * 64, {"a.jpg": "Images/a.jpg"})


def encrypt(content: bytearray, local: int, central: int) -> None:
    content[local + 6] |= 1
    content[central + 8] |= 1


def method(content: bytearray, local: int, central: int) -> None:
    content[local + 8] = content[central + 10] = 99


def name(content: bytearray, local: int, central: int) -> None:
    content[local + 7] |= 8  # the name is UTF-8, it says
    content[central + 9] |= 8
    content[local + 30] = content[central + 46] = 0xFF


@pytest.mark.parametrize("spoil", [encrypt, method, name])
def test_images_that_cannot_be_unpacked(
    spoil: Callable[[bytearray, int, int], None], tmp_path: Path
) -> None:
    path = tmp_path / flickr8k.ARCHIVE
    path.parent.mkdir()
    images = archive(path, spoil)
    with pytest.raises(DataError, match=r"images cannot be unpacked.*it was left as it is"):
        images.read(["a.jpg"])
    if spoil is name:
        with pytest.raises(DataError, match="it was left as it is"):
            open_images(tmp_path)
    assert images.path.is_file()
