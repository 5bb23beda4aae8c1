"""BLEU by hand and on the numbers of the specification; METEOR and CIDEr where they can be had."""

from __future__ import annotations

import gc
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from noisyexp.data.flickr8k import load_flickr8k
from noisyexp.errors import NoisyexpError
from noisyexp.tasks.captioning import scoring
from noisyexp.tasks.captioning.scoring import bleu, bleu_counts, meteor_and_cider


def test_bleu_by_hand() -> None:
    """7 words; 6, 4, 2, 0 n-grams are found, each as often as in one reference at most."""
    found, plain = bleu(
        ["the the dog runs on green grass"],
        [["a dog runs on the grass", "the dog runs over green grass now ."]],
    )
    # Words: the (once in each reference), dog, runs, on, green, grass: 6 of 7.
    # Pairs: the dog, dog runs, runs on, green grass: 4 of 6. Threes: the dog runs, dog runs on.
    precisions = [6 / 7, 4 / 6, 2 / 5]
    expected = [100 * math.prod(precisions[:n]) ** (1 / n) for n in (1, 2, 3)]
    assert plain == pytest.approx([*expected, 0.0])
    # References of 6 and 8 words are equally near to 7: the shorter counts, so no penalty.
    assert found == pytest.approx(plain)


def test_brevity_penalty() -> None:
    """3 words against 5 (the nearest of 5 and 9), 4 against 4: exp(1 - 9 / 7) on all orders."""
    captions = ["a dog runs", "a cat sits still"]
    references = [["a dog runs very fast", "x " * 9], ["a cat sits still", "y " * 12]]
    found, plain = bleu(captions, references)
    assert plain[0] == pytest.approx(100.0)
    assert found == pytest.approx([math.exp(1 - 9 / 7) * value for value in plain])


@pytest.fixture(scope="module")
def captions_of_test(data_root: Path) -> list[list[str]]:
    if not (data_root / "flickr8k").is_dir():
        pytest.skip(f"no Flickr8k under {data_root}")
    flickr = load_flickr8k(data_root, offline=True)
    return [
        [" ".join(c.split()) for c in flickr.captions[image]] for image in flickr.splits["test"]
    ]


def lowered(captions: list[list[str]]) -> list[list[str]]:
    return [[text.lower() for text in texts] for texts in captions]


def test_one_caption_for_every_image(captions_of_test: list[list[str]]) -> None:
    """The floor without images, with the full stop: cased, and as the model sees captions."""
    constant = "A man in a blue shirt is standing on a street ."
    for text, captions, expected in (
        (constant, captions_of_test, [53.76, 27.38, 12.91, 6.85]),
        (constant.lower(), lowered(captions_of_test), [52.70, 27.36, 13.05, 7.03]),
    ):
        found, plain = bleu([text] * len(captions), captions)
        assert found == pytest.approx(expected, abs=0.02)
        assert found == plain


def test_a_human_against_four_others(captions_of_test: list[list[str]]) -> None:
    """Mean over the five in turn, the longest of each image first: as stored, lower-cased,
    without the full stop at the end.
    """
    ordered = [sorted(texts, key=len, reverse=True) for texts in captions_of_test]
    lower = lowered(ordered)
    bare = [[text.removesuffix(" .") for text in texts] for texts in lower]
    for captions, expected in (
        (ordered, [64.37, 44.69, 30.83, 21.23]),
        (lower, [65.69, 46.13, 31.93, 22.09]),
        (bare, [63.00, 44.73, 30.86, 21.14]),
    ):
        scores = [
            bleu([t[k] for t in captions], [t[:k] + t[k + 1 :] for t in captions])[0]
            for k in range(5)
        ]
        means = [sum(column) / 5 for column in zip(*scores, strict=True)]
        assert means == pytest.approx(expected, abs=0.02)


def test_counts_of_images_sum_to_those_of_the_set() -> None:
    captions = ["a dog runs on grass .", "two men stand .", "a"]
    references = [
        ["a dog runs .", "the dog runs on the grass"],
        ["two men sit .", "men"],
        ["a", "b"],
    ]
    rows = [bleu_counts(one, texts) for one, texts in zip(captions, references, strict=True)]
    assert rows[0] == [6, 6, 6, 3, 2, 0, 6, 5, 4, 3]
    words, wanted, *grams = (sum(column) for column in zip(*rows, strict=True))
    precisions = [found / total for found, total in zip(grams[:4], grams[4:], strict=True)]
    expected = 100 * math.exp(min(0.0, 1 - wanted / words)) * math.sqrt(math.prod(precisions[:2]))
    assert bleu(captions, references)[0][1] == pytest.approx(expected, rel=1e-9)


def test_what_meteor_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "pycocoevalcap.meteor.meteor", None)
        with pytest.raises(NoisyexpError, match=r"pip install 'noisyexp\[metrics\]', or set task"):
            meteor_and_cider(["a"], [["a"]])
    pytest.importorskip("pycocoevalcap", reason="extra metrics missing")
    which: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr(scoring.shutil, "which", which)
    with pytest.raises(NoisyexpError, match="needs Java"):
        meteor_and_cider(["a"], [["a"]])


def test_a_broken_java_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends: the scorer is thrown away while it holds its own lock."""
    pytest.importorskip("pycocoevalcap", reason="extra metrics missing")
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(NoisyexpError, match="the METEOR program failed"):
        meteor_and_cider(["a"], [["a"]])
    gc.collect()


@pytest.mark.slow
def test_meteor_and_cider() -> None:
    """Every caption its own reference: 1 for METEOR, 10 for CIDEr, each times 100."""
    pytest.importorskip("pycocoevalcap", reason="extra metrics missing")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    captions = ["a black dog runs on green grass .", "two children swim in a cold lake today ."]
    references = [[c, c] for c in captions]
    meteor, cider = meteor_and_cider(captions, references)
    assert meteor == pytest.approx(100.0, abs=0.1)
    assert cider == pytest.approx(1000.0, abs=1)
