"""Train three units on a generated language, print a table and draw the curves: `make demo`.

Needs no data and no network. About two minutes on two cores.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from noisyexp.places import CHECKOUT
from noisyexp.process import run_child

# Others are imported where they are used: they take seconds, and the first line shall not wait.
if TYPE_CHECKING:
    from noisyexp.records.run_record import RunRecord

ACTS = ("reference", "nan_normal", "nah")
SETTING = ["task=ptb", "data=generated", "scale=demo"]
FIRST_LINE = (
    "demo: a word LSTM with soft, NAN and NAH units on a generated language, three runs one after "
    "the other; about two minutes on two cores"
)


def show(records: list[RunRecord], floor: float) -> None:
    """Print the end points as a table, the best possible value beside them."""
    from rich.console import Console
    from rich.table import Table

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
    roots = [word.partition("=")[2] for word in overrides if word.startswith("run_root=")]
    print(f"{FIRST_LINE}; writes to {roots[-1] if roots else 'runs'}/ptb", flush=True)
    sweep = [*SETTING, f"act={','.join(ACTS)}", *overrides]
    command = [sys.executable, "-m", "noisyexp", "run", "-m", *sweep]
    code = run_child(command, CHECKOUT)
    if code:
        return code
    from noisyexp.cli.compose import check
    from noisyexp.pictures.curves import plot_curves
    from noisyexp.records.record_files import load_record

    specs = [check([*SETTING, f"act={act}", *overrides])[0] for act in ACTS]
    records = [load_record(CHECKOUT / spec.folder / "run.json") for spec in specs]
    floor = records[0].floor["valid_ppl"]
    show(records, floor)
    path = CHECKOUT / specs[0].folder.parent / "demo"
    _, png = plot_curves(records, "valid_ppl", path, levels={"valid_ppl": {"best possible": floor}})
    print(f"figure: {png.relative_to(CHECKOUT) if png.is_relative_to(CHECKOUT) else png}")
    print("The same on the Penn Treebank: python run.py task=ptb act=nah scale=cpu")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
