"""A batch divided over passes or processes trains what the whole batch does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from noisyexp.activations import derive_seed
from noisyexp.activations.share import Share, SharedSource, at_work, coins, dropout
from noisyexp.cli.compose import check
from noisyexp.errors import ConfigError
from noisyexp.tasks import find_task, task_names
from noisyexp.training import RunSpec, execute
from noisyexp.training.processes import join
from noisyexp.training.run import build_trainer
from noisyexp.training.split import check_split

ROOT = Path(__file__).resolve().parents[2]
COMMON = ("scale=smoke", "threads=1", "progress=off", "device=cpu")
# Noise so large, or weights, that units saturate and draws matter.
TASKS = {
    "ptb": ["task=ptb", "data=generated", "act=nah", "task.hidden_size=6", "task.batch_size=6",
            "task.steps=4", "task.init_range=1.0", "task.dropout=0.3", "task.vocab_size=40",
            "task.train_tokens=1000", "task.max_tokens=200", "training.lr=0.5"],
    "lte": ["task=lte", "act=nah", "task.hidden_size=8", "task.columns=6", "task.target_length=2",
            "task.steps=20", "task.init_range=0.5", "training.lr=0.3"],
    "nmt": ["task=nmt", "data=generated", "act=nah", "task.init_std=0.5", "task.max_length=14"],
    "captioning": ["task=captioning", "data=generated", "act=nah", "act.c=3", "training.lr=0.01"],
    "ntm_recall": ["task=ntm_recall", "act=nah", "task.epoch_steps=60", "task.counts=episode",
                   "training.lr=0.01"],
}  # fmt: skip


PASSES = {"captioning": 4}
"""Passes of a batch, else two."""
UNEVEN = ("captioning", "nmt")
"""Tasks with batches that cannot be divided into equal passes, beside full ones."""


def losses(spec: RunSpec, steps: int) -> list[float]:
    """Loss of every update, without evaluations."""
    task = find_task(spec.task_config.name)(spec.task_config, spec.config.data.source, 0)
    task.prepare(Path(spec.config.data.root))
    trainer = build_trainer(spec, task, torch.device("cpu"), [])
    trainer.model.train()
    found: list[float] = []
    by = trainer.split or trainer
    for step in range(steps):
        trainer.step = step
        trainer.noise.set_step(step)
        trainer.seed_step(derive_seed(trainer.noise.seed, "step", step))
        output = by.update(trainer) if trainer.split else trainer.update()
        found.append(float(output.loss.detach()))
    return found


def specs(name: str, passes: int) -> RunSpec:
    (spec,) = check([*TASKS[name], *COMMON, f"training.accumulate={passes}"])
    return spec


@pytest.mark.parametrize("name", TASKS)
def test_passes_add_up_to_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions and sentences of a length are not always a full batch: their passes are unequal."""
    torch.set_num_threads(1)
    steps = 50 if name in ("ptb", "lte") else 12
    totals, take = set[int](), Share.take

    def noting_take(self: Share, total: int) -> slice:
        totals.add(total)
        return take(self, total)

    monkeypatch.setattr(Share, "take", noting_take)
    passes = PASSES.get(name, 2)
    whole, divided = losses(specs(name, 1), steps), losses(specs(name, passes), steps)
    assert any(total % passes for total in totals) == (name in UNEVEN), totals
    assert divided == pytest.approx(whole, rel=1e-5)
    assert whole[-1] != pytest.approx(whole[0], rel=1e-3)  # it did learn, and differ
    assert specs(name, 1).digest == specs(name, passes).digest


def test_rows_of_a_share() -> None:
    share = Share(1, 3)
    assert share.take(20) == slice(6, 13)
    assert [Share(k, 3).take(20) for k in (0, 2)] == [slice(0, 6), slice(13, 20)]
    assert not share.empty
    source, whole = SharedSource(5), SharedSource(5)
    full = whole.normal("a", (3, 20, 7), torch.device("cpu"))
    source.share = share
    assert torch.equal(source.normal("a", (3, 7, 7), torch.device("cpu")), full[:, 6:13])
    share.rows_first = ("b",)
    full = whole.normal("b", (20, 3, 7), torch.device("cpu"))
    assert torch.equal(source.normal("b", (7, 3, 7), torch.device("cpu")), full[6:13])
    share.places["c"] = (9, torch.tensor([1, 5]))
    full = whole.normal("c", (9, 7), torch.device("cpu"))
    assert torch.equal(source.normal("c", (2, 7), torch.device("cpu")), full[[1, 5]])
    with pytest.raises(RuntimeError, match="d draws for 5 rows and not for the 7 of its share"):
        source.normal("d", (5, 7), torch.device("cpu"))
    Share.take(share, 1)
    assert (share.empty, share.start, share.stop) == (True, 0, 1)


