"""Random command lines, damaged folders and files: never a traceback, never a wrong end.

Seconds each in the suite. For hours: NOISYEXP_FUZZ=100 pytest -m slow -s tests/fuzz multiplies the
counts of the slow form by 100; NOISYEXP_FUZZ_SEED=n takes other draws.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_calls import MIXTURE, SEED, call, counts, judge, numbers, settle_torch
from fuzz_damage import replace, spoil, spoil_json
from fuzz_hydra import remember
from fuzz_lines import line

from noisyexp.cli import compose as compose_module
from noisyexp.cli import run as run_module
from noisyexp.cli.config_files import ConfigFileError, ConfigFiles
from noisyexp.data.download import RemoteFile, resolve
from noisyexp.data.flickr8k import ImageArchive, parse_captions
from noisyexp.data.mnist import MNIST_FILES, _content, parse_idx
from noisyexp.data.moses import read_pieces
from noisyexp.data.parallel import _keep, _kept, encode_lines
from noisyexp.errors import CheckpointError, DataError, RecordError
from noisyexp.kernels import kept
from noisyexp.places import CHECKOUT
from noisyexp.records.record_files import load_record
from noisyexp.records.yaml_file import read_yaml
from noisyexp.training import checkpoint


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own; Hydra's files are merged once; torch's settings are put back."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    remember(monkeypatch)
    yield
    settle_torch(threads)


SAMPLE = 200
"""Of so many lines one goes through an interpreter of its own, too."""


def in_a_process(what: str, words: list[str], failures: list[str]) -> None:
    """A line that is refused, as a person gives it."""
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "run.py"), *words],
        capture_output=True, timeout=300, errors="replace", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 2 or "Traceback" in done.stderr:
        failures.append(f"{what}, in a process: {done.returncode}: {done.stderr[-1500:]}")
        print(failures[-1], flush=True)


@counts(15, 10_000)
def test_command_lines(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks of a command line; the runs themselves are left out."""
    with compose_module.hydra_session():
        keys = compose_module.keys_of("task=mixture")
    monkeypatch.setattr(run_module, "run_one", lambda spec: 0)
    monkeypatch.setattr(run_module, "_sweep", lambda argv, specs, unused: 0)
    draw, found, processes = random.Random(f"lines {SEED}"), Counter[Any](), 0
    failures: list[str] = []
    for number in range(count):
        words = line(draw, keys)
        what = f"line {number}: {words}"
        code = judge(what, words, failures)[0]
        found[code] += 1
        # A zero byte cannot be given to a process.
        if code == 2 and number >= SAMPLE * (processes + 1) and "\0" not in "".join(words):
            in_a_process(what, words, failures)
            processes += 1
        if number % 100 == 99:
            print(f"{number + 1} command lines: {dict(found)}, {processes} of them in a process, "
                  f"{len(failures)} failures", flush=True)  # fmt: skip
    assert not failures


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A finished run, the same one interrupted, and another run."""
    made = {}
    for name, more in (("whole", []), ("half", []), ("other", ["act.alpha=0.9"])):
        words = [*MIXTURE, *more, f"run_root={tmp_path / name}"]
        if name == "half":
            real = checkpoint.Checkpoint.on_epoch_recorded

            def stop(self: Any, trainer: Any, real: Any = real) -> None:
                real(self, trainer)
                if trainer.epoch == 2:
                    raise KeyboardInterrupt

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(checkpoint.Checkpoint, "on_epoch_recorded", stop)
                assert call(words)[0] == 130
        else:
            assert call(words)[0] == 0
        made[name] = next((tmp_path / name / "mixture").iterdir())
    return made


@counts(25, 1_000)
def test_damaged_run_folders(count: int, runs: dict[str, Path], tmp_path: Path) -> None:
    """The same command on a damaged folder ends with the right numbers, or says why not."""
    truth, others = numbers(runs["whole"]), list(runs["other"].iterdir())
    draw, found = random.Random(f"folders {SEED}"), Counter[Any]()
    failures: list[str] = []
    for number in range(count):
        source = runs[draw.choice(("whole", "half", "half"))]
        folder = tmp_path / "damaged" / "mixture" / source.name
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(source, folder)
        names = sorted(path.name for path in folder.iterdir())
        done = [
            (name, replace(draw, folder / name, others))
            for name in draw.sample(names, draw.choice((1, 1, 2, 3)))
        ]
        what = f"folder {number}: {done}"
        code, text = judge(what, [*MIXTURE, f"run_root={tmp_path / 'damaged'}"], failures)
        assert not (folder.parent / "nope").exists(), f"{what}: written through a link"
        if code == 0 and numbers(folder) != truth:
            failures.append(f"{what}: wrong numbers: {text[-500:]}")
            print(failures[-1], flush=True)
        found[code] += 1
        if number % 50 == 49:
            print(f"{number + 1} folders: {dict(found)}, {len(failures)} failures", flush=True)
    assert not failures


@counts(20, 1_000)
def test_damaged_records(count: int, runs: dict[str, Path], tmp_path: Path) -> None:
    """One value of a record is another: it is refused, whatever the value says."""
    whole = (runs["whole"] / "run.json").read_bytes()
    truth, path = json.loads(whole), tmp_path / "run.json"
    draw, found = random.Random(f"records {SEED}"), Counter[str]()
    for number in range(count):
        damaged = spoil(draw, whole) if draw.random() < 0.3 else spoil_json(draw, whole)
        path.write_bytes(damaged)
        try:
            load_record(path)
            same = json.loads(damaged)
            same["digest"] = truth["digest"]  # one that lost it is one of an older version
            assert same == truth, f"record {number} was taken"
            found["taken"] += 1
        except RecordError as error:
            assert "run.json" in str(error)
            found["refused"] += 1
    assert count < 50 or found["refused"] > 0.9 * count
    print(f"{count} damaged records: {dict(found)}")


@counts(60, 3_000)
def test_damaged_files(count: int, tmp_path: Path) -> None:
    """Every reader takes what is right and refuses the rest with the error that it names."""
    state = {"w": torch.arange(50.0), "step": 3}
    checkpoint.save(state, tmp_path / "last.pt")
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"an image " * 30)
    side = encode_lines(["a b c", "b c d e", "a a"] * 9, 6)
    _keep(side, tmp_path / "ids")
    library = tmp_path / "kernels.so"
    library.write_bytes(b"library" * 99)
    kept.seal(library)
    images = ImageArchive(tmp_path / "images.zip", "", {"a.jpg": "a.jpg"})
    configs = ConfigFiles("own", f"file://{tmp_path}")
    file = RemoteFile("data.bin", "0" * 64, 40, ())
    (tmp_path / "data.bin").write_bytes(b"x" * 40)
    labels = tmp_path / f"{MNIST_FILES['labels'].name}.gz"
    labels.parent.mkdir()
    labels.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x02ab"))
    (tmp_path / "piece.gz").write_bytes(labels.read_bytes())

    def idx(path: Path) -> Any:
        return parse_idx(path.read_bytes())

    (tmp_path / "idx").write_bytes(b"\0\0\x08\x01\0\0\0\x02ab")
    (tmp_path / "mine.yaml").write_text("# @package act\nlabel: Mine\nsettings: {a: [1, 2e-3]}\n")
    (tmp_path / "captions").write_bytes(b"a.jpg#0\ta dog\na.jpg#1\ttwo dogs\n")
    readers: list[tuple[Path, Callable[[Path], Any], tuple[type[Exception], ...]]] = [
        (tmp_path / "last.pt", checkpoint.load, (CheckpointError,)),
        (tmp_path / "images.zip", lambda _: images.read(["a.jpg"]), (DataError,)),
        (tmp_path / "data.bin", lambda _: resolve(file, tmp_path, offline=True), (DataError,)),
        (labels, lambda _: _content(MNIST_FILES["labels"], tmp_path, True), (DataError,)),
        (tmp_path / "piece.gz", lambda path: list(read_pieces([path])), (DataError,)),
        (tmp_path / "idx", idx, (ValueError,)),
        (tmp_path / "captions", lambda p: parse_captions(p.read_text("utf-8")), (ValueError,)),
        (library, kept.is_whole, ()),
        (tmp_path / "mine.yaml", read_yaml, (RecordError,)),
        (tmp_path / "mine.yaml", lambda _: configs.load_config("mine"), (ConfigFileError,)),
        *((tmp_path / "ids" / f"{name}.npy", lambda p: _kept(p.parent).lengths.sum(), (
            OSError, EOFError, ValueError, RuntimeError)) for name in ("ids", "starts")),
    ]  # fmt: skip
    draw, found = random.Random(f"files {SEED}"), Counter[str]()
    for number in range(count):
        path, read, refusals = draw.choice(readers)
        whole = path.read_bytes()
        path.write_bytes(spoil(draw, whole))
        try:
            read(path)
            found["read"] += 1
        except refusals:
            found["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"file {number}: {path.name} raised {error!r}") from error
        finally:
            path.write_bytes(whole)
    assert count < 50 or found["refused"] > count / 4
    print(f"{count} damaged files: {dict(found)}")
