"""Compile the C kernels once per machine and keep the library in the user's cache.

Three calls of the C compiler at first use, side by side (ten seconds, no network, no header but the
C library's); stderr says so once.
The file name holds a hash of the sources, flags, compiler and processor, so that a home directory
which several machines share never serves one of them the instructions of another.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from noisyexp.kernels.kept import find_or_make, say

SOURCES = Path(__file__).parent / "src"

# No flag here lets the compiler assume that NaN does not occur: a diverged run has to show it.
_BASE = ("-fPIC", "-shared", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")
_FOR_THIS_MACHINE = (
    (*_BASE, "-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    (*_BASE, "-march=native", "-fopenmp"),
    (*_BASE, "-march=native"),
    _BASE,
)
FLAG_SETS: tuple[tuple[str, ...], ...] = tuple(
    (*flags, *extra) for extra in ((), ("-DNO_TILES",)) for flags in _FOR_THIS_MACHINE
)
"""Tried in this order: not every compiler has OpenMP or knows every processor, and not every
assembler knows AMX."""

PARTS: Mapping[int, tuple[str, ...]] = {2: ("-O3",), 1: ("-O3",), 3: ("-O2",)}
"""PART of kernels.c, the longest first, and how it is optimised. Double precision is for checks:
with -O2 it is a fifth slower, no slower than torch's layers, and compiles in half of the time."""

LONGEST = 600
"""Seconds after which a compiler is given up; it takes 10 on two idle cores."""


class BuildError(RuntimeError):
    """No compiler, or none of the flag sets works; the message says what was tried."""


def compiler_command() -> list[str] | None:
    """The C compiler as words of a command: $CC, as in CC="ccache gcc", else cc, gcc or clang."""
    given = os.environ.get("CC", "").strip()
    try:
        commands = [shlex.split(given)] if given else [["cc"], ["gcc"], ["clang"]]
    except ValueError:  # a quotation mark without its other: no command
        return None
    for words in commands:
        path = shutil.which(words[0])
        if path:
            return [path, *words[1:]]
    return None


def find_compiler() -> str | None:
    """Path of the program that `compiler_command` calls."""
    command = compiler_command()
    return command[0] if command else None


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def library_name(command: Sequence[str]) -> str:
    """File name of the library that the compiler makes of these sources on this machine."""
    digest = hashlib.blake2b(digest_size=12)
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    programs = [Path(path).resolve() for word in command if (path := shutil.which(word))]
    parts = (
        FLAG_SETS,
        sorted(PARTS.items()),
        list(command),
        [(str(program), program.stat().st_mtime_ns) for program in programs],
        _processor(),
        platform.system(),
    )
    digest.update(repr(parts).encode("utf-8"))
    return f"kernels-{digest.hexdigest()}.so"


def build(again: bool = False) -> Path:
    """Path of the compiled library; compiles when it is not in the cache, or not whole there.

    Args:
        again: compile in any case: what is there cannot be loaded.

    Raises:
        BuildError: no compiler was found, or it failed with every set of flags.
    """
    command = compiler_command()
    if command is None:
        raise BuildError(
            f"no C compiler found (looked for {os.environ.get('CC') or 'cc, gcc, clang'})"
        )

    def compile(target: Path) -> None:
        say("compiling the kernels for this processor, once; about 10 seconds on two cores")
        _compile(command, target)

    return find_or_make(library_name(command), _processor(), compile, again)


def _compile(compiler: Sequence[str], target: Path) -> None:
    errors = []
    for flags in FLAG_SETS:
        error = _try(compiler, flags, target)
        if error is None:
            return
        errors.append(error)
    raise BuildError(f"{' '.join(compiler)} failed: {errors[-1].strip()[-500:]}")


def _try(compiler: Sequence[str], flags: Sequence[str], target: Path) -> str | None:
    """Compile with one set of flags, all parts side by side; None, or what the compiler said."""
    objects = {part: target.with_name(f"{target.name}-{part}.o") for part in PARTS}
    source = str(SOURCES / "kernels.c")
    errors = _run(
        [*compiler, *flags, *PARTS[part], f"-DPART={part}", "-c", source, "-o", str(path)]
        for part, path in objects.items()
    )
    if errors is None:
        linked = map(str, objects.values())
        errors = _run([[*compiler, *flags, "-o", str(target), *linked, "-lm"]])
    for path in objects.values():
        path.unlink(missing_ok=True)
    return errors


def _run(commands: Iterable[Sequence[str]]) -> str | None:
    """Run commands side by side to their end; None, or what the first that failed said."""
    started, errors = [], []
    try:
        for command in commands:
            pipe = subprocess.PIPE
            started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        for process in started:
            _, said = process.communicate(timeout=LONGEST)
            if process.returncode:
                errors.append(said or f"exit status {process.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        errors.append(str(error))
    finally:
        for process in started:
            process.kill()
            process.wait()
    return errors[0] if errors else None
