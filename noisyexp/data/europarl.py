"""Europarl v7 and the WMT news test sets, English and French, as lines of raw text.

Layout under the data root: newstest/newstest2011.{en,fr}; europarl/fr-en.tgz as downloaded, or its
unpacked europarl-v7.fr-en.{en,fr}, or europarl-v7.sample5.{en,fr}.gz, every fifth day of debates.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import IO

from noisyexp.data.download import RemoteFile, Source, resolve
from noisyexp.data.progress import Counter
from noisyexp.errors import DataError
from noisyexp.fileio import sha256_file

LANGUAGES = ("en", "fr")
CORPORA = ("full", "any")
ARCHIVE_ADDRESS = "https://www.statmt.org/europarl/v7/fr-en.tgz"
DEV_ADDRESS = "https://www.statmt.org/wmt12/dev.tgz"
_TIMEOUT_S = 60


@dataclass(frozen=True)
class TextFile:
    """A text of one sentence a line, packed or not.

    Attributes:
        path: the file.
        sha256: of the file as it lies there.
        member: the text's name inside the archive `path`; None if `path` is the text.
    """

    path: Path
    sha256: str
    member: str | None = None

    def lines(self, limit: int | None = None) -> Iterator[str]:
        r"""The first `limit` lines, without line end; only "\n" ends a line.

        Raises:
            DataError: the file cannot be unpacked, or is no UTF-8.
        """
        try:
            with self._open() as file:
                for line in islice(file, limit):
                    yield line.removesuffix(b"\n").decode("utf-8")
        except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
            raise DataError(f"{self.path}: cannot be read ({error}). Put the right file there.") \
                from error  # fmt: skip

    @contextmanager
    def _open(self) -> Iterator[Iterable[bytes]]:
        if self.member is not None:
            with tarfile.open(self.path, "r:gz") as archive:
                yield _find(archive, self.member)
        elif self.path.suffix == ".gz":
            with gzip.open(self.path, "rb") as packed:
                yield packed
        else:
            with self.path.open("rb") as file:
                yield file


def _find(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """The file `name` of an archive, in whatever folder it is there."""
    for member in archive:
        if member.isfile() and member.name.rsplit("/", 1)[-1] == name:
            file = archive.extractfile(member)
            assert file is not None
            return file
    raise KeyError(f"no {name} in the archive")


ARCHIVE = RemoteFile(
    "europarl/fr-en.tgz",
    "80f5d52113e23bfe51f890569ed69d2a1348127bca0894d07d1d23e0d0fac1e9",
    None,
    (ARCHIVE_ADDRESS,),
)
UNPACKED = {
    "en": "89fb4a28d1a7b97c8a77a8f94691db3d09abbfe131ce8f9e98398a4b943bacb2",
    "fr": "dfc2a6e92df0922241a12f2e33c4d1c74689958db85985a2914b34e774eee653",
}
"""SHA-256 of the texts in the archive."""
SAMPLE = {
    "en": "406dee2eff5c925b2051c0c1838dbd080d14af8871b5fe377756c64231a534a3",
    "fr": "ef4c40d5108b7702575a5a99358fd457d455738378111bde218b0a151820f803",
}
NEWSTEST = {
    "newstest2010": ("wmt10", {
        "en": (328_648, "1ebece77e333965cbc66fde735a6f17e026b4d6690f4f7fdaba839b7bdadac3b"),
        "fr": (383_398, "131ee7deb0ea517bdd6a85ca5f6f5ca3136c5f76daba426ef4dde3d60b9e66a9"),
    }),
    "newstest2011": ("wmt11", {
        "en": (396_884, "d387569743c0fa9097df4d4e2c1dd9e6ba9ef3cee6e0f473da3204c887dcf8fd"),
        "fr": (456_618, "9631ea545acf4b921add6baba856b03efae9f0de4c330a314091b3f925506c7f"),
    }),
    "newstest2012": ("wmt12", {
        "en": (381_734, "f9e51f85c4948033fc7d77ef427f4d88908a8dd3f778970f62d0baafac3ff97e"),
        "fr": (440_985, "29aa5aff172127f6adf5625cc2f8e44f579d524700e84f1ec0eb14f4f19719e4"),
    }),
}  # fmt: skip
"""Name that sacrebleu has for the set; size and SHA-256 by language."""


@lru_cache(maxsize=1)
def _dev_archive() -> bytes:
    """The archive of development sets: four files of it may be wanted one after the other."""
    with urllib.request.urlopen(DEV_ADDRESS, timeout=_TIMEOUT_S) as response:
        return bytes(response.read())


def dev_bytes(name: str) -> bytes:
    """The text `name` from the workshop's archive of development sets."""
    with tarfile.open(fileobj=io.BytesIO(_dev_archive()), mode="r:gz") as archive:
        return _find(archive, name).read()


