"""Moses tokenisation (sacremoses) of one line, and of a whole text once, in pieces, into the cache.

Options are those of `tokenizer.perl -l <language>`: special characters are escaped (&apos;),
hyphens stay, nothing is lower-cased.
"""

from __future__ import annotations

import gzip
import hashlib
import multiprocessing
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from noisyexp.data.europarl import TextFile
from noisyexp.data.progress import Counter
from noisyexp.errors import DataError
from noisyexp.fileio import atomic_write_bytes, explain, explain_read

FORMAT = 1
PIECE = 20_000
"""Lines of a piece: a killed preparation loses the pieces that were being made."""


@lru_cache
def _tokeniser(language: str) -> Any:
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=language)


@lru_cache
def _detokeniser(language: str) -> Any:
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(lang=language)


def tokenise(line: str, language: str) -> str:
    """The tokens of `line`, joined by blanks."""
    tokens: str = _tokeniser(language).tokenize(line.strip(), return_str=True)
    return tokens


def detokenise(tokens: str, language: str) -> str:
    """Plain text of tokens joined by blanks, escapes undone."""
    text: str = _detokeniser(language).detokenize(tokens.split(), return_str=True)
    return text


def tokenise_piece(lines: Sequence[str], language: str) -> bytes:
    """A gzip file of tokenised lines, the same bytes at any time."""
    text = "".join(f"{tokenise(line, language)}\n" for line in lines)
    return gzip.compress(text.encode("utf-8"), compresslevel=1, mtime=0)


def read_pieces(pieces: Iterable[Path], limit: int | None = None) -> Iterator[str]:
    """Tokenised lines of `pieces`, the first `limit`.

    Raises:
        DataError: a piece is damaged.
    """
    count = 0
    for piece in pieces:
        try:
            lines = gzip.decompress(piece.read_bytes()).decode("utf-8").split("\n")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(
                f"{piece}: cannot be read ({explain_read(error)}). Delete it and run again: it is "
                "made again."
            ) from error
        for line in lines[:-1]:
            if count == limit:
                return
            yield line
            count += 1


def tokenised_pieces(
    text: TextFile, language: str, cache: Path, limit: int | None = None, workers: int = 1
) -> list[Path]:
    """Tokenise `text` into the cache; what is there already is not made again.

    A piece is written when it is whole. Which pieces a text has, and what is in them, depends on
    its checksum, the language and the tokeniser's version alone.

    Args:
        text: one sentence a line.
        language: "en" or "fr".
        cache: folder of caches.
        limit: only as many pieces as hold the first `limit` lines; None for all.
        workers: processes; 1 works in this one.

    Returns:
        The pieces in order, `PIECE` lines each, the last one of the text perhaps fewer.

    Raises:
        DataError: the text cannot be read, the cache not be written, or a process does not live.
    """
    folder = cache / "moses" / text_key(text, language)
    total = _read_number(folder / "pieces")
    wanted = total if limit is None else -(-limit // PIECE)
    if total is not None and wanted is not None:
        wanted = min(wanted, total)
    if wanted is not None:
        paths = [_piece(folder, index) for index in range(wanted)]
        if all(path.is_file() for path in paths):
            return paths
    name = f"tokenising {text.member or text.path.name}"
    try:
        return list(_make_pieces(text, language, folder, wanted, workers, name))
    except (OSError, BrokenExecutor) as error:
        if workers == 1:
            raise
        raise DataError(
            f"{name}: {workers} processes cannot be started, or one of them was ended ({error}). "
            "The finished pieces are kept; run again with task.workers=1, which starts none."
        ) from error


def text_key(text: TextFile, language: str) -> str:
    """Name of a text's folder in the cache."""
    parts = (FORMAT, PIECE, text.sha256, text.member, language, version("sacremoses"))
    return hashlib.sha256(repr(parts).encode("utf-8")).hexdigest()[:24]


def _piece(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.gz"


def _write(path: Path, content: bytes) -> None:
    try:
        atomic_write_bytes(path, content)
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot be written ({explain(error)}). The environment variable "
            "NOISYEXP_CACHE names another folder for caches."
        ) from error


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _make_pieces(
    text: TextFile, language: str, folder: Path, wanted: int | None, workers: int, name: str
) -> Iterator[Path]:
    """`wanted` pieces in order, or all; at the end of the text the file that says how many."""
    waiting: deque[tuple[Path, list[str], Future[bytes] | None]] = deque()
    limit = None if wanted is None else wanted * PIECE
    lines, read, index = text.lines(limit), 0, 0
    counter = Counter(name, "lines", limit)

    def finish() -> Path:
        path, piece, made = waiting.popleft()
        fresh = not path.is_file()
        if fresh:
            content = tokenise_piece(piece, language) if made is None else made.result()
            _write(path, content)
        counter.add(len(piece), counts=fresh)
        return path

    # Not forked: torch's threads would not survive it.
    context = multiprocessing.get_context("spawn")
    processes: AbstractContextManager[ProcessPoolExecutor | None] = (
        ProcessPoolExecutor(workers, context) if workers > 1 else nullcontext()
    )
    with processes as pool, counter:
        while piece := list(islice(lines, PIECE)):
            path, made = _piece(folder, index), None
            if pool is not None and not path.is_file():
                made = pool.submit(tokenise_piece, piece, language)
            waiting.append((path, piece, made))
            read, index = read + len(piece), index + 1
            if pool is None or len(waiting) > 2 * workers:
                yield finish()
        counter.total = read
        while waiting:
            yield finish()
    if limit is None or read < limit:
        _write(folder / "pieces", str(index).encode())
