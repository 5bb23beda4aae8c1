"""Downloads against a server on this machine that can send, cut short, stall or lie."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from noisyexp.data.download import RemoteFile, Source, resolve
from noisyexp.errors import DataError

CONTENT = bytes(range(256)) * 1000  # four blocks of 64 KiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/gone":
            self.send_error(404)
            return
        body = {"/other": CONTENT[::-1], "/long": CONTENT + b"x"}.get(self.path, CONTENT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/stall":
            self.wfile.write(body[:1000])
            self.wfile.flush()
            self.server.released.wait(10)  # type: ignore[attr-defined]
        else:
            self.wfile.write(body[:100_000] if self.path == "/short" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    for name in ("NOISYEXP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.released = [], threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def remote(server: ThreadingHTTPServer | None, *pages: str) -> RemoteFile:
    port = server.server_address[1] if server else 9
    mirrors = tuple(f"http://127.0.0.1:{port}/{page}" for page in pages)
    return RemoteFile("set/file.bin", SHA256, len(CONTENT), mirrors)


def files_under(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_good_file_is_downloaded_once(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = resolve(remote(server, "good"), tmp_path, progress=lambda *step: seen.append(step))
    assert path == tmp_path / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert seen[-1] == (256_000, 256_000)
    assert [got for got, _ in seen] == sorted({got for got, _ in seen})
    assert resolve(remote(server, "good"), tmp_path) == path
    assert server.requests == ["/good"]  # type: ignore[attr-defined]
    assert files_under(tmp_path) == ["set/file.bin"]


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("other", f"SHA-256 {hashlib.sha256(CONTENT[::-1]).hexdigest()}, expected {SHA256}"),
        ("short", "stopped after 100,000 of 256,000 bytes"),
        ("long", "more than the 256,000 bytes expected"),
        ("gone", "404"),
        ("stall", "timed out"),
    ],
)
def test_bad_mirror_is_named_and_nothing_stays(
    server: ThreadingHTTPServer, tmp_path: Path, page: str, reason: str
) -> None:
    file = remote(server, page)
    with pytest.raises(DataError) as caught:
        resolve(file, tmp_path, timeout_s=0.3)
    message = str(caught.value)
    assert f"{file.mirrors[0]}: " in message
    assert reason in message
    assert str(tmp_path / "set" / "file.bin") in message
    assert files_under(tmp_path) == []


def test_next_mirror_is_tried_in_order(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    good = remote(server, "gone", "other", "short", "good", "never")
    dead = "http://127.0.0.1:9/refused"
    file = RemoteFile(good.name, SHA256, len(CONTENT), (dead, *good.mirrors))
    assert resolve(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["/gone", "/other", "/short", "/good"]  # type: ignore[attr-defined]
    assert files_under(tmp_path) == ["set/file.bin"]


def test_final_error_lists_each_mirror_with_its_reason(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    def broken() -> bytes:
        raise RuntimeError("library is broken\nlong traceback")

    file = remote(server, "gone", "short")
    file = RemoteFile(file.name, SHA256, len(CONTENT), (*file.mirrors, Source("the Hub", broken)))
    with pytest.raises(DataError) as caught:
        resolve(file, tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith(f"  {file.mirrors[0]}: HTTPError: HTTP Error 404")
    assert lines[2] == f"  {file.mirrors[1]}: stopped after 100,000 of 256,000 bytes"
    assert lines[3] == "  the Hub: RuntimeError: library is broken"


def test_source_is_checked_like_an_address(tmp_path: Path) -> None:
    wrong, right = Source("wrong", lambda: CONTENT[:-1] + b"?"), Source("right", lambda: CONTENT)
    file = RemoteFile("file.bin", SHA256, len(CONTENT), (wrong, right))
    assert resolve(file, tmp_path, offline=False).read_bytes() == CONTENT
    assert files_under(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("variable", ["NOISYEXP_OFFLINE", "HF_HUB_OFFLINE", None])
def test_offline_says_what_to_put_where(
    server: ThreadingHTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    file = remote(server, "good")
    with pytest.raises(DataError) as caught:
        resolve(file, tmp_path / "new", offline=None if variable else True)
    message = str(caught.value)
    for part in (str(tmp_path / "new" / "set" / "file.bin"), SHA256, "256,000 bytes",
                 str(file.mirrors[0]), "NOISYEXP_DATA", "set/file.bin"):  # fmt: skip
        assert part in message
    assert server.requests == []  # type: ignore[attr-defined]
    assert not (tmp_path / "new").exists()


def test_offline_false_overrides_the_environment(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYEXP_OFFLINE", "1")
    assert resolve(remote(server, "good"), tmp_path, offline=False).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "kind"),
    [(CONTENT[:1000], "cut short"), (CONTENT[::-1], "not the file"), (b"", "cut short")],
)
def test_wrong_local_file_is_an_error_and_left_alone(
    server: ThreadingHTTPServer, tmp_path: Path, content: bytes, kind: str
) -> None:
    target = tmp_path / "set" / "file.bin"
    target.parent.mkdir()
    target.write_bytes(content)
    with pytest.raises(DataError) as caught:
        resolve(remote(server, "good"), tmp_path)
    message = str(caught.value)
    for part in (kind, str(target), "256,000 bytes", f"{len(content):,} bytes", SHA256,
                 hashlib.sha256(content).hexdigest(), "Delete it and run again"):  # fmt: skip
        assert part in message
    assert target.read_bytes() == content
    assert server.requests == []  # type: ignore[attr-defined]
    assert files_under(tmp_path) == ["set/file.bin"]


def test_read_only_root_is_enough_when_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "set" / "file.bin"
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    target.chmod(0o444)
    target.parent.chmod(0o555)
    before = target.parent.stat().st_mtime_ns

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a temporary file was made")

    # The administrator may write anywhere, so the mode alone would not notice.
    monkeypatch.setattr(tempfile, "mkstemp", forbidden)
    try:
        assert resolve(remote(None, "good"), tmp_path, offline=True) == target
        assert target.parent.stat().st_mtime_ns == before
    finally:
        target.parent.chmod(0o755)


def test_root_that_cannot_be_written_is_named(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot be written.*NOISYEXP_DATA"):
        resolve(remote(server, "good"), tmp_path / "file")


def test_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "set" / "file.bin").mkdir(parents=True)
    with pytest.raises(DataError, match=r"file\.bin: cannot be read"):
        resolve(remote(None, "good"), tmp_path, offline=True)


def test_interrupted_download_leaves_nothing(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    during: list[list[str]] = []

    def interrupt(received: int, expected: int) -> None:
        during.append(files_under(tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(remote(server, "good"), tmp_path, progress=interrupt)
    assert len(during) == 1 and during[0][0].endswith(".part")
    assert files_under(tmp_path) == []


def test_two_downloads_at_once_do_not_break_each_other(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    both = threading.Barrier(2, timeout=10)
    results: list[bytes] = []

    def wait_for_the_other(received: int, expected: int) -> None:
        if received == expected:
            both.wait()

    def work() -> None:
        path = resolve(remote(server, "good"), tmp_path, progress=wait_for_the_other)
        results.append(path.read_bytes())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT, CONTENT]
    assert len(server.requests) == 2  # type: ignore[attr-defined]
    assert files_under(tmp_path) == ["set/file.bin"]
