"""The equation of a unit in mathtext, and its settings in words."""

from __future__ import annotations

from noisyexp.activations import Activation
from noisyexp.activations.settings import shown

_LEAKY = r"\phi = \alpha h(x) + (1 - \alpha) u(x) + d\,\sigma\,"
_SIGMA = r"\sigma = c\,(g(p\Delta) - \frac{1}{2})^2"
_SIDE = r"d = -\mathrm{sgn}(x)\,\mathrm{sgn}(1 - \alpha)"
_HARD = {
    "tanh": r"h(x) = \min(\max(x, -1), 1)",
    "sigmoid": r"h(x) = \min(\max(\frac{x}{4} + \frac{1}{2}, 0), 1)",
}
_SOFT = {"tanh": r"\phi = \tanh(x)", "sigmoid": r"\phi = g(x) = 1 / (1 + e^{-x})"}


def equation(unit: Activation) -> str:
    """The unit's equation with its number in the paper, as matplotlib's mathtext.

    A variant of somebody's own is described by the first line of its docstring.
    """
    kind = unit.kind.name
    side = r"d = -\mathrm{sgn}(x)" if unit.code_compat else _SIDE
    learned = r"\sigma = c\,\mathrm{softplus}(p|\Delta| / |\xi|)" if unit.code_compat else _SIGMA
    known = {
        "reference": ((_SOFT[kind],), "the soft unit"),
        "hard": ((_HARD[kind],), "Eq 3 and 4"),
        "nan": ((_LEAKY + r"\xi", _SIGMA, side), "Eq 12, 9"),
        "nah": ((_LEAKY + r"|\xi|", _SIGMA, _SIDE), "Algorithm 1, Eq 9"),
        "nah_mean": ((_LEAKY + r"\sqrt{2/\pi}", _SIGMA, _SIDE), "Eq 13, 9, in training too"),
        "nani": ((r"\phi = h(x + c\,\xi)",), "Eq 14, c its sigma"),
        "nanil": (
            (r"\phi = h(x + \sigma\xi)", learned),
            "the released code" if unit.code_compat else "Eq 9 in Eq 14",
        ),
        "penalized_tanh": (
            (r"\phi = \tanh(x)\ \mathrm{above}\ 0,\ \tanh(x)/4\ \mathrm{below}",),
            "not in the paper",
        ),
        "nanis": ((r"\phi = h(x + 1[|x| \geq x_t]\,c\,\xi)",), "Eq 15, c its sigma"),
    }
    if unit.variant not in known:
        text = (type(unit).__doc__ or unit.variant).strip().splitlines()[0]
        return text.replace("$", r"\$")
    parts, number = known[unit.variant]
    return ",   ".join(f"${part}$" for part in parts) + f"   ({number})"


def describe(unit: Activation) -> str:
    """Name, kind and the settings that the unit uses."""
    words = [f"{unit.variant.upper() if unit.has_noise else unit.variant}, {unit.kind.name}"]
    if unit.leaks:
        words.append(f"alpha = {shown(unit.alpha)}")
    if unit.uses_c:
        words.append(f"c = {shown(unit.c)}")
    if unit.p is not None:
        words.append(f"p = {shown(unit.p)}")
    if unit.clip_output:
        words.append(f"clipped to {unit.kind.low:g}..{unit.kind.high:g}")
    if unit.code_compat and unit.has_noise:
        words.append("formulas of the released code")
    return ", ".join(words)
