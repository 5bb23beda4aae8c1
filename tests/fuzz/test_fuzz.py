"""Random command lines, damaged folders and files, and kills: never a traceback, never a wrong end.

Seconds each in the suite. For hours: NOISYEXP_FUZZ=100 pytest -m slow -s tests/fuzz multiplies the
counts of the slow form by 100; NOISYEXP_FUZZ_SEED=n takes other draws.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import io
import json
import os
import random
import shutil
import signal
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_damage import replace, spoil
from fuzz_lines import line
from hydra import compose
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from noisyexp.cli import compose as compose_module
from noisyexp.cli import run as run_module
from noisyexp.data.download import RemoteFile, resolve
from noisyexp.data.flickr8k import ImageArchive, parse_captions
from noisyexp.data.mnist import MNIST_FILES, _content, parse_idx
from noisyexp.data.moses import read_pieces
from noisyexp.data.parallel import _keep, _kept, encode_lines
from noisyexp.errors import CheckpointError, DataError
from noisyexp.kernels import kept
from noisyexp.training import checkpoint

SEED = int(os.environ.get("NOISYEXP_FUZZ_SEED", "0"))
TIMES = float(os.environ.get("NOISYEXP_FUZZ", "1"))
BOUND = 30.0
"""Seconds of processor time for one command."""
ENDS = (0, 1, 2)


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """A few for the suite, many by name."""
    slow = pytest.param(int(many * TIMES), marks=pytest.mark.slow)
    return pytest.mark.parametrize("count", [few, slow])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own; Hydra's files are read once; torch's settings are put back."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    monkeypatch.setattr(OmegaConf, "load", _load)
    # Hydra copies all of its own schemas for every question; nothing writes to them.
    monkeypatch.setattr(ConfigStore, "__deepcopy__", lambda self, memo: self, raising=False)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


_create = functools.cache(OmegaConf.create)


def _load(file: Any) -> Any:
    """`OmegaConf.load`, which reads some twenty files for every command."""
    text = Path(file).read_text("utf-8") if isinstance(file, str | Path) else file.read()
    return copy.deepcopy(_create(text))


def call(words: list[str]) -> tuple[Any, str, float]:
    """Exit status of a command line, what it printed, seconds of processor time."""
    out, began = io.StringIO(), time.process_time()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        code: Any = run_module.main(words)
    return code, out.getvalue(), time.process_time() - began


def judge(what: str, words: list[str], failures: list[str]) -> tuple[Any, str]:
    """Call a command line; what it must never do goes to `failures`."""
    try:
        code, text, seconds = call(words)
    except BaseException as error:
        code, text, seconds = repr(error), "", 0.0
    if code not in ENDS or "Traceback" in text or seconds >= BOUND:
        failures.append(f"{what}: {code}, {seconds:.0f} s: {text[-1500:]}")
        print(failures[-1], flush=True)
    return code, text


@counts(15, 10_000)
def test_command_lines(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks of a command line; the runs themselves are left out."""
    with compose_module.hydra_session():
        config = compose("config", overrides=["task=mixture"], return_hydra_config=True)
        keys = list(compose_module._dotted(config))
    monkeypatch.setattr(run_module, "run_one", lambda spec: 0)
    monkeypatch.setattr(run_module, "_sweep", lambda argv, specs: 0)
    draw, found = random.Random(f"lines {SEED}"), Counter[Any]()
    failures: list[str] = []
    for number in range(count):
        words = line(draw, keys)
        code = judge(f"line {number}: {words}", words, failures)[0]
        found[code] += 1
        if number % 100 == 99:
            print(
                f"{number + 1} command lines: {dict(found)}, {len(failures)} failures", flush=True
            )
    assert not failures


RUN = ["task=mixture", "scale=smoke", "progress=off", "threads=1", "task.train_size=64",
       "task.batch_size=16", "task.valid_size=20", "task.test_size=20", "training.epochs=3",
       "checkpoint.every_steps=2", "logger.every_steps=1", "training.use_weights=best"]  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A finished run, the same one interrupted, and another run."""
    made = {}
    for name, more in (("whole", []), ("half", []), ("other", ["act.alpha=0.9"])):
        words = [*RUN, *more, f"run_root={tmp_path / name}"]
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


def numbers(folder: Path) -> Any:
    """What a run has found: the chosen row, and the weights of its last checkpoint."""
    record = json.loads((folder / "run.json").read_text())
    return record["status"], {k: v for k, v in record["final"].items() if "test" not in k}


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
        code, text = judge(what, [*RUN, f"run_root={tmp_path / 'damaged'}"], failures)
        if code == 0 and numbers(folder) != truth:
            failures.append(f"{what}: wrong numbers: {text[-500:]}")
            print(failures[-1], flush=True)
        found[code] += 1
        if number % 50 == 49:
            print(f"{number + 1} folders: {dict(found)}, {len(failures)} failures", flush=True)
    assert not failures


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
    file = RemoteFile("data.bin", "0" * 64, 40, ())
    (tmp_path / "data.bin").write_bytes(b"x" * 40)
    labels = tmp_path / f"{MNIST_FILES['labels'].name}.gz"
    labels.parent.mkdir()
    labels.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x02ab"))
    (tmp_path / "piece.gz").write_bytes(labels.read_bytes())

    def idx(path: Path) -> Any:
        return parse_idx(path.read_bytes())

    (tmp_path / "idx").write_bytes(b"\0\0\x08\x01\0\0\0\x02ab")
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


@counts(4, 200)
def test_kills(count: int, runs: dict[str, Path], tmp_path: Path) -> None:
    """A process killed at any moment; the same command goes on to the same bits."""
    truth = numbers(runs["whole"])
    weights = checkpoint.load(runs["whole"] / "last.pt")
    draw, killed, finished = random.Random(f"kills {SEED}"), 0, 0
    words = [*RUN, f"run_root={tmp_path / 'killed'}"]
    folder = tmp_path / "killed" / "mixture" / runs["whole"].name
    shutil.rmtree(tmp_path / "killed", ignore_errors=True)
    began = time.monotonic()
    call([*RUN, f"run_root={tmp_path / 'timed'}"])
    whole_time = time.monotonic() - began
    while killed < count:
        child = os.fork()  # torch is loaded, and has started no thread: OMP_NUM_THREADS=1
        if child == 0:
            code = 99
            with contextlib.suppress(BaseException):
                code, text, _ = call(words)
                (tmp_path / "said").write_text(text)
            os._exit(code)
        time.sleep(draw.uniform(0, 1.2 * whole_time))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            killed += 1
            continue
        assert os.WEXITSTATUS(status) == 0, (status, (tmp_path / "said").read_text())
        assert numbers(folder) == truth
        state = checkpoint.load(folder / "last.pt")
        assert checkpoint.digest(state["model"]) == checkpoint.digest(weights["model"])
        assert checkpoint.digest(state["optimizer"]) == checkpoint.digest(weights["optimizer"])
        finished += 1
        shutil.rmtree(tmp_path / "killed")
    assert call(words)[0] == 0 and numbers(folder) == truth
    print(f"{killed} kills, {finished + 1} runs finished with the same bits")
