"""The translation model of Section 6.4 in the form of dl4mt's session 2 (see the README).

S and T steps of source and target, B sentences, E embedding size, H units a direction, V words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from noisyexp.activations import ActivationSpec, draws_apart
from noisyexp.nn.gru import NoisyGRU
from noisyexp.nn.initial import drop_bias
from noisyexp.nn.output import linear_cross_entropy
from noisyexp.nn.shared import shared_weights
from noisyexp.tasks.nmt.batches import Batch, mask_of
from noisyexp.tasks.nmt.decoders import DECODERS, Memory
from noisyexp.tasks.nmt.initial import Initial


class Translator(nn.Module):
    """Bidirectional GRU encoder, attention, recurrent decoder, one hidden layer before the words.

    Args:
        source_words: V of the source.
        target_words: V of the target.
        embedding_size: E, also the size of the layer before the words.
        hidden_size: H; annotations, keys and the attention's hidden layer have 2 H.
        decoder: "A" or "B", see `decoders`.
        spec: every unit: eight gates (six with decoder A) and seven tanhs (six).
        initial: how weights start.
    """

    def __init__(
        self,
        source_words: int,
        target_words: int,
        embedding_size: int,
        hidden_size: int,
        decoder: str,
        spec: ActivationSpec,
        initial: Initial,
    ) -> None:
        super().__init__()
        size, annotation = embedding_size, 2 * hidden_size
        self.source_embedding = nn.Embedding(source_words, size)
        self.target_embedding = nn.Embedding(target_words, size)
        self.encoder = NoisyGRU(size, hidden_size, bidirectional=True, variant=spec)
        for name in ("bias_hh_l0", "bias_hh_l0_reverse"):
            drop_bias(self.encoder, name)
        self.keys = nn.Linear(annotation, annotation)
        self.start = nn.Linear(annotation, hidden_size)
        self.decoder = DECODERS[decoder](size, hidden_size, spec)
        self.from_state = nn.Linear(hidden_size, size)
        self.from_word = nn.Linear(size, size)
        self.from_context = nn.Linear(annotation, size)
        self.output = nn.Linear(size, target_words)
        with draws_apart():
            self.start_unit = spec("tanh", hidden_size)
            self.readout_unit = spec("tanh", size)
        self.reset_weights(initial)

    def reset_weights(self, initial: Initial) -> None:
        """Draw all weights anew, p of the units apart.

        The readout's square matrix is Gaussian like all others there.
        """
        for embedding in (self.source_embedding, self.target_embedding):
            initial.gaussian(embedding)
        initial.gru(self.encoder)
        initial.general(self.keys)
        initial.general(self.start)
        self.decoder.reset_weights(initial)
        for layer in (self.from_state, self.from_word, self.from_context, self.output):
            initial.gaussian(layer)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        """Read the source.

        Args:
            source: (S, B) int64.
            lengths: (B,) int64, the end counted.

        Returns:
            The memory, and the decoder's first state (B, H).
        """
        packed = pack_padded_sequence(
            self.source_embedding(source), lengths.cpu(), enforce_sorted=False
        )
        annotations, _ = pad_packed_sequence(
            self.encoder(packed)[0], batch_first=True, total_length=len(source)
        )
        mask = mask_of(lengths, len(source))
        # Beyond its end a sentence has zeros here.
        mean = annotations.sum(1) / lengths.unsqueeze(1)
        memory = Memory(annotations, self.keys(annotations), mask)
        return memory, self.start_unit(self.start(mean))

    def read_out(self, state: Tensor, word: Tensor, context: Tensor) -> Tensor:
        """What `output` makes scores of words of, (..., E).

        Args:
            state: (..., H).
            word: (..., E), the word before.
            context: (..., 2 H).
        """
        hidden = self.from_state(state) + self.from_word(word) + self.from_context(context)
        readout: Tensor = self.readout_unit(hidden)
        return readout

    def embed(self, words: Tensor) -> Tensor:
        """Embeddings (..., E) of target words; -1 stands for no word, and is zero."""
        vectors: Tensor = self.target_embedding(words.clamp(min=0))
        return vectors * (words >= 0).unsqueeze(-1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The readout of all target words, each from the true words before it.

        Returns:
            (N, E) of the N places within sentences, by step and then by sentence; and the places,
            (N,) int64: step * B + sentence.
        """
        memory, state = self.encode(batch.source, batch.source_lengths)
        before = torch.cat([torch.full_like(batch.target[:1], -1), batch.target[:-1]])
        words = self.embed(before)
        inside = mask_of(batch.target_lengths, len(batch.target)).t()
        states, contexts = [], []
        with shared_weights():
            for word, here in zip(words, inside.unsqueeze(-1), strict=True):
                new, context, _ = self.decoder(word, state, memory)
                # Past its end a sentence keeps its state.
                state = torch.where(here, new, state)
                states.append(state)
                contexts.append(context)
        places = inside.flatten().nonzero().squeeze(1)
        parts = (torch.stack(states), words, torch.stack(contexts))
        return self.read_out(*(part.flatten(0, 1)[places] for part in parts)), places

    def loss(self, batch: Batch, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Sum of -ln p over the words and the end of target sentences.

        Args:
            batch: B sentences.
            weight: of a sentence in the total.

        Returns:
            The total, to differentiate, and every sentence's sum, (B,), without a graph.
        """
        readout, places = self(batch)
        targets, layer = batch.target.flatten()[places], self.output
        found = linear_cross_entropy(readout, layer.weight, layer.bias, targets, row_weight=weight)
        sentences = batch.target.shape[1]
        each = found.costs.new_zeros(sentences).index_add(0, places % sentences, found.costs)
        return found.total, each

    def step(
        self, tokens: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """One step of a search.

        Args:
            tokens: (N,) int64, the words before; -1 for none.
            state: the decoder's (N, H), and the memory's three tensors.

        Returns:
            ln p of the next word (N, V), the new state, and the attention weights (N, S).
        """
        hidden, *rest = state
        word = self.embed(tokens)
        hidden, context, weights = self.decoder(word, hidden, Memory(*rest))
        scores = self.output(self.read_out(hidden, word, context))
        return scores.float().log_softmax(-1), (hidden, *rest), weights
