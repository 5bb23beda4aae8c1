"""Draw the figures of results/figures from the committed run records, as `make figures` does.

Examples:
    noisyexp figure                  # all, and results/figures/README.md
    noisyexp figure 11
    noisyexp figure table5 fig8
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import exit_code_of, seen_from_here
from noisyexp.errors import ConfigError
from noisyexp.fileio import atomic_write_text
from noisyexp.pictures.catalogue import (
    Picture,
    captions_page,
    draw_figure,
    figure_names,
    remove_stale,
)
from noisyexp.places import project_root
from noisyexp.schema import closest, option


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    names: list[str] = option("figures, as 5, fig11 or table5; default: all")


def draw(arguments: Sequence[str], root: Path) -> None:
    """Draw the chosen figures; with all of them also the page that shows them.

    Raises:
        ConfigError: no such figure.
    """
    given = read_arguments(Arguments, arguments, {"names": []}, about=__doc__ or "", words="names")
    typed = {name: f"fig{name}" if name.isdigit() else name for name in given.names}
    chosen, names = list(typed.values()), figure_names(root)
    unknown = [
        f"{word}: choose from {', '.join(names)}.{closest(name, names)}"
        for word, name in typed.items()
        if name not in names
    ]
    if unknown:
        raise ConfigError(unknown)
    folder = root / "results" / "figures"
    drawn: dict[str, list[Picture]] = {}
    for name in chosen or names:
        drawn[name] = draw_figure(name, root)
        if chosen and not drawn[name]:
            print(f"{name}: no record in results/records to draw it from", file=sys.stderr)
        for picture in drawn[name]:
            print(f"wrote {seen_from_here(folder / picture.stem)}.svg and .png")
        for path in remove_stale(name, drawn[name], folder):
            print(f"removed {path.relative_to(root)}: no record has it any more")
    if not chosen:
        atomic_write_text(folder / "README.md", captions_page(drawn))
        print(f"wrote {seen_from_here(folder / 'README.md')}")


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(lambda: draw(arguments, root or project_root()))
