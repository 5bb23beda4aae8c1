"""Captioner of Xu et al. (2015): an LSTM that looks at the locations of an image word by word.

B captions, T steps, S locations, D channels of an annotation, H units of the LSTM, E size of a word
embedding, V words. The attention's keys have D units, as many as an annotation has channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, draws_apart
from noisyexp.activations.share import coins
from noisyexp.nn.attention import AdditiveAttention
from noisyexp.nn.cells import NoisyLSTMCell
from noisyexp.nn.initial import drop_bias, gaussian_, orthogonal_blocks_
from noisyexp.nn.shared import shared_weights

KEEP = 0.5
"""Probability that dropout keeps a number."""


@dataclass(frozen=True)
class Shape:
    """Sizes and parts of a captioner.

    Attributes:
        words: V.
        channels: D.
        embedding: E.
        hidden: H.
        attention_layers: layers that make keys of annotations.
        init_layers: layers from the mean annotation to the first state.
        output_layers: layers behind the readout, the last one to the words.
        prev2out: the readout sees the previous word.
        ctx2out: the readout sees the context.
        selector: a gate scales the context.
        dropout: at the four places of the original.
        attention: "soft", "hard" (sampled) or "uniform" (every location alike, for comparison).
    """

    words: int
    channels: int
    embedding: int
    hidden: int
    attention_layers: int
    init_layers: int
    output_layers: int
    prev2out: bool
    ctx2out: bool
    selector: bool
    dropout: bool
    attention: str


class Start(NamedTuple):
    """What is known of images before the first word: annotations, keys, (B, S, D), and the state.

    Attributes:
        annotations: (B, S, D).
        keys: (B, S, D).
        h: (B, H).
        c: (B, H).
    """

    annotations: Tensor
    keys: Tensor
    h: Tensor
    c: Tensor


class Step(NamedTuple):
    """One step: new state, gated context, attention.

    Attributes:
        h: (B, H).
        c: (B, H).
        context: (B, D), as the LSTM has seen it.
        alpha: weights by the softmax, (B, S).
        used: weights that made the context: alpha, or a sample from it; (B, S).
    """

    h: Tensor
    c: Tensor
    context: Tensor
    alpha: Tensor
    used: Tensor


class Unrolled(NamedTuple):
    """All steps of a batch.

    Attributes:
        readout: (B, T, E), what `output` makes scores of words of.
        alpha: (B, T, S).
        used: (B, T, S).
    """

    readout: Tensor
    alpha: Tensor
    used: Tensor


class Sampler:
    """Replaces attention by one location drawn from it, or leaves it; one decision a batch.

    Args:
        sample: whether this batch samples.
        generator: of the draws, of the CPU; None is torch's own of the weights' device.
    """

    def __init__(self, sample: bool, generator: torch.Generator | None = None) -> None:
        self.sample, self.generator = sample, generator

    def __call__(self, alpha: Tensor) -> Tensor:
        """Weights to use in place of `alpha`, (B, S): one-hot without a gradient, or `alpha`."""
        # Weights that are not finite are left as they are, so that the loss is not finite either.
        if not self.sample or not bool(alpha.isfinite().all()):
            return alpha
        chances = alpha.detach().float()
        if self.generator is not None:
            chances = chances.cpu()
        drawn = torch.multinomial(chances, 1, generator=self.generator).to(alpha.device)
        return torch.zeros_like(alpha).scatter_(1, drawn, 1.0)


class OldDropout(nn.Module):
    """Dropout without rescaling: times a coin in training, times `KEEP` in evaluation.

    Args:
        on: whether it does anything.
    """

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on

    def forward(self, x: Tensor) -> Tensor:
        """Shape of x."""
        if not self.on:
            return x
        return x * coins(x, KEEP, 0) if self.training else KEEP * x


class Captioner(nn.Module):
    """P(word | words before, image), with units of the experiment at eleven places.

    Soft units: tanh at the first h and c, at the keys beyond their first layer, in the attention
    score, as candidate and cell output of the LSTM, in the readout; sigmoid at the selector and at
    the three gates. ReLU and softmax stay what they are.

    Args:
        shape: sizes and parts.
        spec: makes the units.
        orthogonal_scale: factor of the square matrices, which start orthogonal; all others start
            as N(0, 0.01^2), all biases as 0.
    """

    def __init__(self, shape: Shape, spec: ActivationSpec, orthogonal_scale: float = 1.0) -> None:
        super().__init__()
        self.shape = shape
        d, e, h = shape.channels, shape.embedding, shape.hidden
        self.embedding = nn.Embedding(shape.words, e)
        self.init_hidden = nn.ModuleList(nn.Linear(d, d) for _ in range(shape.init_layers - 1))
        self.init_h, self.init_c = nn.Linear(d, h), nn.Linear(d, h)
        self.keys = nn.ModuleList(nn.Linear(d, d) for _ in range(shape.attention_layers))
        self.attention = AdditiveAttention(h, d, spec)
        self.selector = nn.Linear(h, 1) if shape.selector else None
        self.cell = NoisyLSTMCell(e + d, h, variant=spec)
        drop_bias(self.cell, "bias_hh")
        self.readout_h = nn.Linear(h, e)
        self.readout_context = nn.Linear(d, e) if shape.ctx2out else None
        self.output_hidden = nn.ModuleList(nn.Linear(e, e) for _ in range(shape.output_layers - 1))
        self.output = nn.Linear(e, shape.words)
        self.drop = OldDropout(shape.dropout)
        with draws_apart():
            self.init_h_unit, self.init_c_unit = spec("tanh", h), spec("tanh", h)
            self.key_units = nn.ModuleList(
                spec("tanh", d) for _ in range(shape.attention_layers - 1)
            )
            self.selector_unit = spec("sigmoid", 1) if shape.selector else None
            self.readout_unit = spec("tanh", e)
        # Running mean of the cost of a step, for hard attention.
        self.register_buffer("baseline", torch.zeros(()))
        self.reset_weights(orthogonal_scale)

    def reset_weights(self, orthogonal_scale: float) -> None:
        """Square matrices orthogonal times `orthogonal_scale`, others Gaussian, biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                fill(module.weight, 1, orthogonal_scale)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Of the keys' layers the first is Gaussian though square.
        gaussian_(self.keys[0].get_parameter("weight"))
        gaussian_(self.embedding.weight)
        cell, e = self.cell, self.shape.embedding
        nn.init.zeros_(cell.bias_ih)
        fill(cell.weight_ih[:, :e], 4, orthogonal_scale)
        gaussian_(cell.weight_ih[:, e:])
        fill(cell.weight_hh, 4, orthogonal_scale)

    def start(self, annotations: Tensor) -> Start:
        """Keys and first state of images.

        Args:
            annotations: (B, S, D).
        """
        mean = annotations.mean(1)
        for layer in self.init_hidden:
            mean = self.drop(torch.relu(layer(mean)))
        h, c = self.init_h_unit(self.init_h(mean)), self.init_c_unit(self.init_c(mean))
        keys = self.keys[0](annotations)
        for layer, unit in zip(self.keys[1:], self.key_units, strict=True):
            keys = unit(layer(keys))
        return Start(annotations, keys, h, c)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings (..., E) of words (...,); zeros for -1, "no word before"."""
        found: Tensor = self.embedding(tokens.clamp(min=0))
        return found * (tokens >= 0).unsqueeze(-1)

    def step(self, start: Start, word: Tensor, sampler: Sampler | None = None) -> Step:
        """Look, then advance the LSTM.

        Args:
            start: annotations and keys; the state before this step in h and c.
            word: embedding of the previous word, (B, E).
            sampler: of hard attention; None uses the weights as they are.
        """
        annotations, keys, h, c = start
        if self.shape.attention == "uniform":
            alpha = annotations.new_full(annotations.shape[:2], 1 / annotations.shape[1])
        else:
            alpha = self.attention.weights(h, keys)
        used = alpha if sampler is None else sampler(alpha)
        context = torch.bmm(used.unsqueeze(1), annotations).squeeze(1)
        if self.selector is not None and self.selector_unit is not None:
            context = self.selector_unit(self.selector(h)) * context
        h, c = self.cell(torch.cat([word, context], -1), (h, c))
        return Step(h, c, context, alpha, used)

    def read_out(self, h: Tensor, word: Tensor, context: Tensor) -> Tensor:
        """What `output` makes scores of words of, (..., E).

        Args:
            h: (..., H), after the step.
            word: (..., E), embedding of the previous word.
            context: (..., D).
        """
        readout: Tensor = self.readout_h(self.drop(h))
        if self.shape.prev2out:
            readout = readout + word
        if self.readout_context is not None:
            readout = readout + self.readout_context(context)
        readout = self.drop(self.readout_unit(readout))
        for layer in self.output_hidden:
            readout = self.drop(torch.relu(layer(readout)))
        return readout

    def forward(
        self,
        annotations: Tensor,
        inputs: Tensor,
        mask: Tensor | None = None,
        sampler: Sampler | None = None,
    ) -> Unrolled:
        """The readout of every next word of captions.

        Args:
            annotations: (B, S, D).
            inputs: (B, T) int64, the word before each, -1 before the first.
            mask: (B, T) bool, true up to a caption's end: the state stays as it is where false.
            sampler: of hard attention.
        """
        now, words = self.start(annotations), self.embed(inputs)
        steps = []
        with shared_weights():
            for t in range(inputs.shape[1]):
                step = self.step(now, words[:, t], sampler)
                if mask is not None:
                    on = mask[:, t : t + 1]
                    step = step._replace(
                        h=torch.where(on, step.h, now.h), c=torch.where(on, step.c, now.c)
                    )
                now = now._replace(h=step.h, c=step.c)
                steps.append(step)
        h, _, context, alpha, used = (torch.stack(parts, 1) for parts in zip(*steps, strict=True))
        return Unrolled(self.read_out(h, words, context), alpha, used)


def fill(weight: Tensor, blocks: int, scale: float) -> Tensor:
    """Fill `blocks` blocks of rows: orthogonal times `scale` where square, else N(0, 0.01^2)."""
    if weight.shape[0] == blocks * weight.shape[1]:
        return orthogonal_blocks_(weight, blocks, scale)
    return gaussian_(weight)
