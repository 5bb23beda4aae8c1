"""Batches of dl4mt's iterator, counted by hand; the toy language; the real files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from noisyexp.activations import ActivationSpec
from noisyexp.cli.compose import check
from noisyexp.errors import DataError
from noisyexp.tasks.nmt import NMT
from noisyexp.tasks.nmt.batches import make_batches, mask_of, pad, shuffled, take
from noisyexp.tasks.nmt.generated import generate_sentence_pairs


def prepared(*overrides: str, source: str = "generated", root: Path = Path()) -> NMT:
    (spec,) = check(["task=nmt", "scale=smoke", f"data={source}", *overrides])
    task = NMT(spec.task_config, source, 0)
    task.prepare(root)
    return task


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_blocks_are_sorted_by_target_length_from_the_longest_end() -> None:
    """Blocks of 4 pairs in file order 0..5; equal lengths keep the reverse of the file's order."""
    target = numbers(3, 5, 2, 5, 4, 1)
    batches = make_batches(
        np.arange(6), np.ones(6, np.int64), target, batch_size=2, read_ahead=2, max_length=50
    )
    assert [batch.tolist() for batch in batches] == [[3, 1], [0, 2], [4, 5]]


def test_the_length_filter_shrinks_batches_and_skips_empty_ones() -> None:
    """max_length 5. Pair 0: both longer, never read. 1, 2: one side too long, dropped in training.

    By target length: 0 (9, not read), 1 (8), 4 (5), 2 (4), 5 (4), 3 (2), 6 (1), with batches of
    two: [1, 4], [5, 2], [3, 6]. Pair 4 has 5 words, too many; 2 has a source of 6.
    """
    source = numbers(9, 3, 6, 2, 2, 3, 4)
    target = numbers(9, 8, 4, 2, 5, 4, 1)
    settings = {"batch_size": 2, "read_ahead": 4, "max_length": 5}
    batches = make_batches(np.arange(7), source, target, **settings)
    assert [batch.tolist() for batch in batches] == [[5], [3, 6]]
    assert len(batches) == 2


