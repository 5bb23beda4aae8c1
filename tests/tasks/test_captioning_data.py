"""Words, ids, batches of one length, the stand-in (spec section 2)."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from noisyexp.data import flickr8k
from noisyexp.data.flickr8k import Flickr8k, load_flickr8k
from noisyexp.errors import DataError
from noisyexp.tasks.captioning import data as module
from noisyexp.tasks.captioning import generated
from noisyexp.tasks.captioning.data import (
    Batches,
    build_vocabulary,
    encode,
    load_real,
    make_batch,
    words_of,
)
from noisyexp.tasks.captioning.extractors import EXTRACTORS, Extractor


def test_words_and_ids() -> None:
    """End 0, unknown 1, then by falling frequency."""
    captions = [words_of(c) for c in ("A dog .", "a  cat runs .", "the dog runs .")]
    assert captions[1] == ["a", "cat", "runs", "."]
    vocab = build_vocabulary(captions)
    assert vocab.get_itos() == ["<end>", "UNK", ".", "a", "dog", "runs", "cat", "the"]
    made = encode(captions, ["x", "x", "y"], [7, 7, 3], vocab)
    assert made.tokens.tolist() == [[3, 4, 2, 0, 0], [3, 6, 5, 2, 0], [7, 4, 5, 2, 0]]
    assert made.lengths.tolist() == [3, 4, 4]
    names, rows, texts = made.references(vocab)
    assert (names, rows.tolist()) == (["x", "y"], [7, 3])
    assert texts == [["a dog .", "a cat runs ."], ["the dog runs ."]]


def test_inputs_and_targets() -> None:
    """No word before the first; the end is predicted; ids from the limit on are unknown."""
    captions = [words_of(c) for c in ("a dog .", "a cat .", "a dog runs .")]
    vocab = build_vocabulary(captions)  # . a dog cat runs are 2 ... 6
    made = encode(captions, ["x", "y", "z"], [0, 1, 2], vocab)

    def annotations(rows: Tensor) -> Tensor:
        return rows.view(-1, 1, 1).float()

    batch = make_batch(made, torch.tensor([1, 0]), annotations, 5)
    assert batch.targets.tolist() == [[3, 1, 2, 0], [3, 4, 2, 0]]
    assert batch.inputs.tolist() == [[-1, 3, 1, 2], [-1, 3, 4, 2]]
    assert batch.annotations.view(-1).tolist() == [1.0, 0.0]


def test_batches() -> None:
    """Every caption once an epoch, one length a batch, lengths in turns, small last batches."""
    lengths = torch.tensor([5] * 10 + [7] * 4 + [9])
    batches = Batches(lengths, 4, 3)
    assert batches.per_epoch == 3 + 1 + 1
    for epoch in (0, 2):
        found = [batches.batch(5 * epoch + k) for k in range(5)]
        assert sorted(torch.cat(found).tolist()) == list(range(15))
        per = [lengths[which].unique().tolist() for which in found]
        assert all(len(one) == 1 for one in per)
        # Round and round over the three lengths until only fives are left.
        assert sorted(one[0] for one in per[:3]) == [5, 7, 9]
        assert [len(which) for which in found[3:]] == [4, 2]
    again = Batches(lengths, 4, 3)
    assert torch.equal(again.batch(12), batches.batch(12))  # of (seed, step) alone
    assert any(not torch.equal(Batches(lengths, 4, 4).batch(k), batches.batch(k)) for k in range(5))
    assert any(not torch.equal(batches.batch(k), batches.batch(5 + k)) for k in range(5))
    assert sorted(torch.cat(batches.in_order()).tolist()) == list(range(15))


def test_the_stand_in() -> None:
    """A thing is where its caption says, in reading order; four ways, so ln 4 nats at best."""
    made = generated.generate(40, 10)
    assert pytest.approx(math.log(4)) == generated.FLOOR_NATS
    train = made.splits["train"]
    assert len(train.lengths) == 200 and len(made.splits["test"].lengths) == 50
    names, rows, texts = train.references(made.vocab)
    assert len(names) == 40
    for row, captions in zip(rows, texts, strict=True):
        values = made.annotations(row.view(1))[0]
        places = torch.nonzero(values[:, : len(generated.KINDS)].amax(1) > 0.5).view(-1)
        things = []
        for place in places.tolist():
            kind = int(values[place, : len(generated.KINDS)].argmax())
            after = values[place, len(generated.KINDS) :]
            colour = int(after[: len(generated.COLOURS)].argmax())
            things.append(f"{generated.COLOURS[colour]} {generated.KINDS[kind]}")
        assert set(captions) <= {generated.sentence(things, way) for way in range(4)}
    assert torch.equal(generated.generate(40, 10).annotations(rows), made.annotations(rows))
    assert generated.sentence(["red dog", "blue cat"], 2) == "one red dog near one blue cat ."


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Splits of six images under `tmp_path`: shades of red, that captions tell in one to six words.

    A seventh is in no split. The order is another in the archive, by name, and in the splits.
    """
    shades = {f"{name}.jpg": 30 * k for k, name in enumerate("dbgafce", 1)}
    path = tmp_path / "flickr8k" / "Flickr8k_Dataset.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, shade in shades.items():
            picture = io.BytesIO()
            Image.new("RGB", (224, 224), (shade, 0, 0)).save(picture, "PNG")
            archive.writestr(f"images/{name}", picture.getvalue())
    splits = {"train": ["g.jpg", "a.jpg", "d.jpg"], "valid": ["e.jpg"], "test": ["b.jpg", "c.jpg"]}
    captions = {
        name: [f"Red {shade} " + "very " * ((k + shade) % 5) + "." for k in range(5)]
        for name, shade in shades.items()
    }
    flickr = Flickr8k(captions, splits, {"flickr8k/tokens": "0"})

    def network(images: Tensor) -> Tensor:
        return images[:, :1, :1, :1] + torch.arange(4.0).view(1, 1, 2, 2)

    monkeypatch.setattr(flickr8k, "IMAGES", len(shades))
    monkeypatch.setattr(module, "load_flickr8k", lambda root: flickr)
    monkeypatch.setitem(EXTRACTORS, "tiny", Extractor(2, 1, "tiny", lambda: network))
    monkeypatch.setenv("NOISYEXP_CACHE", str(tmp_path / "cache"))
    return splits


