"""Dictionaries and ids of tokenised text: in memory, or once on disk and mapped from there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from noisyexp.data.moses import read_pieces
from noisyexp.data.vocab import Vocab
from noisyexp.errors import DataError
from noisyexp.fileio import check_regular, explain, explain_read

EOS, UNK = "<eos>", "UNK"
"""The first two words of every dictionary. Moses escapes < and >: no text has the first."""

FORMAT = 1
_DAY_S = 86_400.0
Ids = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Side:
    """One language of a parallel text.

    Attributes:
        vocab: words by id: `EOS`, `UNK`, then by falling frequency.
        ids: the words of all sentences one after the other, without any `EOS`.
        starts: (sentences + 1,) where each sentence begins, and the end.
    """

    vocab: Vocab
    ids: Ids
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Ids:
        """Ids of a sentence."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Words of every sentence."""
        return np.diff(self.starts)


def build_dictionary(lines: Iterable[str], size: int) -> Vocab:
    """`EOS`, `UNK` and the `size` - 2 most frequent words; equally frequent ones by alphabet.

    Args:
        lines: words joined by blanks.
        size: ids, the two specials included.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split())
    for special in (EOS, UNK):
        counts.pop(special, None)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return _vocab([EOS, UNK, *ordered[: size - 2]])


def _vocab(words: list[str]) -> Vocab:
    vocab = Vocab(words)
    vocab.set_default_index(1)
    return vocab


def encode(lines: Iterable[str], vocab: Vocab) -> Side:
    """Ids of tokenised lines, words that the dictionary lacks as `UNK`."""
    kind = np.uint16 if len(vocab) <= 1 << 16 else np.int32
    ids, lengths = [], []
    for line in lines:
        sentence = np.array(vocab.lookup_indices(line.split()), dtype=kind)
        ids.append(sentence)
        lengths.append(len(sentence))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Side(vocab, np.concatenate([np.empty(0, kind), *ids]), starts)


def encode_lines(lines: list[str], size: int) -> Side:
    """Dictionary and ids of a text in memory."""
    return encode(lines, build_dictionary(lines, size))


def encode_pieces(pieces: list[Path], limit: int | None, size: int, cache: Path) -> Side:
    """Dictionary and ids of the first `limit` lines of a tokenised text, kept in the cache.

    Made in a folder of its own, then renamed: what is there is whole.

    Args:
        pieces: from `tokenised_pieces`; their folder's name says which text it is.
        limit: None for all lines.
        size: of the dictionary.
        cache: folder of caches.

    Raises:
        DataError: the cache cannot be read or written.
    """
    parts = (FORMAT, pieces[0].parent.name, len(pieces), limit, size)
    folder = cache / "ids" / hashlib.sha256(repr(parts).encode("utf-8")).hexdigest()[:24]
    if not folder.is_dir():
        dictionary = build_dictionary(read_pieces(pieces, limit), size)
        side = encode(read_pieces(pieces, limit), dictionary)
        try:
            _keep(side, folder)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be written ({explain(error)}). Free some space there, or set "
                "the environment variable NOISYEXP_CACHE to a folder that can be written."
            ) from error
    try:
        return _kept(folder)
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{folder}: cannot be read ({explain_read(error)}). Delete this folder and run again: "
            "it is made again."
        ) from error


def _kept(folder: Path) -> Side:
    """What `_keep` wrote; ValueError or RuntimeError if its parts do not fit each other."""
    words = (folder / "dictionary.txt").read_text("utf-8").split("\n")[:-1]
    ids, starts = (_array(folder / f"{name}.npy") for name in ("ids", "starts"))
    if starts[0] != 0 or starts[-1] != len(ids):
        raise ValueError(f"sentences end at {starts[-1]:,} of {len(ids):,} words")
    # Every word but the specials is in the text: the last one has the largest id.
    last = int(ids.max(initial=1))
    if last != len(words) - 1:
        raise ValueError(f"a dictionary of {len(words):,} words, and ids up to {last:,}")
    return Side(_vocab(words), ids, starts)


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        check_regular(path)
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except Exception as error:  # the header of a damaged file is read as Python
        raise ValueError(f"{path.name}: {explain_read(error)}") from error
    return found


def _keep(side: Side, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(".new-*"):  # of a process that was killed
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _DAY_S:
                shutil.rmtree(old)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        text = "".join(f"{word}\n" for word in side.vocab.get_itos())
        (fresh / "dictionary.txt").write_text(text, "utf-8")
        np.save(fresh / "ids.npy", side.ids)
        np.save(fresh / "starts.npy", side.starts)
        for path in fresh.iterdir():  # all of it is on the disk before it has its name
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        fresh.chmod(0o755)  # the cache may be shared, and mkdtemp's folders are not
        try:
            os.replace(fresh, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
