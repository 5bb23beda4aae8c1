"""MNIST: the IDX format by hand-made bytes, packed and unpacked files, mirrors, the real files."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from noisyexp.data import download
from noisyexp.data import mnist as module
from noisyexp.data.download import RemoteFile
from noisyexp.data.mnist import MNIST, MNIST_FILES, hub_bytes, load_mnist, parse_idx
from noisyexp.errors import DataError

# Counts of the digits 0 ... 9.
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
# The published MD5 sums of the unpacked originals.
MD5 = {
    "images": "6bbc9ace898e44ae57da46a324031adb", "labels": "a25bea736e30d166cdddb491f175f624",
    "test_images": "2646ac647ad5339dbf082846283269ea",
    "test_labels": "27ae3e4e09519cfbb04c329615203637",
}  # fmt: skip


def idx(*shape: int, start: int = 0) -> bytes:
    """An IDX file whose bytes count up from `start`."""
    size = int(np.prod(shape))
    header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return header + bytes((start + k) % 256 for k in range(size))


# --- the format


def test_idx_by_hand() -> None:
    found = parse_idx(bytes.fromhex("0000080200000002000000030001020a0bff"))
    assert found.dtype == torch.uint8
    assert found.tolist() == [[0, 1, 2], [10, 11, 255]]
    assert parse_idx(idx(7)).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (bytes.fromhex("00000d01") + bytes(8), "starts with 00000d01"),  # floats
        (bytes.fromhex("01000801") + bytes(8), "no IDX file"),
        (bytes.fromhex("00000803") + bytes(4), "header of 16 bytes was cut short after 8"),
        (idx(2, 3)[:-1], r"shape \(2, 3\) in the header, but 5 bytes follow"),
        (idx(2, 3) + b"x", r"7 bytes follow"),
    ],
)
def test_bad_idx(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_idx(content)


# --- files of five and two images


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A data set of the same four files in small, with its checksums, no mirrors."""
    made = {
        "images": idx(5, 28, 28), "labels": idx(5), "test_images": idx(2, 28, 28, start=9),
        "test_labels": idx(2, start=3),
    }  # fmt: skip
    files = {
        name: RemoteFile(MNIST_FILES[name].name, hashlib.sha256(c).hexdigest(), len(c), ())
        for name, c in made.items()
    }
    monkeypatch.setattr(module, "MNIST_FILES", files)
    return made


def put(root: Path, contents: dict[str, bytes], packed: bool) -> None:
    (root / "mnist").mkdir()
    for name, content in contents.items():
        path = root / module.MNIST_FILES[name].name
        if packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)


@pytest.mark.parametrize("packed", [True, False])
def test_packed_and_unpacked_files(
    packed: bool, contents: dict[str, bytes], tmp_path: Path
) -> None:
    put(tmp_path, contents, packed)
    found = load_mnist(tmp_path, offline=True)
    assert found.images.shape == (5, 784) and found.test_images.shape == (2, 784)
    assert found.images[1, :3].tolist() == [16, 17, 18]  # 784 = 3 * 256 + 16
    assert found.labels.tolist() == [0, 1, 2, 3, 4] and found.labels.dtype == torch.int64
    assert found.test_labels.tolist() == [3, 4]
    # The same sums whether packed or not: they are those of the content.
    assert found.files["mnist/train-labels-idx1-ubyte"] == (
        hashlib.sha256(contents["labels"]).hexdigest()
    )


def test_another_packed_file_is_refused(contents: dict[str, bytes], tmp_path: Path) -> None:
    put(tmp_path, contents | {"labels": idx(5, start=1)}, packed=True)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    before = path.read_bytes()
    with pytest.raises(DataError) as caught:
        load_mnist(tmp_path, offline=True)
    for part in (
        str(path),
        hashlib.sha256(contents["labels"]).hexdigest(),
        hashlib.sha256(idx(5, start=1)).hexdigest(),
        "Delete it and run again",
    ):
        assert part in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"no gzip", lambda b: b[:12]])
