"""Caption a picture with a trained model, and draw where each word looked.

Examples:
    noisyexp caption run=runs/captioning/nah-cpu-s0-0123456789ab image=dog.jpg
    noisyexp caption run=<folder> image=dog.jpg beam=10 picture=out.png weights=last
    noisyexp caption weights=captioning/reference image=dog.jpg     # published; needs no captions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import check_outputs, check_task, exit_code_of, place_of
from noisyexp.errors import ConfigError, NoisyexpError, RecordError
from noisyexp.fileio import check_regular, explain, explain_read
from noisyexp.pictures.attention import draw_caption_maps
from noisyexp.schema import option
from noisyexp.tasks.captioning import Captioning
from noisyexp.tasks.captioning.decoding import decode, spell
from noisyexp.tasks.captioning.extractors import EXTRACTORS, annotate, prepare_image
from noisyexp.tasks.captioning.model import Captioner
from noisyexp.training.load import load_run

DEFAULTS: Mapping[str, object] = {"run": None, "beam": 5, "picture": None, "weights": None}


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    run: str | None = option("folder of a run of task=captioning; or give weights= alone")
    image: str = option("picture to caption")
    beam: int = option("hypotheses that the search keeps", low=1)
    picture: str | None = option("where to draw what each word looked at")
    weights: str | None = option(
        "last or best of the run (default best), or without run= a name in results/weights"
    )


def caption(
    task: Captioning, model: Captioner, pixels: Tensor, beam: int
) -> tuple[list[str], float, Tensor]:
    """Words, cost in nats and attention maps (words, side, side) of a prepared image."""
    network = EXTRACTORS[task.config.features].load()
    # Half precision, as the annotations that the model was trained on.
    annotations = annotate(network, pixels.unsqueeze(0)).half().float()
    (found,) = decode(model, annotations, beam, task.config.decode_words)
    words = spell(found, task.data.vocab)
    assert found.attention is not None
    side = task.data.side
    return words, found.score, found.attention[: len(words)].view(-1, side, side)


def draw(pixels: Tensor, words: list[str], maps: Tensor, path: Path) -> None:
    """Write `draw_caption_maps` to `path`, whose suffix says in which format."""
    try:
        draw_caption_maps(pixels, words, maps).savefig(path)
    except (OSError, ValueError) as error:
        said = explain(error) if isinstance(error, OSError) else error
        raise NoisyexpError(f"picture={path} cannot be written: {said}") from error


def _check_picture(path: Path, image: Path) -> None:
    """Refuse what `draw` could not write, or would write onto the image.

    Raises:
        ConfigError: see above.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if not path.name or (path.suffix and path.suffix[1:].lower() not in known):
        raise ConfigError([f"picture={path}: the name must end in one of {', '.join(known)}"])
    written = path if path.suffix else path.with_name(f"{path.name}.png")
    check_outputs([("picture", written)], [("image", image)])


def describe(given: Arguments) -> None:
    """Print the caption of a picture, and draw its attention on request.

    Raises:
        NoisyexpError: the picture cannot be read, or the run cannot caption it.
    """
    place, image = place_of(given.run, given.weights), Path(given.image)
    if given.picture is not None:
        _check_picture(Path(given.picture), image)
    try:
        check_regular(image)
        pixels = prepare_image(image.read_bytes(), upright=True)
    except (OSError, ValueError) as error:
        raise RecordError(f"{image} cannot be read as a picture: {explain_read(error)}") from error
    if given.run:
        check_task(Path(place), "captioning")
    run = load_run(place, given.weights or "best", only_words=True)
    if not isinstance(run.task, Captioning):
        raise RecordError(f"{place} are weights of {run.task.config.name}, not of captioning")
    if run.task.source != "real":
        raise RecordError(f"{place} is a run on generated data, which knows no photographs")
    assert isinstance(run.model, Captioner)
    with torch.no_grad():
        words, nats, maps = caption(run.task, run.model, pixels, given.beam)
    print(f"{' '.join(words)}  ({nats:.1f} nats)")
    if given.picture:
        draw(pixels, words, maps, Path(given.picture))
        print(f"picture: {given.picture}")


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(
        lambda: describe(read_arguments(Arguments, arguments, DEFAULTS, about=__doc__ or ""))
    )
