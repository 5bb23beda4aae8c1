"""Benchmark results as a page and a picture, from the JSON that the benchmark wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noisyexp.nan_names import as_typed
from noisyexp.pictures.curves import LINE_STYLES, PALETTE, figure_style, save_figure

_LABELS = {"torch": "torch.nn.LSTM", "nah": "NAH", "nah saturated": "NAH, most units saturated"}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _page(title: str, *blocks: str) -> str:
    """A page of paragraphs, headings and tables with a blank line between them."""
    return "\n\n".join([f"# {title}", *blocks]) + "\n"


def _beside(value: float, base: float, digits: int = 1) -> str:
    """A number, and in brackets its ratio to another."""
    return f"{value:.{digits}f} ({value / base:.2f})"


def _size(row: Mapping[str, Any]) -> str:
    return f"{row['batch']}, {row['steps']}, {row['hidden']}, {row['layers']} {row['cell'].upper()}"


def _threads(row: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in row if key.startswith("threads "))


def _time_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for row in result["sizes"]:
        for threads in _threads(row):
            times = {kind: value["both_ms"] for kind, value in row[threads].items()}
            torch_ms = times["torch"]
            rows.append(
                [_size(row), threads.removeprefix("threads "), f"{torch_ms:.1f}"]
                + [_beside(times[kind], torch_ms) for kind in ("hard", "nah", "nah saturated")]
                + [f"{times['nah eager']:.0f}", f"{times['nah eager'] / times['nah']:.1f}"]
            )
    return rows


def _memory_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for row in result["sizes"]:
        held, peak = row["held_mib"], row["peak_mib"]
        rows.append(
            [_size(row)]
            + [f"{held[kind]:.1f}" for kind in ("torch", "nah", "nah eager")]
            + [f"{held['nah'] / held['torch']:.2f}"]
            + [f"{peak[kind]:.0f}" for kind in ("torch", "nah", "nah eager")]
        )
    return rows


def _small_section(result: Mapping[str, Any]) -> Sequence[str]:
    """Nothing for results from before there was one."""
    rows = []
    for row in result.get("small", ()):
        for threads in _threads(row):
            times = row[threads]
            base = times["torch"]
            noisy = [_beside(times[kind], base, 3) for kind in ("hard", "nah")]
            rows.append([row["name"], threads.removeprefix("threads "), f"{base:.3f}", *noisy])
    if not rows:
        return ()
    return (
        "## Cells called step by step and lone units, forward and backward, milliseconds",
        f"Medians of {3 * result['settings']['rounds']} rounds. In brackets: against torch's.",
        _table(["", "threads", "torch", "hard", "NAH"], rows),
    )


def _ptb_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for threads, arms in sorted(result["ptb"].items()):
        for part, reference in arms["reference"].items():
            noisy = arms["nah"][part]
            rows.append(
                [threads.removeprefix("threads "), part, f"{reference:.1f}", f"{noisy:.1f}",
                 f"{noisy / reference:.2f}"]
            )  # fmt: skip
    return rows


def layers_page(result: Mapping[str, Any]) -> str:
    """The tables of `benchmarks/layers.py` in Markdown."""
    return _page(
        "Speed and memory of the noisy layers",
        f"{_origin(result)}. Medians of "
        f"{result['settings']['rounds']} rounds in which all take turns (2 for the plain loop).",
        "## Forward and backward, milliseconds (in brackets: against torch's layer)",
        _table(
            ["batch, steps, hidden, layers", "threads", "torch", "hard", "NAH",
             "NAH, most units saturated", "NAH, plain loop", "plain loop / NAH"],
            _time_rows(result),
        ),
        *_small_section(result),
        "## Memory, MiB",
        "Held for backward: tensors that the graph keeps after forward, without weights and input; "
        "torch's LSTM holds workspaces, and pages of them that it never touches count too. "
        "Peak: growth of a fresh process over three passes, with the matrix library's buffers.",
        _table(
            ["batch, steps, hidden, layers", "held: torch", "held: NAH", "held: plain loop",
             "NAH / torch", "peak: torch", "peak: NAH", "peak: plain loop"],
            _memory_rows(result),
        ),
        "## One training step of Table 2's model, milliseconds",
        _table(["threads", "part", "torch.nn.LSTM", "NAH", "ratio"], _ptb_rows(result)),
        "## Growth",
        "![time against hidden size and steps](layers.png)",
    )  # fmt: skip


_GPU_ARMS = {
    "torch": "cuDNN", "torch TF32": "cuDNN, TF32", "torch bf16": "cuDNN, bf16", "hard": "hard",
    "nah": "NAH", "nah bf16": "NAH, bf16", "nah by steps": "NAH, a launch a step",
    "nah eager": "NAH, plain loop",
}  # fmt: skip


def _gpu_cells(times: Mapping[str, float], arms: Sequence[str]) -> list[str]:
    """Times of the arms; ours beside cuDNN's in the same precision."""
    cells = []
    for arm in arms:
        base = times["torch bf16" if "bf16" in arm else "torch"]
        own = f"{times[arm]:.2f}"
        cells.append(own if arm.startswith("torch") else _beside(times[arm], base, 2))
    return cells