def sacrebleu_bytes(test_set: str, language: str) -> bytes:
    """One side of the English-French pair of a test set that sacrebleu downloads and keeps."""
    from sacrebleu.utils import get_reference_files, get_source_file

    if language == "en":
        return Path(get_source_file(test_set, "en-fr")).read_bytes()
    return Path(get_reference_files(test_set, "en-fr")[0]).read_bytes()


def _newstest_file(name: str, language: str) -> RemoteFile:
    test_set, sides = NEWSTEST[name]
    size, sha256 = sides[language]
    file = f"{name}.{language}"
    mirrors = (
        Source(f"{DEV_ADDRESS}, file {file}", partial(dev_bytes, file)),
        Source(
            f"sacrebleu -t {test_set} -l en-fr --echo {'src' if language == 'en' else 'ref'}",
            partial(sacrebleu_bytes, test_set, language),
        ),
    )
    return RemoteFile(f"newstest/{file}", sha256, size, mirrors)


def newstest(root: Path, name: str, offline: bool | None = None) -> dict[str, TextFile]:
    """Both sides of a news test set from `root`/newstest, downloaded there if missing.

    Raises:
        DataError: see `noisyexp.data.download.resolve`.
        KeyError: a set that is not in `NEWSTEST`.
    """
    files = {language: _newstest_file(name, language) for language in LANGUAGES}
    return {
        language: TextFile(resolve(file, root, offline=offline), file.sha256)
        for language, file in files.items()
    }


def europarl(root: Path, corpus: str, offline: bool | None = None) -> dict[str, TextFile]:
    """Both sides of Europarl v7 from `root`/europarl.

    Args:
        root: data root.
        corpus: "full": all of it, downloaded if it is not there; "any": all of it if it is there,
            else every fifth day of debates if that is there, else all of it, downloaded.
        offline: never download; None asks the environment.

    Raises:
        DataError: a file is not the right one, or is missing and cannot be downloaded.
    """
    folder = root / "europarl"
    plain = {language: folder / f"europarl-v7.fr-en.{language}" for language in LANGUAGES}
    sample = {language: folder / f"europarl-v7.sample5.{language}.gz" for language in LANGUAGES}
    if all(path.is_file() for path in plain.values()):
        return {k: _checked(path, UNPACKED[k]) for k, path in plain.items()}
    here = (root / ARCHIVE.name).is_file()
    if corpus == "any" and not here and all(path.is_file() for path in sample.values()):
        return {k: _checked(path, SAMPLE[k]) for k, path in sample.items()}
    try:
        path = resolve(ARCHIVE, root, offline=offline, progress=_progress(ARCHIVE.name))
    except DataError as error:
        if corpus == "full" and all(path.is_file() for path in sample.values()):
            raise DataError(
                f"{error}\nEvery fifth day of the debates is there: task.corpus=any takes it."
            ) from error
        raise
    return {k: TextFile(path, ARCHIVE.sha256, name.name) for k, name in plain.items()}


def _progress(name: str) -> Callable[[int, int | None], None]:
    """A line now and then: the archive has 200 MB."""
    counter = Counter(f"downloading {name}", "bytes")
    return lambda received, _: counter.add(received - counter.done)


def _checked(path: Path, sha256: str) -> TextFile:
    found = sha256_file(path)
    if found != sha256:
        raise DataError(
            f"{path}: this file is not the one that is needed; it was left as it is.\n"
            f"  expected SHA-256 {sha256}\n  found    SHA-256 {found}\n"
            "Delete it, or put the right file there."
        )
    return TextFile(path, sha256)
