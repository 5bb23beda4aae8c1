"""Word-level language modelling with an LSTM (Table 2, Section 6.3), on any text."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec
from noisyexp.data.vocab import Vocab
from noisyexp.nn.language_model import LanguageModel, detach, saturation_on, stream_nll
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Sample, StepOutput, Wanted
from noisyexp.tasks.size import MOST_EXAMPLES, MOST_SENTENCES, Size, linear, recurrent
from noisyexp.tasks.text import generated
from noisyexp.tasks.text.carried import ReadsStreams, whole_nll
from noisyexp.tasks.text.continuations import WORDS, continuations, describe
from noisyexp.tasks.text.corpus import Corpus
from noisyexp.tasks.text.streams import num_windows, to_streams

WATCHED = 500
"""Rows of the validation streams on which saturation is measured: 10,000 words."""

REAL_WORDS = 10_000
"""Of the real text."""


@dataclass(frozen=True)
class WordModelConfig:
    """Section `task` of a run of a word language model."""

    name: str = option("the task's folder")
    hidden_size: int = option("H, units of a layer and size of the embedding", low=1)
    num_layers: int = option("LSTM layers", low=1)
    dropout: float = option("on non-recurrent connections", low=0, high=0.99)
    init_range: float = option("weights are drawn from U[-r, r]", above=0)
    batch_size: int = option("B, parallel streams", low=1)
    steps: int = option("T, steps of a window and of backpropagation", low=1)
    reset: str = option("state at the start of an epoch", choices=("zero", "zaremba"))
    max_tokens: int | None = option("number of tokens to read of each split; null: all", low=100)
    vocab_size: int = option("words of the generated language", low=40, high=MOST_SENTENCES)
    train_tokens: int = option(
        "training tokens of the generated language", low=1000, high=MOST_EXAMPLES
    )

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.max_tokens is not None and self.max_tokens < self.batch_size * (self.steps + 1):
            yield (
                f"max_tokens={self.max_tokens}: at least batch_size * (steps + 1) = "
                f"{self.batch_size * (self.steps + 1)} tokens are needed for one window"
            )


class WordLanguageModel(ReadsStreams):
    """The LSTM language model of Zaremba et al. (2014), code of 20 May 2015; a task names its text.

    Loss of a window: negative log-likelihood summed over its T steps and averaged over its B
    streams, so that clipping to norm 5 and lr = 1 mean what they meant there.
    """

    config_type = WordModelConfig
    config: WordModelConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "train_ppl": Metric("training perplexity", "perplexity", "min"),
        "valid_ppl": Metric("validation perplexity", "perplexity", "min"),
        "valid_ppl_zaremba": Metric(
            "validation perplexity, formula of the 2015 code", "perplexity", "min"
        ),
        "test_ppl": Metric("test perplexity", "perplexity", "min"),
    }
    selection = "valid_ppl"
    item = "tokens"

    @abstractmethod
    def read(self, root: Path) -> Corpus:
        """The real text, from the folder of the data sets.

        Raises:
            DataError: a file is missing or wrong.
        """

    @classmethod
    def size(cls, config: WordModelConfig, source: str) -> Size:
        """Embedding, layers and output; gates, states and units of every step."""
        h, layers = config.hidden_size, config.num_layers
        words = REAL_WORDS if source == "real" else config.vocab_size
        real = source == "real"
        tokens = 1.1e6 if real else 1.2 * config.train_tokens
        kept = tokens if config.max_tokens is None else min(tokens, 3.0 * config.max_tokens)
        return Size(
            words * h + recurrent(4, h, h, layers) + linear(h, words),
            10.0 * config.batch_size * config.steps * layers * h,
            8 * kept + (0.0 if real else 1400.0 * words + 60.0 * tokens),
            layers,
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Read the corpus and cut the training text into streams."""
        size = self.config.train_tokens
        held_out = max(size // 10, min(size, 4000))
        if self.source == "real":
            self.corpus = self.read(root)
        else:
            # One text for all seeds: as with real data, the seed is that of the model alone.
            self.corpus = generated.generate_corpus(
                0, self.config.vocab_size, (size, held_out, held_out)
            )
        self._cut(self.corpus)
        return self.corpus.files

    def words(self) -> list[str]:
        """The vocabulary."""
        return self.corpus.vocab.get_itos()

    def prepare_words(self, words: list[str]) -> None:
        """Prepare for `write`."""
        nothing = torch.zeros(0, dtype=torch.int64)
        self.corpus = Corpus(nothing, nothing, nothing, Vocab(words), {})

    def _cut(self, corpus: Corpus) -> None:
        limit = self.config.max_tokens
        self.train_streams = to_streams(corpus.train[:limit], self.config.batch_size)
        self.valid_streams = to_streams(corpus.valid[:limit], self.config.batch_size)
        self.test_stream = corpus.test[:limit].unsqueeze(1)
        self.check_length("train", self.train_streams)
        self.check_length("valid", self.valid_streams)

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """The model of Zaremba et al. with `spec` in all five places of every layer."""
        config = self.config
        return LanguageModel(
            len(self.corpus.vocab),
            config.hidden_size,
            config.num_layers,
            config.dropout,
            config.init_range,
            spec,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Windows in a pass: 2,323 on the real training text with B = T = 20."""
        return self.windows

    def batch(self, model: nn.Module, step: int, device: torch.device) -> tuple[Tensor, ...]:
        """Words and next words of one window, (T, B) each, and the state before it."""
        assert isinstance(model, LanguageModel)
        index = step % self.steps_per_epoch
        if index == 0 and (step == 0 or self.config.reset == "zero"):
            self.begin_text()
        return self.window_at(model, index, device)

    def loss_of_batch(
        self, model: nn.Module, batch: Sequence[Tensor]
    ) -> tuple[StepOutput, tuple[Tensor, ...]]:
        """Negative log-likelihood of one window, summed over T and averaged over B."""
        assert isinstance(model, LanguageModel)
        inputs, targets, *state = batch
        columns = targets.shape[1] if self.share is None else self.share.total
        found, new = model.loss(inputs, tuple(state), targets, 1.0 / columns)
        count = targets.numel()
        sums: dict[str, Tensor | float] = {"nll": found.costs.sum(), "tokens": count}
        return StepOutput(found.total, sums, count), detach(new)

    def why_whole(self) -> str | None:
        """Streams are independent."""
        return None

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Perplexity of the training text, noise and dropout on, while the weights move."""
        return {"train_ppl": _perplexity(sums["nll"], sums["tokens"])}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Validation perplexity over whole windows of B streams, by both formulas."""
        assert isinstance(model, LanguageModel)
        steps, streams = self.config.steps, self.valid_streams.to(device)
        windows = num_windows(len(streams), steps)
        nll, count, state = stream_nll(model, streams, windows, steps)
        if self.config.reset == "zaremba":
            self._state = state
        return {
            "valid_ppl": _perplexity(float(nll), count),
            "valid_ppl_zaremba": zaremba_perplexity(
                float(nll) / streams.shape[1], len(streams), steps
            ),
        }

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Test perplexity of the text as one stream from a zero state, all tokens but the first."""
        assert isinstance(model, LanguageModel)
        return {"test_ppl": _perplexity(*whole_nll(model, self.test_stream.to(device)))}

    def floor(self) -> dict[str, float]:
        """Perplexity of the best possible predictor of the generated language."""
        nats = self.corpus.floor_nats
        return {} if nats is None else {"valid_ppl": math.exp(nats), "test_ppl": math.exp(nats)}

    def write(self, model: nn.Module, device: torch.device, wanted: Wanted) -> list[str]:
        """Continuations of a prompt."""
        assert isinstance(model, LanguageModel)
        return continuations(model, self.corpus.vocab, device, WORDS, wanted)

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """What the model writes after the first words of the validation text, and what is hard."""
        assert isinstance(model, LanguageModel)
        text = describe(model, self.corpus.valid, self.corpus.vocab, device, WORDS)
        lines = ["", "inputs of the units beyond the hard unit's threshold, on validation text"]
        for path, share in self.saturated(model, device).items():
            lines.append(f"  {path:<5} {share:4.1f} %")
        return Sample("\n".join([text, *lines]))

    def saturated(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Percent of each unit's inputs beyond the threshold, by layer and place ("l0.i").

        Read are the first `WATCHED` rows of the validation streams, from a zero state.
        """
        assert isinstance(model, LanguageModel)
        streams = self.valid_streams[:WATCHED].to(device)
        found = saturation_on(model, streams).percent_by_unit.items()
        return {".".join(path.split(".")[-2:]): share for path, share in found}


def zaremba_perplexity(nll_per_stream: float, rows: int, steps: int) -> float:
    """Validation perplexity as the 2015 code prints it, too low by about one point.

    The sum over floor((rows - 1) / steps) windows of their mean negative log-likelihood a token is
    divided by the fraction (rows - 1) / steps itself: 184 windows, divided by 184.35.

    Args:
        nll_per_stream: sum over all windows and steps, averaged over streams, in nats.
        rows: tokens of a stream.
        steps: T.
    """
    return _exp(nll_per_stream / steps / ((rows - 1) / steps))


def _perplexity(nll: float, count: float) -> float:
    return _exp(nll / max(count, 1))


def _exp(nats: float) -> float:
    """Infinite beyond the largest number: a run that comes there has diverged."""
    return math.inf if nats > 700.0 else math.exp(nats)
