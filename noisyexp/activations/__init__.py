"""Noisy activation functions: the equations, the units, their noise and its schedules."""

from noisyexp.activations.modules import (
    Activation,
    ActivationSpec,
    activations,
    find_variant,
    make_activation,
    noise_parameters,
    reset_noise_parameters,
    set_noise_level,
    variants,
)
from noisyexp.activations.noise import NoiseSource, attach_noise, derive_seed, draws_apart
from noisyexp.activations.penalized import PenalizedTanh
from noisyexp.activations.schedules import SCHEDULES

__all__ = [
    "SCHEDULES",
    "Activation",
    "ActivationSpec",
    "NoiseSource",
    "PenalizedTanh",
    "activations",
    "attach_noise",
    "derive_seed",
    "draws_apart",
    "find_variant",
    "make_activation",
    "noise_parameters",
    "reset_noise_parameters",
    "set_noise_level",
    "variants",
]
