"""What `python run.py` and `python run.py --help` print, read from the configuration files."""

from __future__ import annotations

import re

from noisyexp.cli.compose import CONFIG_DIR, GROUPS, Groups, hydra_session
from noisyexp.cli.named_sweeps import sweep_names

USAGE = "python run.py [-m] [group=choice ...] [key=value ...]"

OPTIONS = """\
Options
  -m, --multirun   run every combination of values with commas: act=reference,nan,nah seed=0,1,2
  --cfg job        print the composed configuration and stop
  --help           this text

Common keys
  seed=0                   seed of weights, data order and noise
  device=auto|cpu|cuda     where to run (auto takes CUDA when there is one)
  precision=fp32|bf16|fp16 arithmetic of the forward pass
  threads=2                CPU threads
  training.epochs=3        any key of the configuration can be set like this
  data.root=<folder>       data sets; default from the environment variable NOISYEXP_DATA
  act.alpha=1.15 act.c=0.5 settings of the units; act.tanh.c=0.5 for one kind
  hydra/launcher=joblib    run a sweep in parallel (pip install -e '.[launchers]')

A run folder is named by the hash of its resolved configuration: the same command resumes an
interrupted run and skips a finished one. Ctrl-C writes a checkpoint first.
"""

EXAMPLE = "python run.py task=ptb act=nah scale=smoke data=generated"


def choices_text() -> str:
    """The groups with the files that can be chosen, each with its first comment."""
    lines = []
    with hydra_session() as loader:
        groups = Groups(loader, [])
        for group in GROUPS:
            lines.append(f"{group}=")
            options = groups.options(group)
            width = max(len(option) for option in options)
            lines += [f"  {option:<{width}}  {_comment(group, option)}" for option in options]
    lines.append("sweep= (with -m)")
    lines += [f"  {name}  {_comment('sweep', name)}" for name in sweep_names()]
    return "\n".join(lines).replace("  nan_normal", "  nan       ")


def short_text() -> str:
    """For a command line without arguments."""
    return (
        f"Usage: {USAGE}\n\nChoices\n{_indent(choices_text())}\n\nFor example\n  {EXAMPLE}\n\n"
        "More: python run.py --help"
    )


def long_text() -> str:
    """For --help."""
    return (
        "Noisy Activation Functions (Gulcehre et al., 2016): run an experiment.\n\n"
        f"Usage: {USAGE}\n\n{OPTIONS}\nChoices\n{_indent(choices_text())}\n\n"
        f"Examples\n  {EXAMPLE}\n"
        "  python run.py -m task=ptb act=reference,nan,nah seed=0,1,2 scale=cpu\n"
        "  python run.py experiment=table2/nah seed=0\n"
    )


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _comment(group: str, option: str) -> str:
    """First comment of a file, up to the end of its first sentence."""
    path = CONFIG_DIR / group / f"{option}.yaml"
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return re.split(r"(?<!et al)\. ", line.lstrip("# "))[0].rstrip(".")
        if line and not line.startswith("#"):
            break
    return ""
