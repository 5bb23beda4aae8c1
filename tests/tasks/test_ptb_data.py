"""Penn Treebank: counts, streams and windows of the reference code (spec check 1)."""

from __future__ import annotations

import hashlib
import math
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

from noisyexp.data import download
from noisyexp.data.download import RemoteFile, resolve
from noisyexp.errors import DataError
from noisyexp.tasks.text import corpus as corpus_module
from noisyexp.tasks.text.corpus import PTB_FILES, Corpus, hub_bytes, load_ptb, tokenize
from noisyexp.tasks.text.streams import num_windows, stream_starts, to_streams, window

TRAIN, VALID = 929_589, 73_760


@pytest.fixture(scope="session")
def ptb(data_root: Path) -> Corpus:
    if not (data_root / "ptb" / "ptb.train.txt").is_file():
        pytest.skip(f"no Penn Treebank under {data_root}")
    return load_ptb(data_root, offline=True)


# Arithmetic; the tokens are their own positions.


def test_stream_starts_of_train() -> None:
    starts = stream_starts(TRAIN, 20)
    assert starts[:4] == [0, 46_479, 92_959, 139_438]
    assert starts[10] == 464_795  # exactly 464,794.5: halves go up
    streams = to_streams(torch.arange(TRAIN), 20)
    assert streams.shape == (46_479, 20)
    assert streams[0].tolist() == starts
    assert streams[-1, -1] == TRAIN - 1


def test_leftover_tokens_of_train_fall_between_streams() -> None:
    streams = to_streams(torch.arange(TRAIN), 20)
    used = torch.zeros(TRAIN, dtype=torch.bool)
    used[streams.flatten()] = True
    assert int(used.sum()) == streams.numel()  # no token is used twice
    dropped = (~used).nonzero().flatten().tolist()
    last = streams[-1].tolist()
    after = [stream + 1 for stream in range(20) if last[stream] + 1 in dropped]
    assert after == [2, 4, 6, 8, 10, 13, 15, 17, 19]
    assert len(dropped) == 9


def test_valid_has_no_gaps() -> None:
    streams = to_streams(torch.arange(VALID), 20)
    assert torch.equal(streams, torch.arange(VALID).view(20, 3_688).T)


@pytest.mark.parametrize("num_tokens", [1, 7, 10, 19, 20, 999])
@pytest.mark.parametrize("num_streams", [1, 2, 3, 7, 20])
def test_starts_are_the_rounded_fractions(num_tokens: int, num_streams: int) -> None:
    if num_streams > num_tokens:
        with pytest.raises(ValueError, match=f"{num_tokens} tokens .* {num_streams} streams"):
            stream_starts(num_tokens, num_streams)
        return
    expected = [math.floor(i * num_tokens / num_streams + 0.5) for i in range(num_streams)]
    assert stream_starts(num_tokens, num_streams) == expected
    streams = to_streams(torch.arange(num_tokens), num_streams)
    assert len(set(streams.flatten().tolist())) == streams.numel()
    assert torch.equal(streams, streams[:1] + torch.arange(len(streams))[:, None])


def test_streams_need_at_least_one_each() -> None:
    for num_streams in (0, -1, 6):
        with pytest.raises(ValueError, match="streams"):
            to_streams(torch.arange(5), num_streams)


@pytest.mark.parametrize(
    ("rows", "steps", "expected"),
    [
        (46_479, 20, 2_323),
        (46_479, 35, 1_327),
        (3_688, 20, 184),
        (3_688, 35, 105),
        (41, 20, 2),
        (40, 20, 1),  # the 40th row could only be a target
        (20, 20, 0),
        (1, 1, 0),
        (0, 1, 0),
    ],
)
def test_number_of_windows(rows: int, steps: int, expected: int) -> None:
    assert num_windows(rows, steps) == expected


def test_windows_of_train() -> None:
    streams = to_streams(torch.arange(TRAIN), 20)
    targets = []
    for index in range(2_323):
        inputs, target = window(streams, index, 20)
        assert inputs.shape == target.shape == (20, 20)
        assert torch.equal(target, inputs + 1)
        targets.append(target)
    seen = torch.cat(targets)
    assert seen.shape == (46_460, 20)
    assert torch.equal(seen, streams[1:46_461])  # in order, each once
    assert 46_479 - 46_461 == 18  # targets that are never seen
    for index in (-1, 2_323):
        with pytest.raises(IndexError, match=f"window {index} of 2323"):
            window(streams, index, 20)
    with pytest.raises(ValueError, match="at least one step"):
        num_windows(10, 0)


# Text and mirrors, on a tiny file.


