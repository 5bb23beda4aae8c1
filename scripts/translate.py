"""Translate English text with a trained model: one sentence a line, from a file or standard input.

Lines are tokenised as in training; the translations are plain text, or tokens with tokens=true.
`attention=<file>.png` draws which source words the model looked at for each word of the first
sentence.

Examples:
    echo "I thank the Commissioner." | python scripts/translate.py run=runs/nmt/<folder>
    python scripts/translate.py run=<folder> input=news.en output=news.fr beam=1
    echo "I agree ." | python scripts/translate.py run=<folder> attention=attention.png
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

import torch  # noqa: E402

from noisyexp.cli.pairs import read_pairs  # noqa: E402
from noisyexp.data.moses import detokenise, tokenise  # noqa: E402
from noisyexp.errors import NoisyexpError, RecordError  # noqa: E402
from noisyexp.nn.beam import Hypothesis  # noqa: E402
from noisyexp.results.attention import plot_alignment  # noqa: E402
from noisyexp.schema import option  # noqa: E402
from noisyexp.tasks.nmt import NMT  # noqa: E402
from noisyexp.tasks.nmt.decoding import read, search  # noqa: E402
from noisyexp.tasks.nmt.model import Translator  # noqa: E402
from noisyexp.training.load import WEIGHTS, load_run  # noqa: E402

DEFAULTS = {
    "weights": "best", "input": None, "output": None, "beam": None, "tokens": False,
    "attention": None,
}  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    run: str = option("folder of a run of task=nmt")
    weights: str = option("of the last update, or of the best validation", choices=WEIGHTS)
    input: str | None = option("file to read; default standard input")
    output: str | None = option("file to write; default standard output")
    beam: int | None = option("hypotheses; default that of the run", low=1)
    tokens: bool = option("write tokens, not plain text")
    attention: str | None = option("picture of the first sentence's attention")


def read_lines(path: str | None) -> list[str]:
    """Lines of a file, or of standard input.

    Raises:
        RecordError: the file cannot be read.
    """
    if path is None:
        return sys.stdin.read().splitlines()
    try:
        return Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"input={path}: cannot be read ({error})") from error


def translate(
    task: NMT, model: Translator, lines: Iterable[str], beam: int | None
) -> tuple[list[list[str]], list[Hypothesis]]:
    """Source words and best hypothesis of each line."""
    sources = [tokenise(line, "en").split() for line in lines]
    vocab, config = task.corpus.source.vocab, task.config
    ids = [vocab.lookup_indices(words) for words in sources]
    best = search(model, ids, beam or config.beam, config.decode_words, torch.device("cpu"))
    return sources, best


def main(arguments: list[str]) -> int:
    """Command line; returns the exit code."""
    try:
        given = read_pairs(Arguments, arguments, DEFAULTS)
        run = load_run(Path(given.run), given.weights)
        if not isinstance(run.task, NMT) or not isinstance(run.model, Translator):
            raise RecordError(f"{given.run} is a run of {run.task.config.name}, not of nmt")
        sources, best = translate(run.task, run.model, read_lines(given.input), given.beam)
        texts = [read(hypothesis, run.task.corpus.target.vocab) for hypothesis in best]
        shown = texts if given.tokens else [detokenise(t, "fr") for t in texts]
        written = "".join(f"{text}\n" for text in shown)
        if given.output:
            Path(given.output).write_text(written, "utf-8")
        else:
            print(written, end="")
        if given.attention and best and best[0].attention is not None:
            source, target = [*sources[0], "<eos>"], [*texts[0].split(), "<eos>"]
            path = Path(given.attention)
            _, png = plot_alignment(
                best[0].attention.numpy(), source, target[: best[0].length], path
            )
            print(f"figure: {png}", file=sys.stderr)
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: cannot be written: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