def gpu_page(result: Mapping[str, Any]) -> str:
    """The tables of `benchmarks/gpu.py` in Markdown."""
    parts = {
        "both_ms": "Forward and backward, milliseconds:",
        "captured_ms": "The same, captured in a CUDA graph (`torch.cuda.make_graphed_callables`):",
    }
    blocks: list[str] = []
    for key, title in parts.items():
        arms = [arm for arm in _GPU_ARMS if arm in result["sizes"][0][key]]
        header = ["batch, steps, hidden, layers", *(_GPU_ARMS[arm] for arm in arms)]
        rows = [[_size(row), *_gpu_cells(row[key], arms)] for row in result["sizes"]]
        blocks += [title, _table(header, rows)]
    update = result["ptb_update_ms"]
    blocks += [
        "One update of Table 2's model on random words, milliseconds:",
        _table([_GPU_ARMS[arm] for arm in update], [_gpu_cells(update, list(update))]),
    ]
    if result["updates_ms"]:
        rows = [
            [name, f"{ms['reference']:.2f}", _beside(ms["nah"], ms["reference"], 2)]
            for name, ms in result["updates_ms"].items()
        ]
        blocks.append("Whole updates by the trainer, milliseconds:")
        blocks.append(_table(["model", "reference (cuDNN)", "NAH"], rows))
    return _page(
        "Speed of the noisy layers on a GPU",
        f"{_origin(result)}. float32 without TF32 but where it is named; bf16 is autocast. Medians "
        f"of {result['settings']['rounds']} rounds in which all take turns (few for the plain "
        "loop). In brackets: against cuDNN in the same precision, bf16 or float32.",
        *blocks,
    )


def tasks_page(result: Mapping[str, Any]) -> str:
    """The tables of `benchmarks/tasks.py` in Markdown."""
    models = result["models"]
    arms = list(dict.fromkeys(act for found in models.values() for act in found["ms"]))
    long = ", ".join(f"{rounds} for {name}" for name, rounds in result["long"].items())
    bf16 = (
        ""
        if result.get("bf16", "not asked")
        else " bf16 is not measured: this processor has no instructions for it."
    )
    header = ["model", *map(as_typed, arms)]
    return _page(
        "Time and memory of an update by task",
        f"{_origin(result)}, one thread. At the paper's "
        "sizes but where another scale is named. In brackets: against the reference arm, which has "
        f"torch's own LSTM, GRU or tanh.{bf16}",
        f"Milliseconds of an update, medians of {result['rounds']} rounds ({long}) in which the "
        "arms take turns:",
        _table(header, _beside_first(models, arms, "ms")),
        "MiB that backward needs besides the weights:",
        _table(header, _beside_first(models, arms, "held_mib")),
    )


def _beside_first(models: Mapping[str, Any], arms: Sequence[str], part: str) -> list[list[str]]:
    """A row a model: a number of each arm, in brackets against the first; "-" for none."""
    rows = []
    for name, found in models.items():
        values, base = found[part], found[part][arms[0]]
        cells = [_beside(values[arm], base) if arm in values else "-" for arm in arms[1:]]
        rows.append([name, f"{base:.1f}", *cells])
    return rows


def compiled_page(result: Mapping[str, Any]) -> str:
    """The table of `benchmarks/compiled.py` in Markdown."""
    rows = []
    for name, arms in result["modules"].items():
        for arm, times in arms.items():
            base = times["uncompiled"]
            modes = [_beside(times[mode], base, 3) for mode in times if mode != "uncompiled"]
            rows.append([name, arm.replace("nah", "NAH"), f"{base:.3f}", *modes])
    modes = [mode for mode in next(iter(result["modules"].values()))["nah"] if mode != "uncompiled"]
    return _page(
        "Layers, cells and units under torch.compile",
        f"{_origin(result)}, one thread. Forward and backward, milliseconds, medians of "
        f"{result['rounds']} rounds in which uncompiled and compiled code take turns; in brackets "
        "against uncompiled code. Sizes: batch, steps, units, layers; batch and units of cells. "
        "torch leaves its layers out of graphs, and ours stay out in the same way; in the graph: "
        "with `torch._dynamo.config.allow_rnn = True`.",
        _table(["module", "", "uncompiled", *modes], rows),
    )


