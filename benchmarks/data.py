"""How fast the data of translation and captioning are prepared and fed: part of `make bench`.

One process and one thread. Making a batch is compared with the update that uses it, reference arm,
scale cpu. What has no data here is left out with a message. Writes results/bench/data.{json,md}.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import make_trainer, write_result
from benchmarks.pages import data_page
from noisyexp.data.europarl import LANGUAGES, europarl
from noisyexp.data.flickr8k import open_images
from noisyexp.data.moses import tokenise
from noisyexp.data.parallel import encode_lines
from noisyexp.errors import NoisyexpError
from noisyexp.tasks.captioning import Captioning
from noisyexp.tasks.captioning.extractors import EXTRACTORS, annotate, prepare_image
from noisyexp.tasks.nmt import NMT
from noisyexp.tasks.nmt.batches import take

LINES, IMAGES, UPDATES = 20_000, 64, 20
FEATURES = "efficientnet_lite0_7x7"


def seconds(function: Callable[[], Any]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def text_rates(root: Path) -> dict[str, float]:
    """Lines a second: tokenising each language, and dictionary and ids of tokenised English."""
    tokenise("A warm start.", "en"), tokenise("Bonjour.", "fr")
    found, tokens = {}, list[str]()
    for language in reversed(LANGUAGES):
        lines = list(europarl(root, "any")[language].lines(LINES))
        tokens = []
        taken = seconds(lambda: tokens.extend(tokenise(x, language) for x in lines))  # noqa: B023
        found[f"tokenising, {language} [lines/s]"] = LINES / taken
    found["dictionary and ids [lines/s]"] = LINES / seconds(lambda: encode_lines(tokens, 6000))
    return found


def image_rates(root: Path) -> dict[str, float]:
    """Images a second: from the archive to pixels, and pixels to annotations."""
    archive = open_images(root)
    names = list(archive.members)[:IMAGES]
    pixels: list[Any] = []
    reading = seconds(lambda: pixels.extend(prepare_image(x) for x in archive.read(names)))
    network = EXTRACTORS[FEATURES].load()
    annotate(network, torch.stack(pixels[:8]))
    batches = torch.stack(pixels).chunk(IMAGES // 8)
    annotating = seconds(lambda: [annotate(network, batch) for batch in batches])
    return {
        "reading pictures [images/s]": IMAGES / reading,
        f"annotating, {FEATURES} [images/s]": IMAGES / annotating,
    }


def feeding(task_name: str) -> dict[str, float]:
    """Median milliseconds of making a batch and of the whole update that it is for."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer([f"task={task_name}", "scale=cpu"], "reference", folder)
        task = trainer.task

        def batch(step: int) -> Any:
            if isinstance(task, NMT):
                return take(task.corpus.source, task.corpus.target, task.batches[step])
            assert isinstance(task, Captioning)
            return task.batch(step)

        made = [1000 * seconds(lambda k=k: batch(k)) for k in range(UPDATES + 1)]  # type: ignore[misc]
        updates = [1000 * seconds(trainer.run_step) for _ in range(UPDATES + 1)]
        for callback in trainer.callbacks:
            callback.close(trainer)
    # The first of each warms up.
    return {"batch_ms": statistics.median(made[1:]), "update_ms": statistics.median(updates[1:])}


def main() -> int:
    """Measure, print and write results/bench/data.{json,md}."""
    torch.set_num_threads(1)
    root = Path(os.environ.get("NOISYEXP_DATA", "data"))
    rates: dict[str, float] = {}
    fed: dict[str, dict[str, float]] = {}
    for name, prepare in (("nmt", text_rates), ("captioning", image_rates)):
        try:
            rates.update(prepare(root))
            fed[name] = feeding(name)
        except NoisyexpError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    write_result("data", data_page, lines=LINES, images=IMAGES, rates=rates, feeding=fed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
