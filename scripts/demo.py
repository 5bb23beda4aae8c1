"""Train three units on a generated language and show what came out: `make demo`.

Needs no data and no network. About a minute and a half on two cores.
"""

from __future__ import annotations

import subprocess
import sys

from rich.console import Console
from rich.table import Table

from noisyexp.cli.compose import check
from noisyexp.places import CHECKOUT
from noisyexp.results.figures import plot_curves
from noisyexp.results.records import Record, load_record

ACTS = ("reference", "nan_normal", "nah")
SETTING = ["task=ptb", "data=generated", "scale=demo"]


def show(records: list[Record], floor: float) -> None:
    """Print the end points as a table, the best possible value beside them."""
    table = Table(title="Word LSTM on a generated language: perplexity (smaller is better)")
    for heading in ("unit", "training", "validation", "test", "best possible", "ms/step"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    for record in records:
        final = record.final
        table.add_row(
            str(record.config["act"]["label"]),
            *(f"{final[name]:.2f}" for name in ("train_ppl", "valid_ppl", "test_ppl")),
            f"{floor:.2f}",
            f"{1000 * record.cost['s_per_step']:.0f}",
        )
    # A fixed width: in a log file rich would otherwise assume 80 columns and cut.
    Console(width=90).print(table)


def main(overrides: list[str]) -> int:
    """Run the three arms, then print the table and draw the curves; returns the exit code."""
    sweep = [
        sys.executable,
        "-m",
        "noisyexp",
        "run",
        "-m",
        *SETTING,
        f"act={','.join(ACTS)}",
        *overrides,
    ]
    code = subprocess.run(sweep, cwd=CHECKOUT).returncode
    if code:
        return code
    specs = [check([*SETTING, f"act={act}", *overrides])[0] for act in ACTS]
    records = [load_record(CHECKOUT / spec.folder / "run.json") for spec in specs]
    floor = records[0].floor["valid_ppl"]
    show(records, floor)
    path = CHECKOUT / specs[0].folder.parent / "demo"
    _, png = plot_curves(records, "valid_ppl", path, levels={"valid_ppl": {"best possible": floor}})
    print(f"figure: {png.relative_to(CHECKOUT)}")
    print("The same on the Penn Treebank: python run.py task=ptb act=nah scale=cpu")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
