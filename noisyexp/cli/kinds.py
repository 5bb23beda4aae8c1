"""Whether a value given to one of Hydra's own keys is of the kind that the key has.

Hydra sets a section to null or to a number and fails over it later, in the words of Python.
"""

from __future__ import annotations

import copy
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, EnumNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from noisyexp.cli.config_groups import Groups
from noisyexp.schema import cut, describe

NEEDED = 2
"""Names in the key of a section without which nothing starts: hydra.sweeper."""
MOST_KEYS = 6
"""Keys of a section that a message lists."""


def kind_problem(config: DictConfig, override: Override, groups: Groups) -> str | None:
    """What is wrong with the value of one of Hydra's own keys, None if nothing is.

    Args:
        config: composed without it, Hydra's own section included.
        override: of a key that is there, and no sweep.
        groups: the files that can be chosen in place of a section.
    """
    key = override.key_or_group
    node = _node(config, key)
    needed = isinstance(node, DictConfig) and key.count(".") < NEEDED
    if override.is_delete():
        return f"~{key}: a run needs it" if needed else None
    value = override.value()
    if isinstance(node, DictConfig) and isinstance(value, dict):
        return None  # its keys are looked at one by one
    is_text = isinstance(value, str) or not key.endswith("._target_")
    if is_text and not needed and _takes(config, key, value):
        return None
    return f"{cut(str(override.input_line))}: {_expected(node, key, groups)}"


def _node(config: DictConfig, key: str) -> Any:
    """The node of a key, with what refers to other keys as it is."""
    node: Any = config
    for name in key.split("."):
        node = node._get_node(name) if isinstance(node, DictConfig) else None
    return node


def _takes(config: DictConfig, key: str, value: Any) -> bool:
    """Whether the key can be set to the value, tried on a copy."""
    try:
        OmegaConf.update(copy.deepcopy(config), key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError):
        return False
    return True


def _expected(node: Any, key: str, groups: Groups) -> str:
    group = key.removesuffix("._target_").replace(".", "/")
    options = [name for name in groups.options(group) if "/" not in name]
    if options:
        return f"choose from {', '.join(options)}, as {group}={options[0]}"
    if isinstance(node, DictConfig):
        names = [str(name) for name in (node if not node._is_none() else ())]
        more = ["..."] if len(names) > MOST_KEYS else []
        listed = f" ({', '.join(names[:MOST_KEYS] + more)})" if names else ""
        return (
            f"expected a section with keys{listed}, as {key}.{names[0] if names else '<key>'}=..."
        )
    if isinstance(node, ListConfig):
        return "expected a list, as '[a,b]'"
    if isinstance(node, EnumNode):
        return f"choose from {', '.join(node.enum_type.__members__)}"
    kind = getattr(getattr(node, "_metadata", None), "ref_type", None)
    known = kind in (int, float, bool, str)
    return f"expected {describe(kind, {}) if known else 'a value of another kind'}"
