"""Draw results/figures/ from the committed run records: `make figures`.

Examples:
    python scripts/make_figures.py                  # all, and results/figures/README.md
    python scripts/make_figures.py table5 fig11
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.errors import NoisyexpError  # noqa: E402
from noisyexp.fileio import atomic_write_text  # noqa: E402
from noisyexp.results.gallery import FIGURES, Picture, page, remove_stale  # noqa: E402


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw figures from the committed run records.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; default: all")
    chosen = parser.parse_args(arguments).names
    for name in chosen:
        if name not in FIGURES:
            parser.error(f"no figure {name}; there are {', '.join(FIGURES)}")
    folder = root / "results" / "figures"
    drawn: dict[str, list[Picture]] = {}
    try:
        for name in chosen or FIGURES:
            drawn[name] = FIGURES[name](name, root)
            for picture in drawn[name]:
                print(f"wrote results/figures/{picture.stem}.svg and .png")
            for path in remove_stale(name, drawn[name], folder):
                print(f"removed {path.relative_to(root)}: no record gives it any longer")
        if not chosen:
            atomic_write_text(folder / "README.md", page(drawn))
            print("wrote results/figures/README.md")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
