"""Checkpoint files: round trip, damage, and a death at every moment of writing one."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp import fileio
from noisyexp.errors import CheckpointError
from noisyexp.training import Trainer, checkpoint
from noisyexp.training.checkpoint import (
    Checkpoint,
    ForeignCheckpointError,
    load,
    load_newest,
    save,
)


def state(value: float) -> dict[str, Any]:
    return {"w": torch.full((100,), value), "step": 3, "names": ["a", None], "nested": {"x": 0.1}}


def test_round_trip_holds_only_plain_types(tmp_path: Path) -> None:
    save(state(1.5), tmp_path / "a.pt")
    raw = torch.load(tmp_path / "a.pt", weights_only=True)
    assert raw["format"] == 2
    loaded = load(tmp_path / "a.pt")
    assert torch.equal(loaded["w"], torch.full((100,), 1.5))
    assert (loaded["step"], loaded["names"], loaded["nested"]) == (3, ["a", None], {"x": 0.1})
    assert os.listdir(tmp_path) == ["a.pt"]


def cut(data: bytearray) -> bytearray:
    return data[: len(data) // 2]


def flip(data: bytearray) -> bytearray:
    start = data.find(state(1.0)["w"].numpy().tobytes())
    assert start > 0
    data[start + 200] ^= 0x10
    return data


@pytest.mark.parametrize("spoil", [cut, flip, lambda data: bytearray(), lambda data: data[::-1]])
def test_damage_is_an_error_that_names_the_file(
    spoil: Callable[[bytearray], bytearray], tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    save(state(1.0), path)
    path.write_bytes(spoil(bytearray(path.read_bytes())))
    with pytest.raises(CheckpointError, match="damaged") as error:
        load(path)
    assert str(path) in str(error.value)


def test_another_format_is_an_error(tmp_path: Path) -> None:
    torch.save({"format": 3}, tmp_path / "a.pt")
    torch.save(torch.zeros(1), tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="not of format 1"):
            load(tmp_path / name)


def test_what_was_changed_after_it_was_written_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(state(1.0), path)
    content = torch.load(path, weights_only=True)
    for change in ({"step": 4}, {"w": torch.full((100,), 1.5)}, {"names": ["a"]}, {"digest": ""}):
        torch.save({**content, **change}, path)
        with pytest.raises(CheckpointError, match="damaged: it was changed"):
            load(path)
    torch.save(content, path)
    assert load(path)["step"] == 3


def test_digest_tells_values_types_and_shapes_apart() -> None:
    values: list[Any] = [
        0, False, 0.0, -0.0, "0", None, [], {}, [0], [[0]], {"a": 0}, {"b": 0}, float("nan"),
        torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int32), -torch.zeros(2),
        torch.zeros(()), torch.zeros(0), torch.zeros(2, dtype=torch.bfloat16),
    ]  # fmt: skip
    assert len({checkpoint.digest(value) for value in values}) == len(values)
    turned = torch.arange(6.0).view(2, 3).T
    assert checkpoint.digest(turned) == checkpoint.digest(turned.contiguous())


def test_another_runs_checkpoint_is_refused_and_nothing_takes_its_place(tmp_path: Path) -> None:
    save(state(1.0), tmp_path / "last.pt", "aaa")
    save(state(2.0), tmp_path / "previous.pt", "bbb")
    assert load_newest(tmp_path, config_hash="aaa") is not None
    with pytest.raises(ForeignCheckpointError, match=r"last\.pt is of another run.*aaa.*bbb"):
        load_newest(tmp_path, config_hash="bbb")
    (tmp_path / "last.pt").unlink()
    with pytest.raises(ForeignCheckpointError, match=r"previous\.pt is of another run"):
        load_newest(tmp_path, config_hash="aaa")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged.*not a file"):
        load(path)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "it is empty"), (b"text", "it is no checkpoint, or a part of one")]
)
def test_what_is_no_archive_is_said_in_words(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value) == f"checkpoint {path} is damaged: {why}"


def test_newest_of_none_one_and_two(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_newest(tmp_path) is None
        save(state(1.0), tmp_path / "previous.pt")
        newest = load_newest(tmp_path)
        assert newest is not None and newest["w"][0] == 1.0
        save(state(2.0), tmp_path / "last.pt")
        newest = load_newest(tmp_path)
        assert newest is not None and newest["w"][0] == 2.0
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"last\.pt is damaged.*going on from previous\.pt"):
        newest = load_newest(tmp_path)
    assert newest is not None and newest["w"][0] == 1.0
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"Delete {tmp_path} to start"):
        load_newest(tmp_path)


def test_a_full_disk_names_size_and_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save(state(1.0), path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fileio.os, "fsync", full)
    message = r"cannot write checkpoint .*last\.pt \(\d\.\d MB\): No space left on device; .* MB"
    with pytest.raises(CheckpointError, match=message):
        save(state(2.0), path)
    assert load(path)["w"][0] == 1.0
    assert os.listdir(tmp_path) == ["last.pt"]


class Death(BaseException):
    """The process ends here."""


# In order: the new content is on the disk, has its name next.pt, last.pt has a second name, which
# becomes previous.pt, done.
@pytest.mark.parametrize(
    ("call", "number"), [("fsync", 1), ("replace", 1), ("link", 1), ("replace", 2), ("replace", 3)]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_death_at_every_moment_of_a_write(
    call: str,
    number: int,
    when: str,
    tmp_path: Path,
    toy_trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After any death a whole checkpoint is there: the one before it or the new one."""
    trainer, callback = toy_trainer(), Checkpoint(tmp_path)
    for _ in range(2):
        trainer.run_step()
        callback.write(trainer)
    trainer.run_step()
    real, calls = getattr(os, call), 0

    def die(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            raise Death
        real(*args)
        if calls == number:
            raise Death

    with monkeypatch.context() as patch, pytest.raises(Death):
        patch.setattr(os, call, die)
        callback.write(trainer)
    newest = load_newest(tmp_path)
    assert newest is not None
    finished = (call, number, when) == ("replace", 3, "after")
    assert newest["step"] == (3 if finished else 2)
    # The next write repairs what was left.
    callback.write(trainer)
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]
    assert load(tmp_path / "last.pt")["step"] == 3