def test_captions_come_with_their_own_image(tiny: dict[str, list[str]], tmp_path: Path) -> None:
    """From pictures in an archive to the rows of a batch; mixed up it would train, only badly."""
    made = load_real(tmp_path, "tiny", 2)
    assert (made.side, made.channels) == (2, 1)
    for split, captions in made.splits.items():
        assert captions.names == [name for name in tiny[split][:2] for _ in range(5)]
        seen = 0
        for which in Batches(captions.lengths, 4, 0).in_order():
            batch = make_batch(captions, which, made.annotations, 1000)
            for words, annotation in zip(batch.targets, batch.annotations, strict=True):
                red, told = made.vocab.lookup_tokens(words[:2].tolist())
                assert red == "red"
                assert annotation[:, 0].tolist() == [int(told) + k for k in range(4)]
                seen += 1
        assert seen == len(captions.names)
    assert {"flickr8k/tokens", "flickr8k/Flickr8k_Dataset.zip", "features/tiny"} == set(made.files)
    assert made.files["features/tiny"] == made.facts["sha256"]


def test_images_of_other_names(tiny: dict[str, list[str]], tmp_path: Path) -> None:
    tiny["valid"][0] = "f_renamed.jpg"
    with pytest.raises(DataError, match=r"lacks 1 images of the splits, f_renamed\.jpg first"):
        load_real(tmp_path, "tiny", None)
    assert not (tmp_path / "cache").exists()  # before hours of extraction


def test_the_real_captions(data_root: Path) -> None:
    """8,807 words with end and unknown, 489 batches of 64."""
    if not (data_root / "flickr8k").is_dir():
        pytest.skip(f"no Flickr8k under {data_root}")
    flickr = load_flickr8k(data_root, offline=True)
    captions = {
        split: [words_of(c) for image in images for c in flickr.captions[image]]
        for split, images in flickr.splits.items()
    }
    vocab = build_vocabulary([c for split in captions.values() for c in split])
    assert len(vocab) == 8809 and vocab.lookup_tokens([2, 3]) == ["a", "."]
    lengths = torch.tensor([len(c) for c in captions["train"]])
    assert len(lengths) == 30_000 and Batches(lengths, 64, 0).per_epoch == 489
