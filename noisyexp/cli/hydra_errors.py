"""What Hydra and OmegaConf raise for words that make no configuration, as a line for the user."""

from __future__ import annotations

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from noisyexp.fileio import explain_read
from noisyexp.schema import closest, cut

NOT_COMPOSED = (
    HydraException, OmegaConfBaseException, YAMLError, RecursionError, AssertionError, OSError,
    TypeError, AttributeError, KeyError,
)  # fmt: skip
"""What Hydra raises for words that it cannot make a configuration of."""
MERGING = "Error merging override "
"""How Hydra begins when a value is not of the kind that its key has."""


def first_line(error: Exception) -> str:
    """The line that says what is wrong, with the key where one is known."""
    told = isinstance(error, HydraException | OmegaConfBaseException | YAMLError)
    if isinstance(error, OSError) and not told:
        return explain_read(error)
    if not told and not isinstance(error, ValueError):  # Python's words
        said = cut((str(error).strip() or type(error).__name__).splitlines()[0])
        return f"these words make no configuration; a value may be of the wrong kind ({said})"
    if isinstance(error, YAMLError):  # what, and in which file and line
        return " ".join(str(error).split())
    if isinstance(cause := error.__cause__, ConfigKeyError):  # of a section that was given whole
        known = cause.parent_node if isinstance(cause.parent_node, DictConfig) else {}
        place = str(cause.full_key).rpartition(".")[0]
        names = [f"{place}.{name}" if place else str(name) for name in known]
        return f"{cause.full_key}: no such key.{closest(str(cause.full_key), names)}"
    key = getattr(error, "full_key", None)
    said = str(error).strip() or str(error.__cause__ or "").strip() or type(error).__name__
    lines = said.splitlines()
    if lines[0].startswith(MERGING):
        override = lines[0].removeprefix(MERGING)
        deleted = override.startswith("~")
        return f"{override}: the key {'is needed' if deleted else 'takes another kind of value'}"
    said = " ".join(lines[: 2 if lines[0].endswith("composing config:") else 1])
    return (f"{key}: " if key else "") + said
