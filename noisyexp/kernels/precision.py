"""Half precision: who asks for it, which dtype results have, and what it means here.

Under autocast, and in modules of bfloat16 or float16, only the operands of matrix products have 16
bits. Products are summed in float32, and all else is float32: gates, states, noise, p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noisyexp.kernels import dispatch, matmul

HALF = (torch.bfloat16, torch.float16)


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on where x is; the meta device has none."""
    if not torch._C._is_any_autocast_enabled():  # the usual case, in a tenth of the time
        return False
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def half_dtype(*tensors: Tensor | None) -> torch.dtype | None:
    """The half precision in which torch would multiply these tensors, or None.

    That is autocast's dtype where it is on, which leaves float64 alone, or the tensors' own. None
    also for a mixture without autocast, which torch refuses.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if given[0].dtype not in HALF and not under_autocast(given[0]):
        return None
    dtypes, kind = {tensor.dtype for tensor in given}, given[0].device.type
    if kind == "meta" or not dtypes <= {torch.float32, *HALF}:
        return None
    if torch.is_autocast_enabled(kind):
        found: torch.dtype = torch.get_autocast_dtype(kind)
        return found
    return dtypes.pop() if len(dtypes) == 1 and torch.float32 not in dtypes else None


@dispatch.constant_in_graphs
def operand_dtype(half: torch.dtype, device: torch.device) -> torch.dtype | None:
    """The dtype that operands are rounded to there, None for none.

    On a processor that is bf16 where it has instructions for it, said once where it has none.
    float16 is multiplied as float32 on every processor, which loses nothing.
    """
    if not dispatch.has("bf16_multiply", device):  # torch multiplies them
        return half
    if half != torch.bfloat16:
        return None
    if matmul.form() is None:
        matmul.note_float32()
        return None
    return half


def to_float(tensor: Tensor) -> Tensor:
    """A half-precision tensor as float32, others as they are."""
    return tensor.float() if tensor.dtype in HALF else tensor


def result_dtype(half: torch.dtype, state: Tensor, always: bool) -> torch.dtype:
    """The dtype of what torch's own layer or cell returns.

    Args:
        half: see `half_dtype`.
        state: the first state, c of an LSTM.
        always: whether on a processor it is `half` whatever the state, as of an LSTM layer.
    """
    if state.device.type != "cpu" or always:
        return half
    # Of products in half precision and states in theirs, one after the other.
    return torch.promote_types(half, state.dtype)