def test_the_file_is_shuffled_once_for_all() -> None:
    order = shuffled(1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert order[:6].tolist() == shuffled(1000)[:6].tolist() != list(range(6))
    assert abs(float(np.corrcoef(order, np.arange(1000))[0, 1])) < 0.1


def test_padding_ends_every_sentence_with_one_end_under_the_mask() -> None:
    padded, lengths = pad([[5, 6, 7], [], [8]])
    assert padded.t().tolist() == [[5, 6, 7, 0], [0, 0, 0, 0], [8, 0, 0, 0]]
    assert lengths.tolist() == [4, 1, 2]
    assert mask_of(lengths, 4).long().sum(1).tolist() == [4, 1, 2]


def test_batches_of_an_epoch() -> None:
    """Every short pair once; ids below V; one end under every mask; the next epoch is the same."""
    task = prepared("task.max_length=14")
    source, target = task.corpus.source, task.corpus.target
    seen = np.concatenate([task.batches[k] for k in range(len(task.batches))])
    short = np.flatnonzero((source.lengths < 14) & (target.lengths < 14))
    assert sorted(seen.tolist()) == short.tolist() and 0 < len(short) < len(source)
    for side in (source, target):
        assert 0 < int(side.ids.min()) <= int(side.ids.max()) < task.config.vocab_size
    for k in range(len(task.batches)):
        batch = take(source, target, task.batches[k])
        for ids, lengths in (batch[:2], batch[2:]):
            mask = mask_of(lengths, len(ids)).t()
            assert ((ids == 0) & mask).sum(0).tolist() == [1] * len(lengths)
            assert not ids[lengths - 1, torch.arange(len(lengths))].any() and not ids[~mask].any()
    model = task.build_model(ActivationSpec("reference"))
    sums = [task.loss(model, step, torch.device("cpu")).sums for step in (1, 1 + len(task.batches))]
    assert float(sums[0]["nll"]) == float(sums[1]["nll"])
    assert sums[0]["sentences"] == len(task.batches[1])


def test_generated_sets_have_the_sizes_that_are_asked_for() -> None:
    """How much is held out changes no pair of the training text."""
    task, other = prepared("task.valid_sentences=7", "task.test_sentences=9"), prepared()
    assert (len(task.corpus.valid), len(task.corpus.test)) == (7, 9)
    assert (len(other.corpus.valid), len(other.corpus.test)) == (20, 20)
    assert task.corpus.valid.text == other.corpus.valid.text[:7]
    assert task.corpus.source.ids.tolist() == other.corpus.source.ids.tolist()


def test_no_pair_is_short_enough() -> None:
    with pytest.raises(DataError, match=r"training text.*task\.max_length=2: make it larger"):
        prepared("task.max_length=2")


GROUP = r"(the|a) (?:adj(\d+) )?noun(\d+)"
CLAUSE = re.compile(rf"{GROUP} (?:adv(\d+) )?(not )?verb(\d+) {GROUP}")


def by_rules(source: str) -> str:
    """The translation by an independent reading of the grammar."""

    def group(article: str, adjective: str | None, noun: str) -> str:
        feminine = int(noun) % 2
        first = {"the": ("le", "la"), "a": ("un", "une")}[article][feminine]
        behind = "" if adjective is None else f" adjectif{adjective}{'e' * feminine}"
        return f"{first} nom{noun}{behind}"

    clauses = []
    for clause in source.removesuffix(" .").split(" and "):
        match = CLAUSE.fullmatch(clause)
        assert match is not None, clause
        parts = match.groups()
        adverb, negated, verb = parts[3:6]
        middle = f"ne verbe{verb} pas" if negated else f"verbe{verb}"
        middle += "" if adverb is None else f" adverbe{adverb}"
        clauses.append(f"{group(*parts[:3])} {middle} {group(*parts[6:])}")
    return " et ".join(clauses) + " ."


def test_the_toy_language_follows_its_rules() -> None:
    pairs = generate_sentence_pairs(300, 12, 0)
    assert pairs[:2] == generate_sentence_pairs(2, 12, 0) != generate_sentence_pairs(2, 12, 1)
    assert [target for _, target in pairs] == [by_rules(source) for source, _ in pairs]
    text = " ".join(source for source, _ in pairs)
    assert all(f" {word} " in text for word in ("not", "and", "the", "a", "noun11", "verb5"))
    assert 2.0 < np.mean([source.count("noun") for source, _ in pairs]) < 3.0


def test_real_text(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 2,000 pairs of Europarl: files, lengths, ids, and the news test sets."""
    if not (data_root / "newstest").is_dir() or not (data_root / "europarl").is_dir():
        pytest.skip(f"no Europarl and news test sets under {data_root}")
    monkeypatch.setenv("NOISYEXP_CACHE", str(tmp_path))
    monkeypatch.setattr("noisyexp.data.moses.PIECE", 1000)
    limits = ["task.max_pairs=2000", "task.valid_sentences=50", "task.test_sentences=40"]
    sizes = ["task.corpus=any", "task.vocab_size=2000", "task.max_length=50", "task.batch_size=32"]
    task = prepared(*limits, *sizes, source="real", root=data_root)
    corpus = task.corpus
    assert sorted(name.split("/")[0] for name in task.prepare(data_root)) == [
        "europarl", "europarl", *["newstest"] * 4,
    ]  # fmt: skip
    assert len(corpus.source) == len(corpus.target) == 2000
    assert len(corpus.source.vocab) == len(corpus.target.vocab) == 2000
    assert float((corpus.source.ids == 1).mean()) < 0.1  # nine words of ten are frequent ones
    longest = 0
    for k in range(len(task.batches)):
        rows = task.batches[k]
        lengths = np.stack([corpus.source.lengths[rows], corpus.target.lengths[rows]])
        longest = max(longest, int(lengths.max()))
        assert 1 <= len(rows) <= 32
    assert longest == 49
    assert (len(corpus.valid), len(corpus.test)) == (50, 40)
    assert corpus.test.tokenised[0][0].startswith("What will they do ? C")
    held_out = corpus.test.target
    assert int(held_out.ids.max()) < 2000 and 0.02 < float((held_out.ids == 1).mean()) < 0.5
