"""Where the inputs of the units lie over training, from the numbers of `scripts/mechanism.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.fileio import read_json
from noisyexp.pictures.curves import LINE_STYLES, MARKERS, PALETTE, figure_style, save_figure

PLACES = {"gates": "ifo", "candidate": "g", "cell output": "c"}
"""Units of an LSTM layer that are shown together: the sigmoids, and each tanh."""
OVER_TRAINING = {
    "beyond_percent": "beyond the thresholds [%]",
    "gradient_beyond_percent": "gradient that passes there [%]",
    "mean_absolute": "mean size of an input",
}
"""Panels over the epochs, and their labels; the last panel is the histogram at the end."""


def load_mechanism(folder: Path) -> dict[str, Any]:
    """The measurements of a folder by the name of their row, in alphabetical order.

    Raises:
        RecordError: two are not of one seed, or were not taken at the same epochs.
    """
    found = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    kinds = {(one["seed"], tuple(epochs_of(one)), one["windows"]) for one in found.values()}
    if len(kinds) > 1:
        raise RecordError(f"{folder}: measurements of several seeds, epochs or windows: {kinds}")
    return found


def epochs_of(measured: Mapping[str, Any]) -> list[int]:
    """Epochs after which was measured."""
    return [one["epoch"] for one in measured["snapshots"]]


def at_place(snapshot: Mapping[str, Any], place: str) -> list[Mapping[str, Any]]:
    """The units of a snapshot at one of `PLACES`, of all layers."""
    return [unit for name, unit in snapshot["units"].items() if name[-1] in PLACES[place]]


def mean_over_epochs(measured: Mapping[str, Any], place: str, key: str) -> list[float]:
    """A number of the units at a place, its mean over units and layers, for every snapshot."""
    means = []
    for snapshot in measured["snapshots"]:
        values = [float(unit[key]) for unit in at_place(snapshot, place)]
        means.append(sum(values) / len(values))
    return means


def density(measured: Mapping[str, Any], place: str) -> tuple[list[float], list[float]]:
    """Middles of the bins, and the density of inputs in them after the last epoch.

    The outermost bins hold all that lies beyond, and are left out; the rest is a share of all.
    """
    edge, count = measured["bins"]["edge"], measured["bins"]["count"]
    width = 2 * edge / count
    units = at_place(measured["snapshots"][-1], place)
    sums = [sum(column) for column in zip(*(unit["histogram"] for unit in units), strict=True)]
    total = sum(sums)
    middles = [-edge + (k + 0.5) * width for k in range(count)]
    return middles[1:-1], [number / total / width for number in sums[1:-1]]


def draw_mechanism(
    found: Mapping[str, Any], labels: Mapping[str, str], path: Path
) -> tuple[Path, Path]:
    """Panels by place (columns) and number (rows), a line a row of the table; as SVG and PNG.

    Args:
        found: measurements by name of the row, see `load_mechanism`.
        labels: printed label by name of the row.
        path: where to write; the suffix is replaced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(figsize=(9.6, 9.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(OVER_TRAINING) + 1, len(PLACES), squeeze=False)
        for column, place in enumerate(PLACES):
            axes[0, column].set_title(place)
            for panel, key in zip(axes[:-1, column], OVER_TRAINING, strict=True):
                _draw_epochs(panel, found, place, key)
            _draw_densities(axes[-1, column], found, labels, place)
        for panel, text in zip(axes[:, 0], [*OVER_TRAINING.values(), "density"], strict=True):
            panel.set_ylabel(text)
        handles, names = axes[-1, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=1, frameon=False)
        return save_figure(figure, path)


def _look(index: int) -> dict[str, Any]:
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
    }


def _draw_epochs(panel: Any, found: Mapping[str, Any], place: str, key: str) -> None:
    for index, measured in enumerate(found.values()):
        panel.plot(
            epochs_of(measured), mean_over_epochs(measured, place, key), **_look(index),
            marker=MARKERS[1 + index], markersize=4, clip_on=False,
        )  # fmt: skip
    panel.set(xlabel="epoch", xlim=(0, None), ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)


def _draw_densities(
    panel: Any, found: Mapping[str, Any], labels: Mapping[str, str], place: str
) -> None:
    threshold = 2.0 if place == "gates" else 1.0
    for index, (name, measured) in enumerate(found.items()):
        label = labels.get(name, name)
        panel.plot(*density(measured, place), **_look(index), linewidth=1.2, label=label)
    for side in (-threshold, threshold):
        panel.axvline(side, color="0.6", linewidth=0.8, linestyle=":")
    panel.set(xlabel="input", yscale="log", xlim=(-12, 12))


def caption_mechanism(found: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Text under the figure, with the numbers of every row after the last epoch."""
    first = next(iter(found.values()))
    rows = "; ".join(f"{labels.get(name, name)}: {_end(one)}" for name, one in found.items())
    words = first["windows"] * 20 * 20
    return (
        "Inputs of the units of the LSTM of Table 2 over training, one run a row, seed "
        f"{first['seed']}: before the first update and after epochs "
        f"{_listed(epochs_of(first)[1:])}, on {words:,} words of the validation text, with noise "
        "replaced by its expectation; means over units and both layers. Second line: the share of "
        "the gradient in a unit's inputs, by size, that lies beyond the thresholds of the hard "
        "units (dotted in the last line). Last line: after the last epoch, on a logarithmic scale, "
        "without what is beyond 12. After the last epoch, as gates / candidate / cell output: "
        f"{rows}."
    )


def _listed(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def _end(measured: Mapping[str, Any]) -> str:
    """The last numbers of one row."""
    parts = []
    for key, text in (
        ("beyond_percent", "% beyond"), ("gradient_beyond_percent", "% of the gradient there"),
        ("mean_absolute", "mean size"),
    ):  # fmt: skip
        digits = 2 if key == "mean_absolute" else 1
        numbers = " / ".join(
            f"{mean_over_epochs(measured, place, key)[-1]:.{digits}f}" for place in PLACES
        )
        parts.append(f"{numbers} {text}")
    return ", ".join(parts)
