"""Look at a unit: a picture and a table of value, spread and gradient.

Examples:
    noisyexp inspect act=nah
    noisyexp inspect act=nan kind=sigmoid c=0.15 alpha=1.1 p=1 code_compat=true
    noisyexp inspect act=all kind=both out=units
    noisyexp inspect "hydra.searchpath=[file://$PWD/configs]" act=mine act.settings.k=2
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from noisyexp.activations import Activation, variants
from noisyexp.cli.arguments import help_lines
from noisyexp.cli.inspect_settings import ALL, DEFAULTS, Settings, parse
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.fileio import atomic_write_text, explain_at
from noisyexp.pictures.unit_equations import describe
from noisyexp.pictures.unit_pages import Drawing, draw_overview, draw_unit, measure_unit, page
from noisyexp.pictures.unit_profile import PROBE, look_at, make_unit, measure

TABLE_X = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
TABLE_DRAWS = 20_000


def table(unit: Activation) -> Table:
    """Value, spread and gradient at a few inputs."""
    found = measure(unit, torch.tensor(TABLE_X, dtype=torch.float64), TABLE_DRAWS)
    grid = Table(title=describe(unit), title_style="bold")
    for head in ("x", "mean", "std", "expected", "gradient", "5 %", "95 %"):
        grid.add_column(head, justify="right")
    columns = (
        found.mean, found.std, found.expected, found.gradient_mean, found.gradient_quantiles[0],
        found.gradient_quantiles[-1],
    )  # fmt: skip
    for x, *numbers in zip(TABLE_X, *(column.tolist() for column in columns), strict=True):
        grid.add_row(f"{x:g}", *(f"{number:.4f}" for number in numbers))
    return grid


def units(settings: Settings) -> list[Activation]:
    """The units to look at, kind by kind.

    Raises:
        ConfigError: with every mistake in the words that a run has, too.
    """
    if settings.overrides:
        from noisyexp.cli.compose import check  # all of Hydra, for units of one's own alone

        act = check(settings.overrides)[0].config.act.spec()
        return [look_at(act(kind, 1, **PROBE), settings.p) for kind in settings.kinds]
    given = dataclasses.asdict(settings)
    for key in ("act", "kind", "out", "words"):
        del given[key]
    return [make_unit(kind, act, **given) for kind in settings.kinds for act in settings.acts]


def target(settings: Settings) -> Path:
    """The path to write to, without suffix.

    Raises:
        ConfigError: it is a folder.
    """
    # A name of somebody's own, as my_package.MyUnit, has dots.
    path = Path(settings.out or f"inspect-{settings.act}-{settings.kind}".replace(".", "-"))
    if path.is_dir():
        raise ConfigError([f"out={path}: is a folder; give the name of a file in it"])
    known = path.suffix in (".png", ".svg", ".html")
    return path.with_suffix("") if known else path


def run(settings: Settings, console: Console) -> None:
    """Print the tables and write the pictures."""
    path = target(settings)
    chosen = units(settings)
    for name in settings.unused(type(chosen[0])):
        console.print(f"note: {settings.act} does not use {name}")
    for unit in chosen:
        console.print(table(unit))
    drawings = [measure_unit(unit) for unit in chosen]
    if settings.act == ALL:
        written = save_page(drawings, settings.kind, path)
    else:
        written = []
        for drawing in drawings:
            end = f"-{drawing.unit.kind.name}" if len(drawings) > 1 else ""
            written += draw_unit(drawing, path.with_name(f"{path.name}{end}.png"))
    for file in written:
        console.print(f"wrote {file}", soft_wrap=True, highlight=False)


def save_page(drawings: Sequence[Drawing], kind: str, path: Path) -> list[Path]:
    """The overview, and a page with it and the pictures of all units inside."""
    svg, png = draw_overview(drawings, path.with_name(f"{path.name}.png"))
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        for drawing in drawings:
            name = f"{drawing.unit.variant}, {drawing.unit.kind.name}"
            picture, _ = draw_unit(drawing, Path(folder) / "unit.png")
            sections.append((name, picture.read_bytes()))
    file = path.with_name(f"{path.name}.html")
    atomic_write_text(file, page(f"Units of noisyexp, {kind}", svg.read_bytes(), sections))
    return [file, png, svg]


def usage() -> str:
    """The arguments, and the names of the units."""
    lines = [__doc__ or "", "Arguments", *help_lines(Settings, DEFAULTS)]
    return "\n".join([*lines, "", f"Units: {', '.join(variants())}"])


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    try:
        run(parse(arguments), Console())
    except NoisyexpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        said = explain_at(error)
        print(f"cannot write the picture: {said}; choose another out=<path>", file=sys.stderr)
        return 1
    return 0
