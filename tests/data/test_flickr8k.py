"""Flickr8k: the caption file by hand, archives of other images, a server, the real files."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from noisyexp.data import flickr8k as module
from noisyexp.data import progress
from noisyexp.data.flickr8k import load_flickr8k, open_images, parse_captions
from noisyexp.errors import DataError

NAMES = ["b.jpg", "a.jpg", "c.jpg"]


def archive_bytes(names: list[str], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file whose members hold their own names; the folder that the Mac adds as well."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(f"Flicker8k_Dataset/{name}"), name, method)
            archive.writestr(zipfile.ZipInfo(f"__MACOSX/Flicker8k_Dataset/._{name}"), "?")
    return out.getvalue()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An archive of three images, as many as there shall be."""
    monkeypatch.setattr(module, "IMAGES", 3)
    return archive_bytes(NAMES)


def put(root: Path, content: bytes) -> Path:
    path = root / "flickr8k" / "Flickr8k_Dataset.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_captions_by_hand() -> None:
    text = "x.jpg#0\tA dog .\nx.jpg#1\ttwo  dogs\ny.jpg.1#0\t#1 fan\n"
    assert parse_captions(text) == {"x.jpg": ["A dog .", "two  dogs"], "y.jpg.1": ["#1 fan"]}
    for bad in ("x.jpg#0 A dog .", "x.jpg\tA dog .", "x.jpg#1\tA dog ."):
        with pytest.raises(ValueError, match=r"line 1: .* is not"):
            parse_captions(bad)


def test_images_of_an_archive(small: bytes, tmp_path: Path) -> None:
    put(tmp_path, small)
    archive = open_images(tmp_path, offline=True)
    assert list(archive.members) == sorted(NAMES)
    assert archive.read(["c.jpg", "a.jpg"]) == [b"c.jpg", b"a.jpg"]
    assert archive.sha256 == hashlib.sha256(small).hexdigest()


def test_wrong_archives(small: bytes, tmp_path: Path) -> None:
    put(tmp_path, archive_bytes(NAMES[:2]))
    with pytest.raises(DataError, match="holds 2 images of 3"):
        open_images(tmp_path)
    path = put(tmp_path, small[:-30])
    with pytest.raises(DataError, match="it was left as it is"):
        open_images(tmp_path)
    assert path.read_bytes() == small[:-30]
    put(tmp_path, small.replace(b"a.jpg", b"z.jpg", 2).replace(b"z.jpg", b"a.jpg", 1))
    with pytest.raises(DataError, match="CRC"):
        open_images(tmp_path).read(["a.jpg"])
    packed = archive_bytes(["d.jpg" * 50, *NAMES[:2]], zipfile.ZIP_DEFLATED)
    start = packed.index(b"d.jpg" * 50) + 250
    put(tmp_path, packed[:start] + b"\xff\xff" + packed[start + 2 :])
    with pytest.raises(DataError, match="while decompressing"):
        open_images(tmp_path).read(["d.jpg" * 50])


def test_offline_says_which_file_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Flickr8k_Dataset\.zip: the file is missing") as caught:
        open_images(tmp_path, offline=True)
    assert "NOISYEXP_DATA" in str(caught.value) and module.ADDRESS in str(caught.value)
    with pytest.raises(DataError, match=r"Flickr8k\.token\.txt"):
        load_flickr8k(tmp_path, offline=True)


@pytest.fixture
def server(small: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Sends the small archive and one of captions; what it yields are headers."""
    headers: dict[str, str] = {}
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("Flickr8k.token.txt", "x")
    pages = {"/Flickr8k_Dataset.zip": small, "/Flickr8k_text.zip": text.getvalue()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(module, "ADDRESS", f"http://127.0.0.1:{http.server_address[1]}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield headers
    http.shutdown()
    thread.join()
    http.server_close()


def test_download(
    server: dict[str, str], small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="sent another file: MD5"):
        open_images(tmp_path, offline=False)
    server["Content-Length"] = str(len(small) + 5)
    with pytest.raises(DataError, match=f"stopped after {len(small)} of {len(small) + 5} bytes"):
        open_images(tmp_path, offline=False)
    del server["Content-Length"]
    server["Transfer-Encoding"] = "chunked"  # which this is not
    with pytest.raises(DataError, match="IncompleteRead"):
        open_images(tmp_path, offline=False)
    assert list(tmp_path.iterdir()) == []  # nothing half-written, no folder made for nothing
    server.clear()
    monkeypatch.setattr(module, "ARCHIVE_MD5", hashlib.md5(small).hexdigest())
    assert open_images(tmp_path, offline=False).path.read_bytes() == small
    assert module._text_bytes("Flickr8k.token.txt") == b"x"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written.*NOISYEXP_DATA"):
        open_images(tmp_path / "file", offline=False)


def test_progress_of_what_is_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.4 images a second are not 0; from 10 on a second whole ones will do."""
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Counter("x", "images", 1000) as counter:
        now += 5
        counter.add(2)
        now += 5
        counter.add(138)
    assert capsys.readouterr().err.splitlines()[:2] == [
        "x: 2 of 1,000 images, 0.4 images/s, 2,495 s left",
        "x: 140 of 1,000 images, 14 images/s, 61 s left",
    ]


def test_a_server_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="no mirror gave the file"):
        open_images(tmp_path, offline=False)
    assert list(tmp_path.iterdir()) == []


def test_the_real_files(data_root: Path) -> None:
    """Counts of the specification: words a caption in test and dev, shortest, longest, batches."""
    if not (data_root / "flickr8k").is_dir():
        pytest.skip(f"no Flickr8k under {data_root}")
    flickr, archive = load_flickr8k(data_root, offline=True), open_images(data_root)
    assert len(flickr.captions) == 8092 and len(archive.members) == 8091
    assert set(map(len, flickr.captions.values())) == {5}
    assert {k: len(v) for k, v in flickr.splits.items()} == module.SPLIT_SIZES
    names = [name for split in flickr.splits.values() for name in split]
    assert len(set(names)) == 8000 and set(names) < set(archive.members)
    assert set(flickr.captions) - set(archive.members) == {"2258277193_586949ec62.jpg.1"}
    lengths = {
        split: [len(c.split()) for image in images for c in flickr.captions[image]]
        for split, images in flickr.splits.items()
    }
    assert sum(lengths["test"]) / 5000 == pytest.approx(11.83, abs=0.02)
    assert sum(lengths["valid"]) / 5000 == pytest.approx(11.88, abs=0.02)
    assert (min(lengths["test"]), max(lengths["test"])) == (2, 34)
    words = Counter(w for name in names for c in flickr.captions[name] for w in c.lower().split())
    assert len(words) == 8807 and words.most_common(1)[0][0] == "a"
    (image,) = archive.read([names[0]])
    assert image[:2] == b"\xff\xd8"  # a JPEG
