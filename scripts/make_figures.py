"""Draw results/figures/ from the committed run records: `make figures`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.errors import NoisyexpError  # noqa: E402
from noisyexp.results.figures import line_name, plot_curves  # noqa: E402
from noisyexp.results.records import load_records  # noqa: E402
from noisyexp.results.rows import load_rows  # noqa: E402


def draw_table2(root: Path) -> list[Path]:
    """Validation perplexity of the rows of Table 2 over epochs, a figure for each scale."""
    rows = {row.experiment: row for row in load_rows(root / "configs" / "experiment" / "table2")}
    records = [r for r in load_records(root / "results" / "records") if r.experiment in rows]
    metric = "valid_ppl_zaremba"
    drawn: list[Path] = []
    for scale in dict.fromkeys(record.scale for record in records):
        chosen = [record for record in records if record.scale == scale and record.data == "real"]
        if not chosen:
            continue
        ends = {
            line_name(record): end
            for record in chosen
            if scale == "paper" and (end := rows[str(record.experiment)].paper.get(metric))
        }
        path = root / "results" / "figures" / f"table2-{scale}"
        drawn += plot_curves(chosen, metric, path, ends)
    return drawn


def main() -> int:
    """Draw everything; returns the exit code."""
    try:
        for path in draw_table2(ROOT):
            print(f"wrote {path.relative_to(ROOT)}")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
