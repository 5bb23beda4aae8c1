"""What a model answers on programs, as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from noisyexp.nn.language_model import LanguageModel
from noisyexp.tasks.lte.layout import encode
from noisyexp.tasks.lte.programs import ALPHABET, Program


@torch.no_grad()
def answer(model: LanguageModel, program: Program, device: torch.device, *, forced: bool) -> str:
    """The answer to one program that is read from a zero state.

    Args:
        model: in evaluation mode.
        program: the program.
        device: of the model.
        forced: feed the true characters, so that each prediction stands alone, as in training and
            in the accuracy; otherwise feed the model's own, until it says "." or is twice as long.
    """
    tokens = torch.tensor(encode(program.source), device=device).unsqueeze(1)
    logits, state = model(tokens, model.zero_state(1))
    said = ""
    for index in range(len(program.target) if forced else 2 * len(program.target)):
        said += ALPHABET[int(logits[-1, 0].argmax())]
        if not forced and said.endswith("."):
            break
        if forced and index + 1 == len(program.target):
            break
        fed = program.target[index] if forced else said[-1]
        logits, state = model(torch.tensor([encode(fed)], device=device), state)
    return said


def marks(said: str, true: str) -> str:
    """A "^" under every wrong character, up to the longer of the two."""
    pairs = zip(said.ljust(len(true)), true.ljust(len(said)), strict=True)
    return "".join(" " if a == b else "^" for a, b in pairs).rstrip()


def describe(
    model: LanguageModel,
    programs: Sequence[Program],
    chance: Mapping[str, float],
    device: torch.device,
) -> str:
    """Programs, true outputs, the model's with every wrong character marked.

    Args:
        model: in evaluation mode.
        programs: what it is to read.
        chance: accuracy of the trivial predictors in percent.
        device: of the model.
    """
    lines = [
        "forced: each character predicted from the true ones before it; free: from its own",
        "chance: always the same character "
        f"{chance['character']:.1f} %, the most frequent at its place {chance['position']:.1f} %, "
        f"given the one before it {chance['previous']:.1f} %",
    ]
    for program in programs:
        lines += ["", *program.source.removesuffix("@").split("#"), f"  true    {program.target}"]
        for name in ("forced", "free"):
            said = answer(model, program, device, forced=name == "forced")
            lines.append(f"  {name:<7} {said}")
            wrong = marks(said, program.target)
            if wrong:
                lines.append(f"          {wrong}")
    return "\n".join(lines)
