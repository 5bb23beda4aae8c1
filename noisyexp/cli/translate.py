"""Translate English text with a trained model: one sentence a line, from a file or standard input.

Lines are UTF-8 and tokenised as in training; the translations are plain text, or tokens with
tokens=true. `attention=<file>.png` draws which source words the model looked at for each word of
the first sentence.

Examples:
    echo "I thank the Commissioner." | noisyexp translate run=runs/nmt/<folder>
    noisyexp translate run=<folder> input=news.en output=news.fr beam=1
    echo "I agree ." | noisyexp translate run=<folder> attention=attention.png
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import check_outputs, check_task, exit_code_of, print_text, writing
from noisyexp.data.moses import detokenise, tokenise
from noisyexp.data.parallel import EOS, UNK
from noisyexp.errors import RecordError
from noisyexp.fileio import check_regular, explain_read
from noisyexp.nn.beam import Hypothesis
from noisyexp.pictures.attention import check_picture, plot_alignment
from noisyexp.schema import option
from noisyexp.tasks.nmt import NMT
from noisyexp.tasks.nmt.decoding import read, search
from noisyexp.tasks.nmt.model import Translator
from noisyexp.training.load import WEIGHTS, load_run

DEFAULTS = {
    "weights": "best", "input": None, "output": None, "beam": None, "tokens": False,
    "attention": None,
}  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    run: str = option("folder of a run of task=nmt")
    weights: str = option("those of the last update, or of the best validation", choices=WEIGHTS)
    input: str | None = option("file of sentences; default standard input")
    output: str | None = option("file for the translations; default standard output")
    beam: int | None = option(
        "hypotheses that the search keeps; default that of the run", low=1, high=100
    )
    tokens: bool = option("write tokens, not plain text")
    attention: str | None = option("picture to draw: attention of the first sentence, .png or .svg")


def read_lines(path: str | None) -> list[str]:
    r"""Lines of a file or pipe, or of standard input; only "\n" ends a line.

    Raises:
        RecordError: it cannot be read, or is no UTF-8.
    """
    try:
        if path is not None and not Path(path).is_fifo():  # a device may never end
            check_regular(Path(path))
        content = sys.stdin.buffer.read() if path is None else Path(path).read_bytes()
        text = content.decode("utf-8-sig")  # a mark at the beginning is no word
    except (OSError, UnicodeDecodeError) as error:
        name = "standard input" if path is None else f"input={path}"
        raise RecordError(
            f"{name}: cannot be read as UTF-8 text ({explain_read(error)})"
        ) from error
    return text.removesuffix("\n").split("\n") if text else []


def translate(
    task: NMT, model: Translator, lines: Iterable[str], beam: int | None
) -> tuple[list[list[str]], list[Hypothesis]]:
    """Source words and best hypothesis of each line; that of a line without words is empty."""
    sources = [tokenise(line, "en").split() for line in lines]
    vocab, config = task.corpus.source.vocab, task.config
    ids = [vocab.lookup_indices(words) for words in sources]
    filled = [line for line in ids if line]
    found = iter(
        search(model, filled, beam or config.beam, config.decode_words, torch.device("cpu"))
        if filled
        else []
    )
    return sources, [next(found) if line else Hypothesis([], 0.0, True) for line in ids]


def warn(task: NMT, best: Sequence[Hypothesis], texts: Sequence[str]) -> None:
    """Warn on stderr of translations that were cut or have unknown words."""
    cut = sum(not hypothesis.finished for hypothesis in best)
    unknown = sum(UNK in text.split() for text in texts)
    for count, what in (
        (cut, f"were cut after {task.config.decode_words} words, task.decode_words of the run"),
        (unknown, f"have {UNK} for a word that is not in the run's dictionary"),
    ):
        if count:
            print(f"warning: {count} of {len(best)} translations {what}", file=sys.stderr)


def draw(source: Sequence[str], text: str, hypothesis: Hypothesis, path: Path) -> None:
    """Draw the attention of a translation, the ends of both sentences included."""
    assert hypothesis.attention is not None
    target = [*text.split(), EOS][: hypothesis.length]
    with writing(f"attention={path}"):
        _, png = plot_alignment(hypothesis.attention.numpy(), [*source, EOS], target, path)
    print(f"figure: {png}", file=sys.stderr)


def run(arguments: Sequence[str]) -> None:
    """Translate as the command line says."""
    given = read_arguments(Arguments, arguments, DEFAULTS, about=__doc__ or "")
    check_task(Path(given.run), "nmt")
    outputs = [] if given.output is None else [("output", Path(given.output))]
    if given.attention is not None:
        picture = Path(given.attention)
        try:
            check_picture(picture)
        except ValueError as error:
            raise RecordError(f"attention: {error}") from error
        outputs += [("attention", picture.with_suffix(end)) for end in (".png", ".svg")]
    check_outputs(outputs, [] if given.input is None else [("input", Path(given.input))])
    loaded = load_run(Path(given.run), given.weights)
    assert isinstance(loaded.task, NMT) and isinstance(loaded.model, Translator)
    lines = None if given.input is None else read_lines(given.input)
    if given.output is not None:
        with writing(f"output={given.output}"):  # before all the work
            Path(given.output).open("ab").close()
    lines = read_lines(None) if lines is None else lines
    sources, best = translate(loaded.task, loaded.model, lines, given.beam)
    texts = [read(hypothesis, loaded.task.corpus.target.vocab) for hypothesis in best]
    shown = texts if given.tokens else [detokenise(text, "fr") for text in texts]
    written = "".join(f"{text}\n" for text in shown)
    if given.output is None:
        print_text(written)
    else:
        with writing(f"output={given.output}"):
            Path(given.output).write_text(written, "utf-8")
    warn(loaded.task, best, texts)
    if given.attention is not None and best and best[0].attention is not None:
        draw(sources[0], texts[0], best[0], Path(given.attention))
    elif given.attention is not None:
        print(
            "attention: no sentence was given in the first line, so there is no picture",
            file=sys.stderr,
        )


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(lambda: run(arguments))
