"""What a call of a recurrent layer in one direction is, apart from its tensors with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisyexp.activations.fused import point_to_p
from noisyexp.kernels import bindings as K
from noisyexp.kernels.dispatch import backend_of
from noisyexp.nn.equations import Cell
from noisyexp.nn.shared import Shared


@dataclass
class LayerCall:
    """One call of a layer in one direction: all but the tensors that take gradients.

    Attributes:
        cell: of `equations.CELLS`.
        activations: the cell's units in the order in which the kernels number them.
        given: draws of each unit, where they are given and not made in the kernel.
        mask: (T, B) uint8, 0 past the end of a sequence; None if all have T steps.
        reverse: from the last step to the first.
        operands: what those of products are rounded to, bfloat16 or float16; None for nothing.
        shared: of one step, where gradients of W_ih and W_hh are left; None for each made at once.
    """

    cell: Cell
    activations: list[K.Activation]
    given: Sequence[Tensor | None]
    mask: Tensor | None
    reverse: bool
    operands: torch.dtype | None = None
    shared: tuple[Shared | None, Shared | None] = (None, None)

    def order(self, steps: int) -> list[tuple[int, int]]:
        """(step, the step before it or -1) in the order of computation."""
        if self.reverse:
            return [(t, t + 1 if t + 1 < steps else -1) for t in reversed(range(steps))]
        return [(t, t - 1) for t in range(steps)]

    def layer(
        self,
        batch: int,
        hidden: int,
        ps: Sequence[Tensor | None],
        p_sums: Tensor | None = None,
        **arrays: Tensor | None,
    ) -> K.Layer:
        """The structure that the kernels take; arrays by name, None for those without.

        `p_sums`, (units of the cell, parts, H), is where the kernels add up the gradients of p.
        """
        gates = arrays["gates"]
        assert gates is not None
        threads = backend_of(gates).parts_of_step(batch, batch * hidden * len(self.activations))
        layer = K.Layer(batch, hidden, threads, hidden)
        sums = None if p_sums is None else p_sums.data_ptr()
        apart = 0 if p_sums is None else p_sums.stride(0) * p_sums.element_size()
        of_layer = layer.activations
        for index, (activation, p) in enumerate(zip(self.activations, ps, strict=True)):
            of_layer[index] = activation
            own = of_layer[index]  # a part of the layer: other threads may use `activation`, too
            point_to_p(own, p)
            if sums is not None and p is not None:
                own.p_grad = sums + index * apart
        for name, array in arrays.items():
            if array is not None:
                setattr(layer, name, array.data_ptr())
        if self.mask is not None:
            layer.mask = self.mask.data_ptr()
        return layer
