"""Captions for photographs with soft or hard attention (Table 3, Section 6.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, derive_seed
from noisyexp.errors import DataError
from noisyexp.nn.saturation import Saturation
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Panel, Sample, StepOutput, Task
from noisyexp.tasks.captioning import data, generated
from noisyexp.tasks.captioning.cost import caption_nll, training_cost
from noisyexp.tasks.captioning.decoding import caption_all, spell
from noisyexp.tasks.captioning.extractors import EXTRACTORS
from noisyexp.tasks.captioning.model import Captioner, Shape
from noisyexp.tasks.captioning.scoring import (
    ORDERS,
    bleu,
    bleu_counts,
    check_meteor,
    meteor_and_cider,
)
from noisyexp.tasks.size import MOST_DECODED, MOST_SENTENCES, Size, linear, recurrent

NOISY_SCALE = 0.01
"""What the paper multiplies orthogonal matrices by when units are replaced."""


SHAPE_OF_DATA = {"real": (512, 196, 8_000), "generated": (18, 16, 20)}
"""Channels and places of annotations, and words in their captions, about."""


@dataclass(frozen=True)
class CaptioningConfig:
    """Section `task` of a captioning run."""

    name: str = option("the task's folder")
    features: str = option("network that annotates images", choices=tuple(EXTRACTORS))
    attention: str = option("kind of attention", choices=("soft", "hard", "uniform"))
    embedding_size: int = option("E, size of a word embedding and of the readout", low=1)
    hidden_size: int = option("H, units of the LSTM", low=1)
    attention_layers: int = option("layers from annotations to keys", low=1)
    init_layers: int = option("layers from the mean annotation to the first state", low=1)
    output_layers: int = option("layers from the readout to the words", low=1)
    prev2out: bool = option("the readout sees the previous word")
    ctx2out: bool = option("the readout sees the context")
    selector: bool = option("a gate scales the context")
    dropout: bool = option("dropout with probability 0.5 at the original's places")
    penalty: float = option(
        "weight of the doubly stochastic penalty; without effect on hard attention", low=0
    )
    orthogonal_scale: float | None = option(
        "factor of matrices that start orthogonal; null: 1 for act=reference, else 0.01", low=0
    )
    n_words: int | None = option("ids of the output layer; null: as many as there are", low=3)
    max_words: int = option("number of words from which on a training caption is left out", low=2)
    batch_size: int = option("B, most captions of an update", low=1)
    train_images: int | None = option("training images; null: all", low=1, high=MOST_SENTENCES)
    beam: int = option(
        "hypotheses of the beam search behind the test metrics", low=1, high=MOST_DECODED
    )
    other_beams: list[int] = option("further beam sizes whose BLEU is recorded")
    decode_words: int = option(
        "most words of a caption, its end included", low=1, high=MOST_DECODED
    )
    meteor: bool = option("METEOR and CIDEr too; needs pycocoevalcap and Java")
    held_out: int = option(
        "images of a generated validation or test set", low=1, high=MOST_SENTENCES
    )

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if not all(1 <= beam <= MOST_DECODED for beam in self.other_beams):
            yield f"other_beams={self.other_beams}: whole numbers from 1 to {MOST_DECODED}"


def _metrics() -> dict[str, Metric]:
    found = {
        f"{split}_nll": Metric(f"{title} NLL", "nats a caption", "min")
        for split, title in (("train", "training"), ("valid", "validation"), ("test", "test"))
    }
    for suffix, how in (("", ""), ("_plain", ", no brevity penalty")):
        for order in ORDERS:
            found[f"test_bleu{order}{suffix}"] = Metric(f"BLEU-{order}{how}", "%", "max")
    found["test_meteor"] = Metric("METEOR", "%", "max")
    found["test_cider"] = Metric("CIDEr", "%", "max")
    found["saturated"] = Metric("saturated inputs of all units", "%", "min")
    return found


class Captioning(Task):
    """A captioner on annotations of Flickr8k's images, five captions each.

    Loss: mean over the captions of the batch of their cost in nats, plus what attention adds.
    """

    config_type = CaptioningConfig
    config: CaptioningConfig
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()
    selection = "valid_nll"
    item = "captions"

    def __init__(self, config: CaptioningConfig, source: str, seed: int) -> None:
        super().__init__(config, source, seed)
        self.tested: dict[str, dict[str, Any]] = {}

    @classmethod
    def size(cls, config: CaptioningConfig, source: str) -> Size:
        """An LSTM over words and annotations; keys of all places for each caption."""
        e, h = config.embedding_size, config.hidden_size
        d, places, words = SHAPE_OF_DATA[source]
        words = config.n_words or words
        layers = config.attention_layers + config.init_layers + config.output_layers
        beam = max([config.beam, *config.other_beams])
        images = (config.train_images or 2000.0) + 2.0 * config.held_out
        return Size(
            2.0 * words * e
            + recurrent(4, e + d, h)
            + 2 * linear(d, h)
            + linear(h, e)
            + (config.attention_layers + config.init_layers - 1.0) * linear(d, d)
            + (config.output_layers - 1.0) * linear(e, e),
            config.batch_size
            * (
                places * d * (2.0 + config.attention_layers)
                + config.max_words * (10.0 * h + 2 * e + places * d)
            ),
            beam * (4.0 * words + 100.0 * h) + (0.0 if source == "real" else 13e3 * images),
            layers,
        )

    def check_programs(self) -> None:
        """METEOR needs Java."""
        if self.config.meteor:
            check_meteor()

    def prepare(self, root: Path) -> dict[str, str]:
        """Read captions and annotations, which takes the network once, or draw the stand-in."""
        config = self.config
        self.data = (
            data.load_real(root, config.features, config.train_images)
            if self.source == "real"
            else generated.generate(config.train_images or 2000, config.held_out)
        )
        self.limit = config.n_words or len(self.data.vocab)
        lengths = self.data.splits["train"].lengths
        self.kept = torch.nonzero(lengths < config.max_words).view(-1)
        if not len(self.kept):
            raise DataError(
                f"task.max_words={config.max_words} leaves out every training caption: the "
                f"shortest has {int(lengths.min())} words, so take {int(lengths.min()) + 1} or more"
            )
        self.batches = data.Batches(lengths[self.kept], config.batch_size, self.seed)
        return self.data.files

    def words(self) -> list[str]:
        """The vocabulary."""
        return self.data.vocab.get_itos()

    def prepare_words(self, words: list[str]) -> None:
        """Prepare to caption pictures of one's own."""
        self.data = data.without_captions(words, EXTRACTORS[self.config.features])
        self.limit = self.config.n_words or len(words)

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """The captioner with `spec` at its eleven places."""
        config = self.config
        scale = config.orthogonal_scale
        if scale is None:
            scale = 1.0 if spec.variant == "reference" else NOISY_SCALE
        shape = Shape(
            words=self.limit,
            channels=self.data.channels,
            embedding=config.embedding_size,
            hidden=config.hidden_size,
            attention_layers=config.attention_layers,
            init_layers=config.init_layers,
            output_layers=config.output_layers,
            prev2out=config.prev2out,
            ctx2out=config.ctx2out,
            selector=config.selector,
            dropout=config.dropout,
            attention=config.attention,
        )
        return Captioner(shape, spec, scale)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that have every caption once: 489 of 64 on Flickr8k."""
        return self.batches.per_epoch

    def batch(self, step: int) -> data.Batch:
        """Captions of update `step`, all of one length."""
        which = self.kept[self.batches.batch(step)]
        return data.make_batch(self.data.splits["train"], which, self.data.annotations, self.limit)

    def loss(self, model: nn.Module, step: int, device: torch.device) -> StepOutput:
        """Mean cost of the captions of update `step`."""
        assert isinstance(model, Captioner)
        batch = self.batch(step)
        total = len(batch.targets)
        if self.share is not None:
            rows = self.share.take(total)
            batch = data.Batch(*(part[rows] for part in batch))
        cost = training_cost(model, batch.to(device), self.config.penalty, total)
        size = len(cost.nll)
        return StepOutput(cost.loss, {"nll": cost.nll.sum(), "captions": size}, size)

    rows_first = ("attention.unit", "readout_unit", *(f"key_units.{k}" for k in range(9)))

    def why_whole(self) -> str | None:
        """Captions are independent, unless attention is drawn for the batch as a whole."""
        if self.config.attention == "hard":
            return "hard attention draws for its batch as a whole"
        return None

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Nats a caption with noise and dropout, while the weights move."""
        return {"train_nll": sums["nll"] / sums["captions"]}

    def _score(self, model: nn.Module, split: str, device: torch.device) -> Tensor:
        """Nats of every caption of a split, (N,) float64."""
        assert isinstance(model, Captioner)
        captions = self.data.splits[split]
        generator = torch.Generator().manual_seed(derive_seed("captioning", "evaluation", split))
        found = torch.zeros(len(captions.lengths), dtype=torch.float64)
        for which in data.Batches(captions.lengths, self.config.batch_size, 0).in_order():
            batch = data.make_batch(captions, which, self.data.annotations, self.limit)
            found[which] = caption_nll(model, batch.to(device), generator).double().cpu()
        return found

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Nats a caption of the validation split, and the saturated units on a few of them."""
        found = {"valid_nll": float(self._score(model, "valid", device).mean())}
        assert isinstance(model, Captioner)
        captions, saturation = self.data.splits["valid"], Saturation()
        which = torch.arange(min(self.config.batch_size, len(captions.lengths)))
        batch = data.make_batch(captions, which, self.data.annotations, self.limit)
        with saturation.watch(model):
            caption_nll(model, batch.to(device), torch.Generator().manual_seed(0))
        return {**found, "saturated": saturation.percent}

    def describe(
        self, model: nn.Module, device: torch.device, beam: int
    ) -> tuple[list[str], list[str], list[list[str]]]:
        """Names of the test images, their captions by beam search, and their references."""
        assert isinstance(model, Captioner)
        names, rows, references = self.data.splits["test"].references(self.data.vocab)
        found = caption_all(
            model, rows, self.data.annotations, device, beam=beam, limit=self.config.decode_words
        )
        return names, [" ".join(spell(one, self.data.vocab)) for one in found], references

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Nats a caption, and how good the captions of a beam search are."""
        nll = self._score(model, "test", device)
        found = {"test_nll": float(nll.mean())}
        names, captions, references = self.describe(model, device, self.config.beam)
        costs = self.data.splits["test"].by_image(nll)
        self.tested = {
            name: {
                "caption": caption,
                "nll": round(costs[name], 4),
                "bleu_counts": bleu_counts(caption, texts),
            }
            for name, caption, texts in zip(names, captions, references, strict=True)
        }
        for suffix, values in zip(("", "_plain"), bleu(captions, references), strict=True):
            found.update({f"test_bleu{n}{suffix}": v for n, v in zip(ORDERS, values, strict=True)})
        if self.config.meteor:
            found["test_meteor"], found["test_cider"] = meteor_and_cider(captions, references)
        return found

    def findings(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """How images were annotated, what was found for each test image, BLEU of other beams."""
        beams = {}
        for beam in self.config.other_beams:
            _, captions, references = self.describe(model, device, beam)
            with_penalty, plain = bleu(captions, references)
            beams[str(beam)] = {"bleu": with_penalty, "bleu_plain": plain}
        return {"features": self.data.facts, "test": self.tested, "beams": beams}

    def floor(self) -> dict[str, float]:
        """Nats a caption of the best possible model of the stand-in."""
        if self.source == "real":
            return {}
        return dict.fromkeys(("valid_nll", "test_nll"), generated.FLOOR_NATS)

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """Captions of five test images with two of their references; where the words looked."""
        assert isinstance(model, Captioner)
        names, rows, references = self.data.splits["test"].references(self.data.vocab)
        vocab, side = self.data.vocab, self.data.side
        found = caption_all(
            model, rows[:5], self.data.annotations, device, beam=self.config.beam,
            limit=self.config.decode_words,
        )  # fmt: skip
        lines, panels = [], []
        for name, one, texts in zip(names, found, references, strict=False):
            text = " ".join(spell(one, vocab))
            lines += [f"{name} ({one.score:.1f} nats)", f"  model: {text}"]
            lines += [f"  human: {text}" for text in texts[:2]]
            if one.attention is not None and one.tokens:
                maps = one.attention[: len(one.tokens)].view(-1, side, side).cpu()
                panels.append(Panel(f"{name}: {text}", side_by_side(maps), "map of word", "row"))
        return Sample("\n".join(lines), tuple(panels))


def side_by_side(maps: Tensor) -> Tensor:
    """Maps (T, side, side) in one row with an empty column between them, (side, T (side + 1))."""
    return torch.nn.functional.pad(maps, (0, 1)).transpose(0, 1).flatten(1)
