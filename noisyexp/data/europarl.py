"""Europarl v7 and the WMT news test sets, English and French, as lines of raw text.

Layout under the data root: newstest/newstest2011.{en,fr}; europarl/fr-en.tgz as downloaded, or its
unpacked europarl-v7.fr-en.{en,fr}, or europarl-v7.sample5.{en,fr}.gz, every fifth day of debates.
"""

from __future__ import annotations

import gzip
import tarfile
import urllib.request
import zlib
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
from noisyexp.fileio import explain_read

LANGUAGES = ("en", "fr")
CORPORA = ("full", "any")
ARCHIVE_ADDRESS = "https://www.statmt.org/europarl/v7/fr-en.tgz"
DEV_ADDRESS = "https://www.statmt.org/wmt12/dev.tgz"
DEV_SETS = ("newstest2010", "newstest2011")
"""What that archive has; it was made for the workshop whose test set is newstest2012."""
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
        except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
            said = f"{self.path}: cannot be read ({explain_read(error)}). Put the right file there."
            raise DataError(said) from error

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
def _dev_texts() -> dict[str, bytes] | Exception:
    """All texts of the archive of development sets that may be wanted, or why there are none.

    A process asks once: up to four files are wanted one after the other.
    """
    wanted = {f"{name}.{language}" for name in DEV_SETS for language in LANGUAGES}
    try:
        with (
            urllib.request.urlopen(DEV_ADDRESS, timeout=_TIMEOUT_S) as response,
            tarfile.open(fileobj=response, mode="r|gz") as archive,
        ):
            return {
                name: file.read()
                for member in archive
                if (name := member.name.rsplit("/", 1)[-1]) in wanted
                and (file := archive.extractfile(member))
            }
    except Exception as error:
        return error


def dev_bytes(name: str) -> bytes:
    """The text `name` from the workshop's archive of development sets."""
    texts = _dev_texts()
    if isinstance(texts, Exception):
        raise texts
    return texts[name]


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
    mirrors = [
        Source(
            f"sacrebleu -t {test_set} -l en-fr --echo {'src' if language == 'en' else 'ref'}",
            partial(sacrebleu_bytes, test_set, language),
        )
    ]
    if name in DEV_SETS:
        mirrors.insert(0, Source(f"{DEV_ADDRESS}, file {file}", partial(dev_bytes, file)))
    return RemoteFile(f"newstest/{file}", sha256, size, tuple(mirrors))


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
    try:
        (folder / ARCHIVE.name).exists()
    except OSError as error:  # a folder that may not be looked into
        raise DataError(f"{folder}: cannot be read ({explain_read(error)})") from error
    if all(path.is_file() for path in plain.values()):
        return {k: _checked(root, path, UNPACKED[k]) for k, path in plain.items()}
    here = (root / ARCHIVE.name).is_file()
    if corpus == "any" and not here and all(path.is_file() for path in sample.values()):
        return {k: _checked(root, path, SAMPLE[k]) for k, path in sample.items()}
    try:
        path = resolve(ARCHIVE, root, offline=offline, progress=_progress(ARCHIVE.name))
    except DataError as error:
        raise DataError(f"{error}\n{_instead(plain, sample)}") from error
    return {k: TextFile(path, ARCHIVE.sha256, name.name) for k, name in plain.items()}


def _progress(name: str) -> Callable[[int, int | None], None]:
    """A line now and then: the archive has 200 MB."""
    counter = Counter(f"downloading {name}", "bytes")
    return lambda received, _: counter.add(received - counter.done)


def _instead(plain: dict[str, Path], sample: dict[str, Path]) -> str:
    """Which files would do in place of the archive, and which of them lacks its partner."""
    if all(path.is_file() for path in sample.values()):
        return "Every fifth day of the debates is there: task.corpus=any takes it."
    lines = [
        f"{' and '.join(path.name for path in plain.values())} in that folder will do as well, "
        f"with task.corpus=any also {' and '.join(path.name for path in sample.values())}."
    ]
    for pair in (plain, sample):
        missing = [path for path in pair.values() if not path.is_file()]
        if len(missing) == 1:
            lines.append(f"One of each two is not enough: {missing[0]} is missing.")
    return "\n".join(lines)


def _checked(root: Path, path: Path, sha256: str) -> TextFile:
    where = f"{ARCHIVE_ADDRESS}, of which it is a part"
    file = RemoteFile(path.relative_to(root).as_posix(), sha256, None, (where,))
    return TextFile(resolve(file, root, offline=True), sha256)