def test_damaged_packed_file(damage, contents: dict[str, bytes], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    put(tmp_path, contents, packed=True)
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be unpacked"):
        load_mnist(tmp_path, offline=True)


def test_missing_files_offline(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_mnist(tmp_path, offline=True)
    for part in (
        "train-images-idx3-ubyte", "47,040,016 bytes", "ossci-datasets", "may stay packed",
        "ylecun/mnist",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --- mirrors


@pytest.fixture
def server(contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The archive's address on this machine; gives the paths that were asked for."""
    packed = {
        f"/{MNIST_FILES[name].name.removeprefix('mnist/')}.gz": gzip.compress(content)
        for name, content in contents.items()
    }
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(packed[self.path])

        def log_message(self, format: str, *args: object) -> None:
            pass

    for name in ("NOISYEXP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(module, "ADDRESS", f"http://127.0.0.1:{running.server_address[1]}")
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield asked
    running.shutdown()
    thread.join()
    running.server_close()


def test_download_is_kept_unpacked(
    server: list[str],
    contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {
        name: RemoteFile(file.name, file.sha256, file.size, MNIST_FILES[name].mirrors[:1])
        for name, file in module.MNIST_FILES.items()
    }
    monkeypatch.setattr(module, "MNIST_FILES", files)
    for _ in range(2):
        assert load_mnist(tmp_path).labels.tolist() == [0, 1, 2, 3, 4]
    assert len(server) == 4  # nothing is downloaded twice
    kept = {path.name: path.read_bytes() for path in (tmp_path / "mnist").iterdir()}
    assert kept == {files[name].name[6:]: content for name, content in contents.items()}


def fake_hub(monkeypatch: pytest.MonkeyPatch, columns: dict[tuple[str, str], list[object]]) -> None:
    """Replace the data-set library; its import takes seconds and it would go to the network."""

    class Rows:
        def __init__(self, split: str) -> None:
            self.split = split

        def __getitem__(self, column: str) -> list[object]:
            return columns[self.split, column]

    def load_dataset(name: str, *, split: str) -> Rows:
        assert name == "ylecun/mnist"
        return Rows(split)

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(download.socket, "getaddrinfo", lambda *address: [])


def test_hub_rows_give_the_original_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(3 * 784, dtype=np.uint32).reshape(3, 28, 28) % 256
    fake_hub(
        monkeypatch,
        {("test", "image"): list(pixels.astype(np.uint8)), ("test", "label"): [0, 1, 2]},
    )
    assert hub_bytes("test", "image") == idx(3, 28, 28)
    assert hub_bytes("test", "label") == idx(3)


# --- the real files


@pytest.fixture(scope="session")
def real(data_root: Path) -> MNIST:
    if not (data_root / "mnist").is_dir():
        pytest.skip(f"no MNIST under {data_root}")
    return load_mnist(data_root, offline=True)


def test_counts(real: MNIST) -> None:
    assert real.images.shape == (60_000, 784) and real.test_images.shape == (10_000, 784)
    assert real.images.dtype == real.test_images.dtype == torch.uint8
    assert torch.bincount(real.labels).tolist() == TRAIN_COUNTS
    assert torch.bincount(real.test_labels).tolist() == TEST_COUNTS
    assert real.labels[:5].tolist() == [5, 0, 4, 1, 9]
    # Mean and deviation that every tutorial normalises with.
    pixels = real.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)


def test_published_checksums(real: MNIST) -> None:
    """The content is that of the originals, by another sum than the loader's own."""
    arrays = {
        "images": real.images.view(-1, 28, 28), "labels": real.labels.to(torch.uint8),
        "test_images": real.test_images.view(-1, 28, 28),
        "test_labels": real.test_labels.to(torch.uint8),
    }  # fmt: skip
    for name, array in arrays.items():
        shape = tuple(array.shape)
        header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        content = header + array.numpy().tobytes()
        assert hashlib.md5(content).hexdigest() == MD5[name]
        assert len(content) == MNIST_FILES[name].size
        assert real.files[MNIST_FILES[name].name] == hashlib.sha256(content).hexdigest()


def test_hub_gives_the_same_files(real: MNIST, monkeypatch: pytest.MonkeyPatch) -> None:
    images = real.test_images.view(-1, 28, 28).numpy()
    columns = {
        ("test", "image"): list(images), ("test", "label"): real.test_labels.tolist(),
    }  # fmt: skip
    fake_hub(monkeypatch, columns)
    for name, column in (("test_images", "image"), ("test_labels", "label")):
        found = hashlib.sha256(hub_bytes("test", column)).hexdigest()
        assert found == MNIST_FILES[name].sha256
