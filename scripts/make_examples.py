"""Answers of trained models of several rows to the same test items: a page and pictures.

The first is of the reference; all are finished runs of rows of one table, with one seed and scale,
whose records are published: folders of runs, or names of weights in results/weights. The page names
the records.

Examples:
    python scripts/make_examples.py runs/nmt/reference-cpu-s0-* runs/nmt/nah-cpu-s0-*
    python scripts/make_examples.py captioning/reference
    python scripts/make_examples.py runs/ptb/reference-paper-s0-* runs/ptb/nah-paper-s0-*
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from noisyexp.cli.caption import caption
from noisyexp.cli.verb import exit_code_of
from noisyexp.data.moses import detokenise
from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_bytes, atomic_write_text, read_json
from noisyexp.nn.language_model import LanguageModel
from noisyexp.pictures.attention import draw_caption_maps
from noisyexp.pictures.curves import line_name
from noisyexp.places import CHECKOUT
from noisyexp.records.publish import impersonal, record_path
from noisyexp.records.record_files import load_record
from noisyexp.records.run_record import RunRecord
from noisyexp.tasks.captioning import Captioning
from noisyexp.tasks.captioning.extractors import prepare_image
from noisyexp.tasks.captioning.model import Captioner
from noisyexp.tasks.nmt import NMT
from noisyexp.tasks.nmt.decoding import read
from noisyexp.tasks.nmt.model import Translator
from noisyexp.tasks.ptb import PTB
from noisyexp.tasks.text.continuations import TEMPERATURE, write
from noisyexp.tasks.text.continuations import WORDS as AMOUNTS
from noisyexp.tasks.text.word_model import WATCHED
from noisyexp.training import weights_file
from noisyexp.training.load import LoadedRun, load_run

SENTENCES, WORDS = 10, 12
"""Number of test sentences, and the most words of one."""
PICTURES = CHECKOUT / "examples" / "pictures"
"""Photographs that are free."""
DRAWN = 11
"""Words of a caption that are drawn at most."""
CPU = torch.device("cpu")


def published(place: str, results: Path) -> RunRecord:
    """The record of a run folder or of published weights, which has to be the published one.

    Raises:
        RecordError: it is not published, or another run of the row is.
    """
    if place in weights_file.names():
        path = weights_file.find(place).with_suffix(".json")
    else:
        path = Path(place) / "run.json"
    record = load_record(path, str(path))
    target = record_path(record, results)
    if not target.is_file() or impersonal(read_json(target)) != impersonal(read_json(path)):
        raise RecordError(f"{place}: {target.name} in results/records is not of this run")
    return record


def translations(runs: Sequence[LoadedRun], names: Sequence[str]) -> list[str]:
    """Lines of the page: source, reference and every run's translation of test sentences."""
    task = runs[0].task
    assert isinstance(task, NMT)
    data = task.corpus.test
    short = [k for k, text in enumerate(data.tokenised[0]) if len(text.split()) <= WORDS]
    chosen = short[:SENTENCES]
    columns = []
    for run in runs:
        assert isinstance(run.task, NMT) and isinstance(run.model, Translator)
        best = run.task.translate(run.model, [data.source[k] for k in chosen], CPU)
        columns.append([detokenise(read(one, data.target.vocab), "fr") for one in best])
    lines = [
        f"The first {SENTENCES} sentences of newstest2011 of up to {WORDS} words, by beam search.",
        "", "| | |", "| --- | --- |",
    ]  # fmt: skip
    for place, k in enumerate(chosen):
        lines.append(f"| **source** | **{_cell(detokenise(data.tokenised[0][k], 'en'))}** |")
        lines.append(f"| human | {_cell(data.text[k])} |")
        lines += [f"| {n} | {_cell(c[place])} |" for n, c in zip(names, columns, strict=True)]
    return lines