def bf16_page(result: Mapping[str, Any]) -> str:
    """The table of the layers of `benchmarks/bf16.py` in Markdown."""
    arms = [arm for arm in result["layers"][0]["ms"] if arm != "torch"]
    rows = []
    for row in result["layers"]:
        base, ms = row["ms"]["torch"], row["ms"]
        both = " both ways" if row["bidirectional"] else ""
        rows.append([_size(row) + both, f"{base:.1f}", *(_beside(ms[arm], base) for arm in arms)])
    form = result["form"]
    how = (
        f"The products are made by `{form}`."
        if form
        else "This processor has no bf16 instructions: under autocast our layers compute in "
        "float32, torch's in bf16."
    )
    return _page(
        "Layers in bf16 on a processor",
        f"{_origin(result)}, one thread. {how} Forward and backward, milliseconds, medians of "
        "rounds in which all take turns; in brackets against torch's layer in float32.",
        _table(["batch, steps, hidden, layers", "torch", *arms], rows),
    )


def data_page(result: Mapping[str, Any]) -> str:
    """The tables of `benchmarks/data.py` in Markdown."""
    fed = [
        [
            name,
            f"{t['batch_ms']:.2f}",
            f"{t['update_ms']:.0f}",
            f"{t['batch_ms'] / t['update_ms']:.2%}",
        ]
        for name, t in result["feeding"].items()
    ]
    rates = [[name, f"{rate:,.0f}"] for name, rate in result["rates"].items()]
    return _page(
        "Preparing and feeding the data of the attention models",
        f"{_origin(result)}, one process and one thread, processor time. The first "
        f"{result['lines']:,} lines of Europarl and {result['images']} pictures of Flickr8k.",
        _table(["once, before the first run", "rate"], rates),
        "At scale cpu, reference arm, milliseconds:",
        _table(["task", "making a batch", "the update that uses it", "share"], fed),
    )


def _origin(result: Mapping[str, Any]) -> str:
    """Command, machine and code version of a result."""
    machine, code = result["machine"], result["code"]
    dirty = ", with changes" if code["dirty"] else ""
    return (
        f"`{result['command']}` on {machine['name']}, {machine['platform']}, torch "
        f"{result['torch']}, commit {str(code['commit'])[:12]}{dirty}"
    )


def attention_page(result: Mapping[str, Any]) -> str:
    """The tables of `benchmarks/attention.py` in Markdown."""
    rounds, sizes = result["rounds"], result["sizes"]
    arms = list(next(iter(sizes.values()))["times"])
    time_rows, held_rows, shares = [], [], []
    for name, size in sizes.items():
        label = f"{name}: {size['batch']}, {size['positions']}, {size['units']}, {size['steps']}"
        for part, title in (("forward_ms", "forward"), ("both_ms", "both")):
            base = size["times"]["reference"][part]
            times = [size["times"][arm][part] for arm in arms]
            time_rows.append([label, title, *(_beside(ms, base, 0) for ms in times)])
        held_rows.append([label, *(f"{size['held_mib'][arm]:.1f}" for arm in arms)])
        shares.append(f"{size['saturated']:.0%} ({name})")
    header = "batch, positions, units, steps"
    return _page(
        "Attention with noise in its score",
        f"{_origin(result)}, one thread. Medians of "
        f"{rounds['others']} rounds in which the arms take turns, {rounds['plain']} for the plain "
        f"form of NAH. The reference is torch.tanh. Annotations are learned in translation, given "
        f"in captioning. Saturated units: {', '.join(shares)}.",
        "## All steps of an update, forward and both ways, milliseconds (in brackets: against the "
        "reference)",
        _table([header, "", *arms], time_rows),
        "## Held for backward by all steps, MiB",
        "Tensors that the graph keeps, without parameters, keys and annotations.",
        _table([header, *arms], held_rows),
    )


def draw_growth(result: Mapping[str, Any], path: Path) -> tuple[Path, Path]:
    """Time against hidden size and against steps, as SVG and PNG.

    Args:
        result: of `benchmarks/layers.py`.
        path: of the SVG.

    Returns:
        Paths of the two files.
    """
    with figure_style():
        return save_figure(_growth(result), path)


def _growth(result: Mapping[str, Any]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for axis, (name, points) in zip(axes, result["growth"].items(), strict=True):
        for index, (kind, label) in enumerate(_LABELS.items()):
            axis.plot(
                [point[name] for point in points],
                [point[kind]["both_ms"] for point in points],
                color=PALETTE[index], linestyle=LINE_STYLES[index], marker="o", markersize=3,
                label=label,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("hidden size (20 steps)" if name == "hidden" else "steps (200 units)")
        axis.set_ylabel("forward and backward, ms")
        axis.set_xticks([point[name] for point in points], [str(point[name]) for point in points])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.suptitle(
        f"One LSTM layer, batch 20, {result['machine']['threads']} threads", fontsize="medium"
    )
    return figure
