"""Captions as ids, the splits, and batches of captions that all have the same length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from noisyexp.activations import derive_seed
from noisyexp.data.flickr8k import load_flickr8k, open_images
from noisyexp.data.vocab import Vocab, build_vocab_from_iterator
from noisyexp.errors import DataError
from noisyexp.tasks.captioning.extractors import Extractor
from noisyexp.tasks.captioning.features import load_features

END, UNKNOWN = 0, 1
SPECIALS = ("<end>", "UNK")

Annotations = Callable[[Tensor], Tensor]
"""Rows of images (B,) int64 to their annotations (B, S, D) float32."""


def words_of(caption: str) -> list[str]:
    """Lower-cased words between blanks; the full stop is a word."""
    return caption.lower().split()


def build_vocabulary(captions: Sequence[Sequence[str]]) -> Vocab:
    """End, unknown, then all words by falling frequency, ties in alphabetical order."""
    return build_vocab_from_iterator(captions, specials=SPECIALS)


@dataclass(frozen=True, eq=False)
class Captions:
    """The captions of a split.

    Attributes:
        tokens: (N, longest + 1) int64, each caption's words and then `END` to the end of its row.
        lengths: (N,) int64, words of each caption without the end.
        images: (N,) int64, row of its image among the annotations.
        names: name of its image, N.
    """

    tokens: Tensor
    lengths: Tensor
    images: Tensor
    names: list[str]

    def references(self, vocab: Vocab) -> tuple[list[str], Tensor, list[list[str]]]:
        """Images in the order of their first caption: names, rows, captions of each as text."""
        found: dict[str, list[str]] = {}
        rows: dict[str, int] = {}
        items = zip(self.names, self.images.tolist(), self.tokens, self.lengths, strict=True)
        for name, row, tokens, length in items:
            text = " ".join(vocab.lookup_tokens(tokens[: int(length)].tolist()))
            found.setdefault(name, []).append(text)
            rows[name] = row
        return list(found), torch.tensor(list(rows.values())), list(found.values())

    def by_image(self, values: Tensor) -> dict[str, float]:
        """Mean over its captions of each image, of one value (N,) a caption."""
        found: dict[str, list[float]] = {}
        for name, value in zip(self.names, values.tolist(), strict=True):
            found.setdefault(name, []).append(value)
        return {name: sum(each) / len(each) for name, each in found.items()}


def encode(
    captions: Sequence[Sequence[str]],
    names: Sequence[str],
    rows: Sequence[int],
    vocab: Vocab,
) -> Captions:
    """Captions of words as ids.

    Args:
        captions: words of each.
        names: of each one's image.
        rows: of each one's image.
        vocab: with every word of the captions.
    """
    lengths = torch.tensor([len(caption) for caption in captions])
    tokens = torch.full((len(captions), int(lengths.max()) + 1), END)
    for row, caption in enumerate(captions):
        tokens[row, : len(caption)] = torch.tensor(vocab.lookup_indices(list(caption)))
    return Captions(tokens, lengths, torch.tensor(rows), list(names))


class Batch(NamedTuple):
    """Captions of one length L with their annotations.

    Attributes:
        annotations: (B, S, D).
        inputs: (B, L + 1), the word before each; -1 before the first.
        targets: (B, L + 1), the words and the end.
    """

    annotations: Tensor
    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(*(part.to(device) for part in self))


def make_batch(captions: Captions, which: Tensor, annotations: Annotations, limit: int) -> Batch:
    """The captions `which`, padded to the longest of them.

    Args:
        captions: of the split.
        which: (B,) int64.
        annotations: of all images.
        limit: ids from this on become `UNKNOWN`.
    """
    targets = captions.tokens[which, : int(captions.lengths[which].max()) + 1]
    targets = torch.where(targets < limit, targets, UNKNOWN)
    first = torch.full((len(which), 1), -1)
    inputs = torch.cat([first, targets[:, :-1]], 1)
    return Batch(annotations(captions.images[which]), inputs, targets)


class Batches:
    """Order of the captions: every one once an epoch, all of a batch of the same length.

    At the start of an epoch the lengths and the captions of each length are shuffled; then one
    walks round and round over the lengths and takes the next `size` captions of each, until none
    is left. Two batches in a row thus have different lengths, and the last of each is small.

    Args:
        lengths: (N,) int64.
        size: most captions of a batch.
        seed: of the run.
    """

    def __init__(self, lengths: Tensor, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.groups = [torch.nonzero(lengths == n).view(-1) for n in sorted(set(lengths.tolist()))]
        self.per_epoch = sum(-(-len(group) // size) for group in self.groups)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def batch(self, step: int) -> Tensor:
        """Captions of update `step`, a function of (seed, step): (B,) int64."""
        epoch, index = divmod(step, self.per_epoch)
        return self._epoch(epoch)[index]

    def _make_epoch(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "captions", epoch))
        order = torch.randperm(len(self.groups), generator=generator).tolist()
        waiting = []
        for k in order:
            group = self.groups[k]
            shuffled = group[torch.randperm(len(group), generator=generator)]
            waiting.append(list(torch.split(shuffled, self.size)))
        turns = max(len(parts) for parts in waiting)
        return [parts[turn] for turn in range(turns) for parts in waiting if turn < len(parts)]

    def in_order(self) -> list[Tensor]:
        """All captions in batches of one length, for scoring."""
        return [part for group in self.groups for part in torch.split(group, self.size)]


@dataclass(frozen=True, eq=False)
class CaptionData:
    """What a run learns from.

    Attributes:
        splits: "train", "valid", "test".
        vocab: of all three.
        annotations: of all images.
        side: rows and columns of an image's map; it has side * side locations.
        channels: D.
        files: SHA-256 by name.
        facts: how the annotations were made.
    """

    splits: Mapping[str, Captions]
    vocab: Vocab
    annotations: Annotations
    side: int
    channels: int
    files: dict[str, str]
    facts: dict[str, Any]


def load_real(root: Path, features: str, train_images: int | None) -> CaptionData:
    """Flickr8k with the annotations of the extractor `features`.

    Args:
        root: data root.
        features: name of an extractor.
        train_images: use this many of the 6,000; None for all.

    Raises:
        NoisyexpError: files, or the network that makes the annotations, are missing.
        DataError: images of a split are not in the archive.
    """
    flickr, archive = load_flickr8k(root), open_images(root)
    splits = {name: list(images) for name, images in flickr.splits.items()}
    lost = sorted({n for images in splits.values() for n in images} - set(archive.members))
    if lost:
        raise DataError(
            f"{archive.path} lacks {len(lost):,} images of the splits, {lost[0]} first: its files "
            "have to have the names that the captions use"
        )
    found = load_features(archive, features)
    everything = [words_of(c) for images in splits.values() for n in images
                  for c in flickr.captions[n]]  # fmt: skip
    vocab = build_vocabulary(everything)
    splits["train"] = splits["train"][:train_images]
    encoded = {}
    for name, images in splits.items():
        pairs = [(image, words_of(c)) for image in images for c in flickr.captions[image]]
        names = [image for image, _ in pairs]
        rows = [found.rows[image] for image in names]
        encoded[name] = encode([words for _, words in pairs], names, rows, vocab)

    def annotations(rows: Tensor) -> Tensor:
        return torch.from_numpy(found.values[rows.numpy()].astype(np.float32))

    _, locations, channels = found.values.shape
    files = {
        **flickr.files,
        "flickr8k/Flickr8k_Dataset.zip": archive.sha256,
        f"features/{features}": found.facts["sha256"],
    }
    side = round(locations**0.5)
    return CaptionData(encoded, vocab, annotations, side, channels, files, found.facts)


def without_captions(words: Sequence[str], extractor: Extractor) -> CaptionData:
    """What a trained captioner needs for pictures from elsewhere.

    Args:
        words: of its vocabulary, in the order of their ids.
        extractor: of its annotations.
    """

    def nothing(rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), extractor.locations, extractor.channels)

    return CaptionData({}, Vocab(words), nothing, extractor.side, extractor.channels, {}, {})