def captions(runs: Sequence[LoadedRun], names: Sequence[str], root: Path) -> list[str]:
    """Lines of the page: every run's captions of free pictures, and what each word looked at."""
    lines = [
        "Photographs that are free to show, unlike those of Flickr8k, and unlike them in what they "
        "show: captions by beam search, and where each model looked for each word.", "",
    ]  # fmt: skip
    for picture in sorted(PICTURES.glob("*.jpg")):
        pixels = prepare_image(picture.read_bytes())
        lines += [f"## {picture.stem}", ""]
        for run, name in zip(runs, names, strict=True):
            assert isinstance(run.task, Captioning) and isinstance(run.model, Captioner)
            said, nats, maps = caption(run.task, run.model, pixels, run.task.config.beam)
            content = io.BytesIO()
            figure = draw_caption_maps(pixels, said[:DRAWN], maps[:DRAWN])
            figure.savefig(content, format="png", dpi=80, metadata={"Software": None})
            file = f"caption-{picture.stem}-{name.replace(' ', '_')}.png"
            atomic_write_bytes(root / "results" / "figures" / file, content.getvalue())
            text = " ".join(said)
            lines += [f"{name}: {text} ({nats:.1f} nats)", "", f"![{text}](../figures/{file})", ""]
    return lines[:-1]


def words(runs: Sequence[LoadedRun], names: Sequence[str]) -> list[str]:
    """Lines of the page: how saturated every run's units are, and what it writes."""
    task = runs[0].task
    assert isinstance(task, PTB)
    shares, texts = [], []
    prompt, vocab = task.corpus.valid[: AMOUNTS.prompt], task.corpus.vocab
    for run in runs:
        assert isinstance(run.task, PTB) and isinstance(run.model, LanguageModel)
        shares.append(run.task.saturated(run.model, CPU))
        tokens = write(run.model, prompt, AMOUNTS.written, TEMPERATURE, CPU)
        texts.append(AMOUNTS.read(tokens, vocab))
    lines = [
        "Percent of the inputs of units that lie beyond the hard unit's threshold (1 for tanh, 2 "
        f"for sigmoid) on {task.valid_streams[:WATCHED].numel():,} words of validation text, by "
        "layer and place: input and forget gate, candidate (g), output gate, tanh of the cell (c).",
        "", f"| row | {' | '.join(shares[0])} |", "| --- |" + " --- |" * len(shares[0]),
    ]  # fmt: skip
    for name, share in zip(names, shares, strict=True):
        lines.append(f"| {name} | {' | '.join(f'{value:.0f}' for value in share.values())} |")
    given = AMOUNTS.read(prompt, vocab)
    lines += [
        "", f"What they write at temperature {TEMPERATURE} after the first words of that text.",
        "", "| | |", "| --- | --- |", f"| **given** | **{_cell(given)}** |",
    ]  # fmt: skip
    return lines + [f"| {name} | {_cell(text)} |" for name, text in zip(names, texts, strict=True)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def make_page(places: Sequence[str], root: Path) -> Path:
    """Write the page of these runs below `root`/results/examples.

    Raises:
        NoisyexpError: the runs do not belong together, or one of them cannot be loaded.
    """
    records = [published(place, root / "results") for place in places]
    kinds = {(r.task, r.scale, r.seed) for r in records}
    if len(kinds) != 1 or records[0].task not in ("nmt", "captioning", "ptb"):
        raise RecordError(
            "the runs have to be of nmt, captioning or ptb, all of one scale and seed; these are "
            + ", ".join(f"{r.task} {r.scale} seed {r.seed}" for r in records)
        )
    weights = records[0].config["training"]["use_weights"]  # those of the metrics in the record
    speak = records[0].task == "captioning"  # of pictures that are no data of the task
    runs = [load_run(place, weights, only_words=speak) for place in places]
    names = [line_name(r) for r in records]
    with torch.no_grad():
        if records[0].task == "nmt":
            lines = translations(runs, names)
        elif records[0].task == "ptb":
            lines = words(runs, names)
        else:
            lines = captions(runs, names, root)
    made = ", ".join(record_path(r, Path()).as_posix() for r in records)
    title = f"# Examples, scale {records[0].scale}, seed {records[0].seed}"
    point = "best validation" if weights == "best" else "last update"
    note = (
        f"Made by `python scripts/make_examples.py` from the runs of {made}, by the weights of "
        f"their {point}."
    )
    path = root / "results" / "examples" / f"{records[0].task}.md"
    atomic_write_text(path, "\n".join([title, "", note, "", *lines, ""]))
    return path


def main(arguments: Sequence[str] | None = None, root: Path = CHECKOUT) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("places", nargs="+", metavar="RUN", help="folder, or name of weights")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: print(f"wrote {make_page(options.places, root).relative_to(root)}"))


if __name__ == "__main__":
    sys.exit(main())
