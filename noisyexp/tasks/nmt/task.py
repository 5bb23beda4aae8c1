"""English to French translation with attention (Table 4, Section 6.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from noisyexp.activations import ActivationSpec
from noisyexp.activations.share import Share
from noisyexp.data.europarl import CORPORA
from noisyexp.errors import DataError
from noisyexp.nn.beam import Hypothesis
from noisyexp.places import cache_folder
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Panel, Sample, StepOutput, Task
from noisyexp.tasks.nmt.batches import Batch, make_batches, mask_of, shuffled, take
from noisyexp.tasks.nmt.corpus import VALID_SETS, generate, load
from noisyexp.tasks.nmt.decoders import DECODERS
from noisyexp.tasks.nmt.decoding import mean_nll, read, score, search
from noisyexp.tasks.nmt.initial import Initial
from noisyexp.tasks.nmt.model import Translator
from noisyexp.tasks.size import MOST_DECODED, MOST_SENTENCES, Size, linear, recurrent

NOISY_SCALE = 0.01
"""What the paper multiplies orthogonal matrices by when units are replaced."""
SHOWN = 10
"""Test sentences that `sample` translates."""


@dataclass(frozen=True)
class NMTConfig:
    """Section `task` of a translation run."""

    name: str = option("the task's folder")
    decoder: str = option("B: two GRUs around the attention; A: one GRU", choices=tuple(DECODERS))
    embedding_size: int = option("E, size of word vectors and of the layer before words", low=1)
    hidden_size: int = option("H, units of the GRUs; annotations and attention have 2 H", low=1)
    orthogonal_scale: float | None = option(
        "factor of matrices that start orthogonal; null: 1 for act=reference, else 0.01", low=0
    )
    init_std: float = option("standard deviation of Gaussian initial weights", above=0)
    vocab_size: int = option("words of each language, end and unknown included", low=3)
    max_length: int = option("training pairs have fewer words on both sides", low=2)
    batch_size: int = option("most pairs of an update", low=1)
    read_ahead: int = option("batches that are read and sorted by length together", low=1)
    epoch_steps: int = option("updates between validations", low=1)
    corpus: str = option(
        "full: Europarl v7; any: what is there of it, or every fifth day", choices=CORPORA
    )
    max_pairs: int | None = option("pairs read of the training text; null: all", low=1)
    valid_set: str = option("news test set to validate on", choices=VALID_SETS)
    valid_sentences: int | None = option(
        "sentences to validate on; null: all", low=1, high=MOST_SENTENCES
    )
    test_sentences: int | None = option(
        "sentences to test on; null: all", low=1, high=MOST_SENTENCES
    )
    beam: int = option("hypotheses of the beam search behind BLEU", low=1, high=MOST_DECODED)
    decode_words: int = option(
        "most words of a translation, its end included", low=1, high=MOST_DECODED
    )
    workers: int = option("processes that tokenise the training text, once", low=1, high=256)
    train_pairs: int = option("pairs of generated training text", low=1, high=MOST_SENTENCES)


class NMT(Task):
    """A model that reads an English sentence and writes it in French, word by word.

    Loss of an update: mean over its sentences of the sum of -ln p over words and end, in nats.
    """

    config_type = NMTConfig
    config: NMTConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "train_nll": Metric("training NLL, noise on", "nats a sentence", "min"),
        "valid_nll": Metric("validation NLL", "nats a sentence", "min"),
        "test_nll": Metric("test NLL", "nats a sentence", "min"),
        "test_bleu": Metric("test BLEU, tokenised", "%", "max"),
        "test_bleu_13a": Metric("test BLEU, 13a", "%", "max"),
    }
    selection = "valid_nll"
    item = "words"

    def __init__(self, config: NMTConfig, source: str, seed: int) -> None:
        super().__init__(config, source, seed)
        self._found: dict[str, Any] = {}

    @classmethod
    def size(cls, config: NMTConfig, source: str) -> Size:
        """Two dictionaries, three to four GRUs, attention; a beam or a batch of sentences."""
        e, h, words = config.embedding_size, config.hidden_size, config.vocab_size
        decoder = (
            recurrent(3, e, h) + recurrent(3, 2 * h, h)
            if config.decoder == "B"
            else recurrent(3, e + 2 * h, h)
        )
        held_out = (config.valid_sentences or 200.0) + (config.test_sentences or 200.0)
        generated = 0.0 if source == "real" else 800.0 * (config.train_pairs + held_out)
        rows = config.batch_size * config.max_length
        return Size(
            2 * words * e
            + 2 * recurrent(3, e, h)
            + decoder
            + 2 * linear(2 * h, 2 * h)
            + linear(2 * h, h)
            + linear(h, e)
            + linear(e, e)
            + linear(2 * h, e)
            + linear(e, words),
            rows * (40.0 * h + 4 * e) + 1.0 * rows * config.max_length * 2 * h,
            (generated or 16e6) + config.beam * (4.0 * words + 100.0 * h),
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Tokenise, which is done once, or generate; and lay out the batches of an epoch."""
        config = self.config
        if self.source == "real":
            self.corpus = load(
                root,
                cache_folder(),
                corpus=config.corpus,
                max_pairs=config.max_pairs,
                vocab_size=config.vocab_size,
                valid_set=config.valid_set,
                limits=(config.valid_sentences, config.test_sentences),
                workers=config.workers,
            )
        else:
            held_out = (config.valid_sentences or 200, config.test_sentences or 200)
            self.corpus = generate(config.train_pairs, held_out, config.vocab_size)
        source, target = self.corpus.source.lengths, self.corpus.target.lengths
        self.batches = make_batches(
            shuffled(len(source)),
            source,
            target,
            batch_size=config.batch_size,
            read_ahead=config.read_ahead,
            max_length=config.max_length,
        )
        short = {
            "training text": len(self.batches),
            "validation set": len(self.corpus.valid.readable(config.max_length)),
            "test set": len(self.corpus.test.readable(config.max_length)),
        }
        for name, pairs in short.items():
            if not pairs:
                raise DataError(
                    f"no pair of the {name} is short enough for task.max_length="
                    f"{config.max_length}: make it larger"
                )
        return self.corpus.files

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """The translator with `spec` for every unit."""
        config, scale = self.config, self.config.orthogonal_scale
        if scale is None:
            scale = 1.0 if spec.variant == "reference" else NOISY_SCALE
        return Translator(
            config.vocab_size,
            config.vocab_size,
            config.embedding_size,
            config.hidden_size,
            config.decoder,
            spec,
            Initial(config.init_std, scale),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Updates between two validations."""
        return self.config.epoch_steps

    def loss(self, model: nn.Module, step: int, device: torch.device) -> StepOutput:
        """Mean over sentences; the file is read in the same order again and again."""
        assert isinstance(model, Translator)
        rows = self.batches[step % len(self.batches)]
        batch = take(self.corpus.source, self.corpus.target, rows)
        if self.share is not None:
            batch = self._share_of(batch, self.share)
        loss, nll = model.loss(batch.to(device), 1.0 / len(rows))
        words = int(batch.target_lengths.sum())
        return StepOutput(loss, {"nll": nll.sum(), "sentences": len(nll)}, words)

    rows_first = ("decoder.attention.unit",)

    def why_whole(self) -> str | None:
        """Sentences are independent."""
        return None

    def _share_of(self, batch: Batch, share: Share) -> Batch:
        """Its sentences, as long as the longest of the whole batch."""
        rows = share.take(len(batch.target_lengths))
        inside = mask_of(batch.target_lengths, len(batch.target)).t()
        # The readout sees words alone, those of all sentences at a step after another.
        numbers = (inside.flatten().cumsum(0) - 1).view_as(inside)
        own = numbers[:, rows][inside[:, rows]]
        share.places["readout_unit"] = (int(inside.sum()), own)
        return Batch(*(part[..., rows] for part in batch))

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Nats a sentence, noise on, while the weights move."""
        return {"train_nll": sums["nll"] / max(sums["sentences"], 1)}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Nats a sentence of the validation set."""
        assert isinstance(model, Translator)
        length = self.config.max_length
        return {"valid_nll": mean_nll(model, self.corpus.valid, length, device)}

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Nats a sentence of the test set, and BLEU of its translations in two forms."""
        assert isinstance(model, Translator)
        data = self.corpus.test
        nll = mean_nll(model, data, self.config.max_length, device)
        best = self.translate(model, [data.source[k] for k in range(len(data))], device)
        tokenised, standard = score([read(b, data.target.vocab) for b in best], data, "fr")
        self._found = {
            "test_sentences": len(data),
            "test_nll_sentences": len(data.readable(self.config.max_length)),
            "valid_nll_sentences": len(self.corpus.valid.readable(self.config.max_length)),
            "test_bleu": asdict(tokenised),
            "test_bleu_13a": asdict(standard),
        }
        return {
            "test_nll": nll,
            "test_bleu": tokenised.score,
            "test_bleu_13a": standard.score,
        }

    def translate(
        self, model: Translator, sentences: list[Any], device: torch.device
    ) -> list[Hypothesis]:
        """Best hypotheses for arrays of source ids, by the configured beam search."""
        return search(model, sentences, self.config.beam, self.config.decode_words, device)

    def findings(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """How BLEU came about: precisions, brevity penalty, lengths and sacrebleu's signatures."""
        return self._found

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """Ten test sentences with the model's translation and the reference."""
        assert isinstance(model, Translator)
        data, vocab = self.corpus.test, self.corpus.target.vocab
        count = min(SHOWN, len(data))
        best = self.translate(model, [data.source[k] for k in range(count)], device)
        lines, panels = [], []
        for k, hypothesis in enumerate(best):
            source, reference = (side[k] for side in data.tokenised)
            ours = read(hypothesis, vocab)
            lines += [f"source:    {source}", f"reference: {reference}", f"model:     {ours}", ""]
        if best and best[0].attention is not None:
            inside = best[0].attention[:, : len(data.source[0]) + 1]
            panels.append(Panel("attention, sentence 1", inside, "source", "target"))
        return Sample("\n".join(lines[:-1]), tuple(panels))
