"""Look at a unit: its value, spread and gradient beside its equation.

`noisyexp inspect act=nah` draws one, `act=all` makes a page of all of them.
"""

from noisyexp.inspect.measure import Profile, measure
from noisyexp.inspect.settings import Settings, parse

__all__ = ["Profile", "Settings", "measure", "parse"]
