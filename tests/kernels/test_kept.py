"""Compiled libraries in the cache: damage is repaired, and nobody waits in silence."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from noisyexp.kernels import build, kept
from noisyexp.places import cache_folder


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, int]]:
    """`find_or_make` with a compiler that writes 100 kB; gives the path and how often it ran."""
    monkeypatch.setenv("NOISYEXP_CACHE", str(tmp_path / "cache"))

    def call(again: bool = False, seconds: float = 0.0) -> tuple[Path, int]:
        made = 0

        def compile(target: Path) -> None:
            nonlocal made
            made += 1
            time.sleep(seconds)
            target.write_bytes(b"library" * 15_000)

        return kept.find_or_make("kernels-x.so", "a processor", compile, again), made

    return call


def test_made_once_and_again_when_it_is_not_whole(make: Callable[..., tuple[Path, int]]) -> None:
    path, made = make()
    assert made == 1 and path.read_bytes().startswith(b"library" * 15_000)
    whole = path.read_bytes()
    assert make() == (path, 0)
    flipped = bytearray(whole)
    flipped[50_000] ^= 1
    for damaged in (b"", b"\0", whole[:-1], whole[:50_000], whole + b"x", bytes(flipped)):
        path.write_bytes(damaged)
        assert make() == (path, 1)
        assert path.read_bytes() == whole
    path.unlink()
    os.mkfifo(path)
    assert make() == (path, 1)
    assert make(again=True) == (path, 1)
    assert sorted(os.listdir(path.parent)) == ["kernels-x.so", "lock"]


def test_a_cache_that_cannot_be_written_serves_this_process(
    make: Callable[..., tuple[Path, int]], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    path, made = make()
    assert made == 1 and path.is_file() and tmp_path not in path.parents


def test_two_processes_compile_once(
    make: Callable[..., tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(kept, "say", said.append)
    found: list[tuple[Path, int]] = []
    threads = [threading.Thread(target=lambda: found.append(make(seconds=0.3))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made for _, made in found) == [0, 1]
    assert said == ["another process compiles the kernels: waiting for it"]


def test_a_folder_for_each_user_and_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYEXP_CACHE", str(tmp_path))
    folder = kept.own_folder("one")
    assert f"-{os.getuid()}-" in folder.name and folder != kept.own_folder("another")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    monkeypatch.setattr(kept, "cache_folder", lambda: folder)
    with pytest.raises(PermissionError, match="another user"):
        kept.own_folder("one")


@pytest.mark.parametrize(("words", "rest"), [("gcc", []), ("env gcc -pipe", ["gcc", "-pipe"])])
def test_a_compiler_of_several_words(
    words: str, rest: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = build.library_name(build.compiler_command() or [])
    monkeypatch.setenv("CC", words)
    command = build.compiler_command()
    assert command is not None and command[1:] == rest and os.path.isabs(command[0])
    assert build._run([[*command, "--version"]]) is None
    assert rest == [] or build.library_name(command) != plain
    for given in ("no-such-compiler gcc", 'gcc "x'):
        monkeypatch.setenv("CC", given)
        with pytest.raises(build.BuildError, match=f"looked for {given}"):
            build.build()


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOISYEXP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_folder().name == f"noisyexp-{os.getuid()}"
    monkeypatch.undo()
    monkeypatch.setenv("NOISYEXP_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"


def test_a_truncated_library_does_not_kill_the_next_process(tmp_path: Path) -> None:
    """With the real library, whose pages a process would map: SIGBUS at the first call."""
    path = build.build()
    whole = path.read_bytes()
    folder = tmp_path / path.parent.name
    folder.mkdir()
    (folder / path.name).write_bytes(whole[:4096])
    code = (
        "from noisyexp.kernels import build, kept\n"
        "import ctypes, pathlib, sys\n"
        "build._compile = lambda command, target: target.write_bytes("
        f"pathlib.Path({str(path)!r}).read_bytes()[:-40])\n"
        "print(ctypes.CDLL(str(build.build())).struct_sizes is not None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NOISYEXP_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert (folder / path.name).read_bytes() == whole
