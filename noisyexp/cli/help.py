"""Texts of `noisyexp run` and its `--help`, from the configuration files and the schema."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from noisyexp.cli.compose import check, hydra_session
from noisyexp.cli.config_groups import GROUPS, Groups
from noisyexp.cli.named_sweeps import sweep_names
from noisyexp.errors import ConfigError
from noisyexp.nan_names import as_typed
from noisyexp.places import CONFIG_DIR
from noisyexp.records.yaml_file import read_text
from noisyexp.schema import closest, describe

COMMAND = "noisyexp run"
USAGE = f"{COMMAND} task=... [-m] [group=choice ...] [key=value ...]"

OPTIONS = """\
Options
  -m, --multirun   run every combination of values with commas: act=reference,nan,nah seed=0,1,2
  --cfg job        print the composed configuration and stop
  --help           this text; after task=ptb the keys of that task, after a key such as training or
                   act.c what it means, its range and its default

Common keys
  seed=0                   seed of weights, data order and noise
  device=auto|cpu|cuda     where to run (auto takes CUDA when there is one)
  precision=fp32|bf16|fp16 arithmetic of the forward pass
  threads=2                CPU threads
  training.epochs=3        any key of the configuration can be set like this
  data.root=<folder>       data sets; default from the environment variable NOISYEXP_DATA
  act.alpha=1.15 act.c=0.5 settings of the units; act.tanh.c=0.5 for one kind
  hydra/launcher=local     run a sweep in parallel; slurm and ray on a cluster: docs/engines.md

A run folder is named by the hash of its resolved configuration: the same command resumes an
interrupted run and skips a finished one. Ctrl-C writes a checkpoint first.
"""

SEARCHPATH = "hydra.searchpath"
EXAMPLE = "noisyexp run task=ptb act=nah scale=smoke data=generated"


def choices_text(searchpath: Sequence[str] = ()) -> str:
    """The groups with the files that can be chosen, each with its first comment.

    Args:
        searchpath: overrides that add folders of one's own.
    """
    lines = []
    folders = [CONFIG_DIR, *map(Path, re.findall(r"file://([^,\]'\"]+)", " ".join(searchpath)))]
    with hydra_session() as loader:
        groups = Groups(loader, list(searchpath))
        for group in GROUPS:
            lines.append(f"{group}=")
            options = groups.options(group)
            width = max(len(as_typed(option)) for option in options)
            lines += [f"  {as_typed(o):<{width}}  {_comment(folders, group, o)}" for o in options]
    lines.append("sweep= (with -m)")
    lines += [f"  {name}  {_comment(folders, 'sweep', name)}" for name in sweep_names()]
    return "\n".join(lines)


def short_text() -> str:
    """For a command line without arguments: what can be chosen, on one screen."""
    lines = [f"Usage: {USAGE}", ""]
    with hydra_session() as loader:
        groups = Groups(loader, [])
        for group in GROUPS:
            names = groups.options(group)
            if any("/" in name for name in names):
                folders = Counter(name.partition("/")[0] for name in names)
                names = [f"{folder}/... ({count})" for folder, count in folders.items()]
            text = "  ".join(map(as_typed, names))
            lines += textwrap.wrap(text, 76, initial_indent=f"  {group + '=':<12}",
                                   subsequent_indent=" " * 14)  # fmt: skip
    lines.append(f"  {'sweep=':<12}{'  '.join(sweep_names())}  (with -m)")
    more = (
        f"For example\n  {EXAMPLE}\n\n"
        f"{COMMAND} --help explains the choices, {COMMAND} task=ptb --help lists the task's keys."
    )
    return "\n".join([*lines, "", more])


def long_text(searchpath: Sequence[str] = ()) -> str:
    """For --help; see `choices_text`."""
    return (
        "Noisy Activation Functions (Gulcehre et al., 2016): run an experiment.\n"
        f"In a checkout `python run.py` is `{COMMAND}`.\n\n"
        f"Usage: {USAGE}\n\n{OPTIONS}\nChoices\n{_indent(choices_text(searchpath))}\n\n"
        f"Examples\n  {EXAMPLE}\n"
        f"  {COMMAND} -m task=ptb act=reference,nan,nah seed=0,1,2 scale=cpu\n"
        f"  {COMMAND} experiment=table2/nah seed=0\n"
    )


def key_texts(words: Sequence[str]) -> str:
    """Every key of a run, or those that `words` ask for: type and range, default, meaning.

    Args:
        words: what stands before `--help`: choices such as task=ptb, and keys or their beginnings,
            training or act.tanh.c; without a key all keys of the task's own section.
    """
    choices = [word for word in words if word.partition("=")[0] in (*GROUPS, SEARCHPATH)]
    keys = [word.partition("=")[0] for word in words if word not in choices and word[:1] != "-"]
    listed = keys_of(choices)
    wanted = keys or ["task"]
    found = [k for k in listed if any(k.name == w or k.name.startswith(f"{w}.") for w in wanted)]
    names = [key.name for key in listed]
    unknown = [w for w in wanted if not any(n == w or n.startswith(f"{w}.") for n in names)]
    if unknown:
        raise ConfigError([f"{word}: no such key.{closest(word, names)}" for word in unknown])
    width = min(shutil.get_terminal_size().columns, 100)
    lines = []
    for key in found:
        lines.append(f"{key.name}={key.default}")
        text = f"{key.meaning[:1].upper()}{key.meaning[1:]}: {key.kind}"
        lines += [f"    {line}" for line in textwrap.wrap(text, width - 4)]
    named = " ".join(word for word in choices if not word.startswith(SEARCHPATH))
    head = f"Keys of {named or 'a run'}, each with its default there"
    return f"{head}\n\n" + "\n".join(lines)


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
        name: with dots, training.lr.
        kind: type and range in words.
        default: as a person types it.
        meaning: what it does.
    """

    name: str
    kind: str
    default: str
    meaning: str


def keys_of(choices: Sequence[str]) -> list[Key]:
    """All keys of the run that `choices` such as task=ptb make, those of its task at the end.

    Raises:
        ConfigError: there is no such run.
    """
    config = check([*choices])[0]
    common = _keys(type(config.config), config.plain, "")
    return [*common, *_keys(type(config.task_config), config.plain["task"], "task.")]


def _keys(section: type, values: Any, prefix: str) -> Iterator[Key]:
    """The keys of a section and of those in it."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        value, hint = values[field.name], hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _keys(typing.cast(type, hint), value, f"{prefix}{field.name}.")
        elif not (prefix == "" and field.name in ("task", "row")):
            kind = describe(hint, field.metadata)
            yield Key(f"{prefix}{field.name}", kind, _typed(value), field.metadata["help"])


def _typed(value: Any) -> str:
    """A value as a person types it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_typed(one)}" for key, one in value.items()) + "}"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _comment(folders: Sequence[Path], group: str, option: str) -> str:
    """First comment of a file in one of the folders, up to the end of its first sentence."""
    words: list[str] = []
    paths = [folder / group / f"{option}.yaml" for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    for line in [] if path is None else read_text(path).splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            words.append(line.lstrip("# "))
        elif line.startswith("#"):
            continue
        else:
            break
    return re.split(r"(?<!et al)(?<!Fig)\. ", " ".join(words))[0].rstrip(".")
