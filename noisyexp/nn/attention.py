"""Additive attention (Bahdanau et al. 2014) with any unit of the paper in its score.

B rows, S positions, A units, D annotation size, Q query size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from noisyexp.activations import ActivationSpec, draws_apart
from noisyexp.kernels.precision import half_dtype
from noisyexp.nn.fused_score import can_fuse_score, fused_score, keys_in_float32
from noisyexp.nn.shared import call, weighted_sum


class AdditiveAttention(nn.Module):
    """e_i = v . tanh(W q + key_i) + b, weights = softmax of e, context = sum_i weights_i a_i.

    The layer that makes keys of annotations, with its bias, belongs to the caller: keys are
    computed once a sentence or image, not once a step. The scalar b has no effect on the weights;
    the models of Sections 6.4 and 6.5 have it among their parameters.

    Args:
        query_size: Q.
        attention_size: A.
        spec: the unit in the score, a tanh unless noisy; its p is `unit.p`.
    """

    def __init__(self, query_size: int, attention_size: int, spec: ActivationSpec) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, attention_size, bias=False)
        self.v = nn.Linear(attention_size, 1)
        with draws_apart():
            self.unit = spec("tanh", attention_size)

    def forward(
        self, query: Tensor, keys: Tensor, annotations: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: where to look, and what is there.

        Args:
            query: (B, Q).
            keys: (B, S, A).
            annotations: (B, S, D).
            mask: (B, S) bool, true at real positions, at least one in a row; None if all are.

        Returns:
            Context (B, D) and weights (B, S), rows sum to 1.

        Raises:
            ValueError: shapes that do not belong together.
        """
        weights = self.weights(query, keys, mask)
        if annotations.shape[:2] != weights.shape:
            raise ValueError(
                f"annotations of shape {tuple(annotations.shape)}: expected {tuple(weights.shape)} "
                "and their size, as keys"
            )
        return weighted_sum(weights, annotations), weights

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weights alone, for callers that sample or replace them.

        Args:
            query: (B, Q).
            keys: (B, S, A).
            mask: as in `forward`.

        Returns:
            (B, S), rows sum to 1, exactly 0 where masked.

        Raises:
            ValueError: shapes that do not belong together.
        """
        shape = (len(query), self.query.out_features)
        if keys.dim() != 3 or (keys.shape[0], keys.shape[2]) != shape:
            raise ValueError(
                f"keys of shape {tuple(keys.shape)}: expected ({shape[0]}, positions, {shape[1]})"
            )
        if mask is not None and mask.shape != keys.shape[:2]:
            raise ValueError(
                f"mask of shape {tuple(mask.shape)}: expected {tuple(keys.shape[:2])}, as keys"
            )
        scores = self._scores(call(self.query, query), keys)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1)

    def _scores(self, q: Tensor, keys: Tensor) -> Tensor:
        """The e of every position, (B, S), in float32 also of half-precision keys; q: (B, A)."""
        v, b = self.v.weight, self.v.bias
        if half_dtype(q, keys, v) is None or self.unit.backend != "auto":
            return self._scores_of(q, keys, v, b)
        with torch.autocast(q.device.type, enabled=False):
            return self._scores_of(q.float(), keys_in_float32(keys), v.float(), b.float())

    def _scores_of(self, q: Tensor, keys: Tensor, v: Tensor, b: Tensor) -> Tensor:
        way = can_fuse_score(self.unit, q, keys, v, b)
        if way:
            return fused_score(way, self.unit, q, keys, v) + b
        return linear(self.unit(keys + q.unsqueeze(1)), v, b).squeeze(-1)