def test_dropout_of_a_share_is_that_of_the_batch() -> None:
    x = torch.randn(4, 10, 3)
    share = Share(1, 2)
    rows = share.take(10)
    torch.manual_seed(3)
    whole = torch.nn.functional.dropout(x, 0.4, True)
    torch.manual_seed(3)
    with at_work(share):
        assert torch.equal(dropout(x[:, rows], 0.4, True, 1), whole[:, rows])
    torch.manual_seed(3)
    flips = coins(x, 0.5, 1)
    torch.manual_seed(3)
    with at_work(share):
        assert torch.equal(coins(x[:, rows], 0.5, 1), flips[:, rows])


def test_what_cannot_be_divided_says_so() -> None:
    divided = set()
    for name in task_names():
        kind = find_task(name)
        own = ["data=generated"] if not kind.makes_data else []
        (spec,) = check([f"task={name}", "scale=smoke", *own])
        task = kind(spec.task_config, "generated", 0)
        if task.why_whole() is None:
            divided.add(name)
            check_split(task, 2)
            for count in (100000, task.full_batch - 1):  # too many, and with a remainder
                with pytest.raises(ConfigError, match=f"cannot be divided by {count} "):
                    check_split(task, count)
        else:
            with pytest.raises(ConfigError, match=f"{name}: its batch cannot be divided; use one"):
                check_split(task, 2)
    assert divided == {*TASKS, "europarl_lm"}


def test_a_batch_that_does_not_divide_is_refused_before_anything_starts() -> None:
    """The numbers that would do are said."""
    words = [*TASKS["ptb"], *COMMON]
    assert check([*words, "training.accumulate=3"])
    for count in (4, 12):
        with pytest.raises(ConfigError) as caught:
            check([*words, f"training.accumulate={count}"])
        assert caught.value.problems == [
            f"ptb: a batch of 6 rows cannot be divided by {count} (processes times "
            "training.accumulate); its divisors are 1, 2, 3, 6"
        ]


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """As if torchrun had started this process, on a machine with GPUs; what torch is told."""
    told: dict[str, Any] = {"gpus": 2}
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1",
                        "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: told["gpus"] > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: told["gpus"])
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: told.update(index=index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: told["index"])
    monkeypatch.setattr(dist, "init_process_group", lambda name, **_: told.update(backend=name))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    return told


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_each_process_has_the_gpu_of_its_number(device: str, second_of_two: dict[str, Any]) -> None:
    """nccl, where there are GPUs; gloo for processors."""
    processes = join(device)
    assert (processes.rank, processes.size) == (1, 2)
    assert (second_of_two["backend"], second_of_two["index"]) == ("nccl", 1)
    assert processes.place(torch.device("cuda")) == torch.device("cuda", 1)
    del second_of_two["index"]
    join("cpu")
    assert second_of_two["backend"] == "gloo" and "index" not in second_of_two
    assert processes.place(torch.device("cpu")) == torch.device("cpu")
    second_of_two["gpus"] = 0
    join("auto")
    assert second_of_two["backend"] == "gloo" and "index" not in second_of_two


def test_fewer_gpus_than_processes_are_a_line(second_of_two: dict[str, Any]) -> None:
    words = [*TASKS["ptb"], *COMMON[:-1]]
    check([*words, "device=cuda"])
    second_of_two["gpus"] = 1
    for device in ("cuda", "auto"):
        with pytest.raises(ConfigError) as caught:
            check([*words, f"device={device}"])
        assert caught.value.problems == [
            f"device={device}: each process needs a GPU of its own, and torchrun started 2 here "
            "where torch sees 1; use --nproc_per_node=1, or device=cpu"
        ]
    check([*words, "device=cpu"])


