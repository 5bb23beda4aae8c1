"""Random command lines: keys that there are and others, values of every kind, flags."""

from __future__ import annotations

import random

BASES = (
    ["task=mixture", "scale=smoke"], ["task=ptb", "scale=smoke", "data=generated"],
    ["task=unique_count"], ["task=lte", "scale=smoke"], ["experiment=table2/nah"], [],
    ["-m", "task=mixture", "seed=0,1"],
)  # fmt: skip
GROUPS = ("task", "act", "scale", "data", "logger", "experiment", "hydra/launcher", "hydra/sweeper")
NAMES = (
    "mixture", "ptb", "nah", "nan", "reference", "smoke", "paper", "real", "generated", "files",
    "wandb", "table2/nah", "table5/nan", "basic", "../act/nah", "/etc/passwd", "nah.yaml", "NAH",
)  # fmt: skip
VALUES = (
    "", "0", "1", "-1", "2", "3.5", "1e3", "1e-320", "1e39", "1e308", "inf", "-inf", "nan", "NaN",
    "null", "NULL", "true", "False", "yes", "~", "0x10", "1_000", "9" * 30, "9" * 400, "9" * 5000,
    "-" + "9" * 400, "1e99999", "[]", "{}", "[1,2]", "[true]", "[[[[1]]]]", "{a:1}", "{a:{b:[1]}}",
    "[" * 60 + "]" * 60, "[" * 3000, "{" * 40, "(", ")", "'", '"', "'a", "\\", "\\\\", "a b", "a,b",
    "1,2", "1,x", "a,,b", ",", "0,1,2,3", "${seed}", "${nope}", "${nope:1}", "${oc.env:HOME}",
    "${oc.env:NO_SUCH}", "${oc.decode:'[1'}", "${now:%Y}", "${hydra:job.num}", "${..seed}", "${",
    "$", "${task.${seed}}", "${task}", "???", "*", "glob(*)", "glob(n*)", "glob(zzz)", "range(3)",
    "range(1,1)", "range(0,1,0)", "range(0,nan)", "range(1,1e9)", "range(1,9999999999999999)",
    "range(0,1,1e-30)", "range(1,4),1", "choice(1,2)", "choice()", "interval(0,1)", "sort(3,1)",
    "shuffle(range(4))", "shuffle(range(1e12))", "tag(a,choice(1,2))", "int(3.5)", "int(x)",
    "float(1,2)", "str(1)", "bool(x)", "json_str({a:1})", "extend_list(1)", "nope(1)", "/nope/x",
    "/proc/nope/x", "/dev/null", "~/x", "~nobody/x", "..", ".", "...", "a" * 300, "a" * 3000,
    "a/" * 500, "é", "'é'", "\uff11", "\u0430", "\u202e", "\udcff", "\x00", "\n", "\t", "'a\nb'",
    "nah", "nam", "noisyexp.__main__", "os.path", "no.such.Unit", "json.loads", ".x", "x.",
    "noisyexp.activations.base.Activation", "noisyexp.__main__.x", "sys.exit",
)  # fmt: skip
FLAGS = (
    "-m", "--multirun", "--help", "-h", "--cfg", "--cfg job", "-c job", "--cfg=job", "--info",
    "--version", "--resolve", "--package", "--package=act", "--config-name=x", "--config-dir=/nope",
    "--hydra-help", "--", "-", "---", "-x", "--seed=1", "-sc", "--cfg nope",
)  # fmt: skip
SIGNS = ("", "", "", "", "+", "++", "~", "+~", "@", "-", " ", "=", "/")


def line(draw: random.Random, keys: list[str]) -> list[str]:
    """One command line. `keys`: dotted keys of a configuration, Hydra's own included."""
    words = list(draw.choice(BASES))
    words += [_word(draw, keys) for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5)))]
    if draw.random() < 0.08:
        words += draw.choice(FLAGS).split()
    if draw.random() < 0.1:
        draw.shuffle(words)
    return words


def _word(draw: random.Random, keys: list[str]) -> str:
    kind = draw.random()
    if kind < 0.08:
        return draw.choice(VALUES)
    key = draw.choice(GROUPS) if kind < 0.2 else draw.choice(keys)
    if draw.random() < 0.08:
        place = draw.randrange(len(key) + 1)
        key = (
            key[:place]
            + draw.choice(("x", ".", "", "\u0430", "@", "[0]", " ", "/"))
            + key[place + 1 :]
        )
    value = draw.choice(NAMES) if key in GROUPS and draw.random() < 0.6 else draw.choice(VALUES)
    if draw.random() < 0.1:
        value += draw.choice((",", "")) + draw.choice(VALUES)
    if draw.random() < 0.04:
        return draw.choice(SIGNS) + key
    return f"{draw.choice(SIGNS)}{key}={value}"
