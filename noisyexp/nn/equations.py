"""One step of each cell as the paper's equations, with units for tanh and the gates.

These functions are the truth that the compiled kernels are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from noisyexp.activations import Activation
from noisyexp.nn.shared import shared_linear

Units = Mapping[str, Activation]
Draws = Mapping[str, Tensor | None]
State = tuple[Tensor, ...]
Step = Callable[..., State]


def lstm_cell(
    units: Units, x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None, xi: Draws
) -> State:
    """One step: c' = f c + i g; h' = o tanh(c').

    Args:
        units: the five units by name: i, f, g, o and c, the tanh of the cell output.
        x: W_ih x + b_ih of this step, (B, 4 H).
        state: h and c, (B, H) each.
        w_hh: (4 H, H).
        b_hh: (4 H,) or None.
        xi: draw of each unit, (B, H) or None.

    Returns:
        h' and c', (B, H) each.
    """
    h, c = state
    i, f, g, o = (x + shared_linear(h, w_hh, b_hh)).chunk(4, dim=-1)
    i = units["i"](i, xi["i"])
    f = units["f"](f, xi["f"])
    g = units["g"](g, xi["g"])
    o = units["o"](o, xi["o"])
    c = f * c + i * g
    return o * units["c"](c, xi["c"]), c


def handed_out(state: State) -> State:
    """The state after a step for a caller, who may write over it: a unit saved c for backward."""
    h, *rest = state
    return (h, *(part.clone() for part in rest))


def gru_cell(
    units: Units, x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None, xi: Draws
) -> State:
    """One step: n = tanh(W x + b + r (U h + b_h)); h' = (1 - z) n + z h.

    Args:
        units: the three units by name: r, z, n.
        x: W_ih x + b_ih of this step, (B, 3 H).
        state: h, (B, H).
        w_hh: (3 H, H).
        b_hh: (3 H,) or None.
        xi: draw of each unit, (B, H) or None.

    Returns:
        h', (B, H).
    """
    (h,) = state
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    h_r, h_z, h_n = shared_linear(h, w_hh, b_hh).chunk(3, dim=-1)
    r = units["r"](x_r + h_r, xi["r"])
    z = units["z"](x_z + h_z, xi["z"])
    n = units["n"](x_n + r * h_n, xi["n"])
    return ((1.0 - z) * n + z * h,)


@dataclass(frozen=True)
class Cell:
    """All that the rest of the code knows of a cell.

    Attributes:
        name: of the kernels, `<name>_forward` and `<name>_backward`. A backend that does not name
            them leaves the cell to the plain loop.
        step: its equations.
        unit_kinds: kind of each unit by its name, in the order in which the kernels number them.
        gates: numbers before a unit that each unit of the layer has, G / H.
        states: tensors of state, (B, H) each.
        adds: whether the recurrent product is added to the input's share. A GRU's is kept apart: n
            multiplies a part of it.
        rounds_states: whether torch's layer on a processor returns autocast's dtype even where the
            states have more digits.
        forward_kernel: the kernel of a step.
    """

    name: str
    step: Step
    unit_kinds: Mapping[str, str]
    gates: int
    states: int
    adds: bool
    rounds_states: bool
    forward_kernel: str = field(init=False)

    def __post_init__(self) -> None:
        # Kept, as cells ask at each step; not as a cached property, whose lock torch.compile cannot
        # enter under Python 3.10 and 3.11.
        object.__setattr__(self, "forward_kernel", f"{self.name}_forward")


LSTM = Cell(
    "lstm",
    lstm_cell,
    {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid", "c": "tanh"},
    gates=4,
    states=2,
    adds=True,
    rounds_states=True,
)
GRU = Cell(
    "gru",
    gru_cell,
    {"r": "sigmoid", "z": "sigmoid", "n": "tanh"},
    gates=3,
    states=1,
    adds=False,
    rounds_states=False,
)
CELLS = {cell.name: cell for cell in (LSTM, GRU)}
"""The cells that the kernels know."""