def logged(root: Path) -> list[float]:
    """Loss of every update, from the log."""
    (path,) = root.rglob("metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["train_loss"] for row in rows if "train_loss" in row]


def torchrun(words: list[str], count: int = 2) -> subprocess.Popen[str]:
    """A run by some processes of this machine."""
    started = ["-m", "torch.distributed.run", f"--nproc_per_node={count}",
               "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *started, str(ROOT / "run.py"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_fifty_updates_of_two_processes(name: str, tmp_path: Path) -> None:
    """Losses of every update, and the numbers at the end, are those of one process."""
    words = [*TASKS[name], *COMMON, "logger.every_steps=1", "training.max_steps=50",
             "training.epochs=1000", "training.evaluate_every=1000", "training.patience=null",
             "training.lr_schedule.rule=constant"]  # fmt: skip
    said, _ = (two := torchrun([*words, f"run_root={tmp_path / 'two'}"])).communicate(timeout=550)
    assert two.returncode == 0, said
    one = execute(check([*words, f"run_root={tmp_path / 'one'}"])[0]).record
    found, expected = logged(tmp_path / "two"), logged(tmp_path / "one")
    assert len(expected) == 50
    furthest = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    print(f"{name}: losses apart by at most {furthest:.1e} of their value")
    assert furthest < 1e-5
    (path,) = (tmp_path / "two").rglob("run.json")
    final = json.loads(path.read_text())["final"]
    assert final.keys() == one["final"].keys()
    assert [*final.values()] == pytest.approx([*one["final"].values()], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_what_torchrun_cannot_divide_is_a_line(tmp_path: Path) -> None:
    """A task that needs its whole batch, and fewer rows than processes."""
    words = [*COMMON, f"run_root={tmp_path}"]
    for own, reason in (
        (["task=ptb_char", "data=generated"], "ptb_char: its batch cannot be divided; use one"),
        (["task=ptb", "data=generated", "task.batch_size=1"],
         "ptb: a batch of 1 rows cannot be divided by 2 (processes times"),
    ):  # fmt: skip
        said, _ = (two := torchrun([*own, *words])).communicate(timeout=200)
        assert two.returncode != 0
        assert said.count(reason) == 1, said
        assert not [*tmp_path.rglob("run.json")]
    said, _ = (two := torchrun(["task=ptb", "act=nuh", *words])).communicate(timeout=200)
    assert said.count("act=nuh: choose from ") == 1, said


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """SIGTERM to one stops both with a checkpoint, from which one process goes on alone."""
    words = [*TASKS["ptb"], *COMMON, "task.reset=zero", f"run_root={tmp_path}",
             "logger.every_steps=1", "checkpoint.every_steps=5", "training.epochs=30",
             "training.evaluate_every=30", "training.lr_schedule.rule=constant"]  # fmt: skip
    two = torchrun(words)
    deadline = time.monotonic() + 200
    while not [*tmp_path.rglob("last.pt")]:
        assert two.poll() is None and time.monotonic() < deadline, two.communicate()[0]
        time.sleep(0.02)
    children = Path(f"/proc/{two.pid}/task/{two.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGTERM)
    said, _ = two.communicate(timeout=200)
    (path,) = tmp_path.rglob("run.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["reason"]) == ("interrupted", "SIGTERM"), said
    done, (spec,) = len(logged(tmp_path)), check(words)
    outcome = execute(spec)
    assert (outcome.record["status"], outcome.record["cost"]["sessions"]) == ("complete", 2)
    found = logged(tmp_path)
    assert 5 <= done < len(found)
    assert found[:50] == pytest.approx(losses(spec, 50), rel=1e-5)


@pytest.mark.slow
def test_ctrl_c_of_torchrun_writes_a_checkpoint(tmp_path: Path) -> None:
    """To all processes of the terminal; torchrun hands it on to its own, which it has set apart."""
    words = [*TASKS["ptb"], *COMMON, f"run_root={tmp_path}", "checkpoint.every_steps=5",
             "training.epochs=100000", "training.evaluate_every=100"]  # fmt: skip
    two = torchrun(words)
    deadline = time.monotonic() + 200
    while not [*tmp_path.rglob("last.pt")]:
        assert two.poll() is None and time.monotonic() < deadline, two.communicate()[0]
        time.sleep(0.02)
    os.killpg(two.pid, signal.SIGINT)
    said, _ = two.communicate(timeout=200)
    (path,) = tmp_path.rglob("run.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["reason"]) == ("interrupted", "SIGINT"), said
    assert [*tmp_path.rglob("last.pt")]
