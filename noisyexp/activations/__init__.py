"""Noisy activation functions: the equations, the units, their noise and its schedules."""

from noisyexp.activations.base import Activation
from noisyexp.activations.factory import find_variant, make_activation, variants
from noisyexp.activations.noise import NoiseSource, derive_seed, draws_apart
from noisyexp.activations.penalized import PenalizedTanh
from noisyexp.activations.schedules import SCHEDULES
from noisyexp.activations.spec import ActivationSpec
from noisyexp.activations.tree import (
    activations,
    add_noise_parameters,
    attach_noise,
    noise_parameters,
    reset_noise_parameters,
    set_noise_level,
)

__all__ = [
    "SCHEDULES",
    "Activation",
    "ActivationSpec",
    "NoiseSource",
    "PenalizedTanh",
    "activations",
    "add_noise_parameters",
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