def test_newlines_become_eos() -> None:
    text = " a <unk> N \n b a \n"
    assert tokenize(text) == ["a", "<unk>", "N", "<eos>", "b", "a", "<eos>"]
    assert tokenize("a\nb") == ["a", "<eos>", "b"]


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: dict[str, list[str]]) -> list[object]:
    """Replace the data-set library; its import takes seconds and it would go to the network."""
    calls: list[object] = []

    def load_dataset(name: str, *, revision: str, split: str) -> dict[str, list[str]]:
        calls.append((name, revision, split))
        return {"sentence": rows[split]}

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(download.socket, "getaddrinfo", lambda *address: [])
    return calls


def test_hub_rows_give_the_original_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, {"validation": ["consumers may want N", "mr. <unk>"]})
    assert hub_bytes("validation") == b" consumers may want N \n mr. <unk> \n"
    assert calls == [("ptb-text-only/ptb_text_only", "refs/convert/parquet", "validation")]


def without_address(file: RemoteFile) -> RemoteFile:
    return RemoteFile(file.name, file.sha256, file.size, file.mirrors[1:])


def test_altered_hub_rows_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, {"test": ["not the test set"]})
    with pytest.raises(DataError, match=r"Hub.*split test: stopped after 19 of 449,945 bytes"):
        resolve(without_address(PTB_FILES["test"]), tmp_path, offline=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_counts_are_checked_after_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    (tmp_path / "ptb").mkdir()
    for split, text in {"train": " b a \n", "valid": " a \n", "test": " c \n b \n"}.items():
        (tmp_path / "ptb" / f"{split}.txt").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        files[split] = RemoteFile(f"ptb/{split}.txt", digest, len(text), ())
    monkeypatch.setattr(corpus_module, "PTB_FILES", files)
    with pytest.raises(AssertionError, match="'train': 3, 'valid': 2, 'test': 4, 'vocab': 4"):
        load_ptb(tmp_path)
    counts = {"train": 3, "valid": 2, "test": 4, "vocab": 4}
    monkeypatch.setattr(corpus_module, "COUNTS", counts)
    corpus = load_ptb(tmp_path)
    assert corpus.vocab.get_itos() == ["b", "a", "<eos>", "c"]
    assert corpus.train.tolist() == [0, 1, 2]
    assert corpus.valid.tolist() == [1, 2]
    assert corpus.test.tolist() == [3, 2, 0, 2]
    assert corpus.files == {file.name: file.sha256 for file in files.values()}


def test_missing_files_offline(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_ptb(tmp_path, offline=True)
    for part in ("ptb.train.txt", "raw.githubusercontent.com", "ptb-text-only/ptb_text_only"):
        assert part in str(caught.value)


# The real files.


def test_counts(ptb: Corpus) -> None:
    assert (len(ptb.train), len(ptb.valid), len(ptb.test)) == (929_589, 73_760, 82_430)
    assert len(ptb.vocab) == 10_000
    for token in ("<eos>", "<unk>", "N"):
        assert token in ptb.vocab
    for split in (ptb.train, ptb.valid, ptb.test):
        assert split.dtype == torch.int64 and split.dim() == 1
    assert ptb.floor_nats is None


def test_all_ids_come_from_train_in_order_of_appearance(ptb: Corpus) -> None:
    assert int((torch.bincount(ptb.train) > 0).sum()) == 10_000
    highest = ptb.train.cummax(0).values
    steps = highest[1:] - highest[:-1]
    assert ptb.train[0] == 0 and int(steps.max()) == 1  # a new id is always the next one
    assert ptb.vocab.lookup_tokens(ptb.train[:3].tolist()) == ["aer", "banknote", "berlitz"]


@pytest.mark.parametrize(("split", "expected"), [("valid", 687.0), ("test", 639.3)])
def test_unigram_perplexity(ptb: Corpus, split: str, expected: float) -> None:
    tokens: Tensor = getattr(ptb, split)
    counts = torch.bincount(ptb.train, minlength=10_000).double()
    mean_nll = -(counts / counts.sum()).log()[tokens].mean()
    assert math.exp(mean_nll) == pytest.approx(expected, abs=0.05)


def test_hub_gives_the_same_files(
    ptb: Corpus, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {}
    for split, hub_split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        lines = (data_root / f"ptb/ptb.{split}.txt").read_text().splitlines()
        rows[hub_split] = [line.strip() for line in lines]
    fake_hub(monkeypatch, rows)
    hub_only = {split: without_address(file) for split, file in PTB_FILES.items()}
    monkeypatch.setattr(corpus_module, "PTB_FILES", hub_only)
    again = load_ptb(tmp_path, offline=False)
    assert torch.equal(again.train, ptb.train)
    assert again.files == ptb.files