def test_a_death_after_falling_back_keeps_a_good_checkpoint(
    tmp_path: Path, toy_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged `last.pt` must not take the place of the good `previous.pt`."""
    trainer, callback = toy_trainer(), Checkpoint(tmp_path)
    for _ in range(2):
        trainer.run_step()
        callback.write(trainer)
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:100])
    with pytest.warns(UserWarning, match="going on from previous"):
        state = load_newest(tmp_path)
    assert state is not None and state["step"] == 1
    real = {"link": os.link, "replace": os.replace}
    for call, number in (("link", 1), ("replace", 2), ("replace", 3)):
        left = number

        def die(*args: Any, name: str = call) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Death
            real[name](*args)

        with monkeypatch.context() as patch, pytest.raises(Death):
            patch.setattr(os, call, die)
            callback.write(trainer)
        newest = load_newest(tmp_path)
        assert newest is not None and newest["step"] == 1


def test_previous_is_the_one_before(tmp_path: Path, toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer(callbacks=[Checkpoint(tmp_path, every_steps=3)], steps=4, epochs=2)
    trainer.fit()
    # After updates 3, 4 (epoch), 6, 8 (epoch).
    assert load(tmp_path / "last.pt")["step"] == 8
    assert load(tmp_path / "previous.pt")["step"] == 6


def test_temporary_files_of_a_killed_process_are_cleared_away(
    tmp_path: Path, toy_trainer: Callable[..., Trainer]
) -> None:
    for name in (".next.pt.k3w9.tmp", ".run.json.0a_b.tmp", "notes.tmp"):
        (tmp_path / name).write_bytes(b"half a file")
    toy_trainer(callbacks=[Checkpoint(tmp_path)]).fit()
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt", "notes.tmp", "previous.pt"]


def test_best_is_written_when_it_is_beaten(
    tmp_path: Path, toy_trainer: Callable[..., Trainer]
) -> None:
    trainer = toy_trainer([1.0, 3.0, 2.0, 3.0], [Checkpoint(tmp_path)], epochs=4)
    trainer.fit()
    best = load(tmp_path / "best.pt")
    assert best["step"] == 4  # the first epoch with 3.0: ties change nothing
    # w after n updates of lr 0.5 is 1 - 0.5^n.
    assert torch.equal(best["model"]["w"], torch.full((2,), 1 - 0.5**4))


def test_last_never_promises_a_best_that_is_not_there(
    tmp_path: Path, toy_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.save

    def die(content: dict[str, Any], path: Path, config_hash: str | None) -> None:
        if path.name == "best.pt":
            raise Death
        real(content, path, config_hash)

    monkeypatch.setattr(checkpoint, "save", die)
    trainer = toy_trainer(callbacks=[Checkpoint(tmp_path, every_steps=1)], steps=2)
    with pytest.raises(Death):
        trainer.fit()
    last = load(tmp_path / "last.pt")
    assert (last["step"], last["epoch"], last["curve"]) == (2, 0, [])  # the epoch ends again


def test_checkpoints_by_time(
    tmp_path: Path, toy_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    callback = Checkpoint(tmp_path, every_seconds=10)
    trainer = toy_trainer(callbacks=[callback], steps=100)
    written = []
    for step in range(1, 9):
        now = 4.0 * step
        before = callback._written
        trainer.run_step()
        if callback._written != before:
            written.append(step)
    assert written == [3, 6]  # 12 s, then 24 s
