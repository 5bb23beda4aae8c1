"""Compiled kernels of the noisy units, and the noise that they draw. Knows nothing of modules."""

from noisyexp.kernels.cpu import library
from noisyexp.kernels.philox import DrawKey, normal

__all__ = ["DrawKey", "library", "normal"]
