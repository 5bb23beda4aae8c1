"""Records with random damage: every verb that reads them says so, without a traceback.

`python -m pytest tests/records/test_damaged_records.py -m slow` does many more.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli import verify
from noisyexp.cli.figure import main as figure
from noisyexp.cli.publish import main as publish
from noisyexp.cli.table import main as table
from noisyexp.errors import RecordError
from noisyexp.records.config_hash import config_hash
from noisyexp.records.record_files import load_record

SHEET = """\
order: 1
title: Table 9
rows: table9
command: make it
learning: {x: epoch, points: [1], ratios: [valid_ppl], differences: [], against: [soft]}
pictures:
  - {name: fig12, kind: curves, metrics: [valid_ppl], x: epoch, caption: Perplexity.}
  - {name: fig13, kind: unit_values, caption: Values.}
claims:
  - {text: NAH is better, row: nah, against: soft, metric: test_ppl}
"""
FINDINGS = {
    "p_before": [[0.5]], "p_after": [[0.25]], "pre_activations": [[[1.0, 2.0]]],
    "test": {"a": {"nll": 1.0, "bleu_counts": [1] * 10}},
}  # fmt: skip
VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: "x", lambda: "", lambda: -1, lambda: 0, lambda: 10**400,
    lambda: float("nan"), lambda: float("inf"), lambda: 1e308, lambda: [], lambda: {},
    lambda: [1, "a", None], lambda: {"a": [{}]}, lambda: "\ud800", lambda: "../../x",
    lambda: nested(30), lambda: nested(500), lambda: "complete", lambda: "diverged",
)  # fmt: skip


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def damaged(raw: Any, dice: random.Random) -> bytes:
    """The record with one to three places changed, or its text cut or spoilt."""
    raw = copy.deepcopy(raw)
    for _ in range(dice.randint(1, 3)):
        holder, key = dice.choice(list(places(raw)))
        if dice.random() < 0.25:
            del holder[key]
        else:
            holder[key] = dice.choice(VALUES)()
    if dice.random() < 0.5 and isinstance(raw.get("config"), dict):
        # Damage that the hash does not give away.
        with contextlib.suppress(AttributeError, TypeError, ValueError, RecursionError):
            raw["config_hash"] = config_hash(raw["config"])
    text = json.dumps(raw).encode()
    kind = dice.random()
    if kind < 0.1:
        return text[: dice.randrange(len(text))]
    if kind < 0.2:
        spoilt = bytearray(text)
        spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        return bytes(spoilt)
    return text


@pytest.fixture
def root(table_root: Path, make_record: Any) -> Path:
    """Table 9 with two good records, a picture of curves and one of learned units."""
    (table_root / "configs/sheet/table9.yaml").write_text(SHEET)
    (table_root / "README.md").write_text("")
    for row in ("soft", "nah"):
        make_record(
            table_root / f"results/records/table9/{row}.json", experiment=f"table9/{row}",
            findings=FINDINGS, chance={"valid_ppl": {"uniform": 120.0}},
        )  # fmt: skip
    return table_root


def attack(root: Path, compose: Any, capsys: pytest.CaptureFixture[str], rounds: int, seed: int,
           slow_verbs: int) -> int:  # fmt: skip
    """Damage one record `rounds` times and call the verbs; returns how often it was refused."""
    path = root / "results/records/table9/nah.json"
    good, dice, refused = json.loads(path.read_text()), random.Random(seed), 0
    for number in range(rounds):
        path.write_bytes(damaged(good, dice))
        try:
            load_record(path)
        except RecordError as error:
            refused += 1
            assert str(path) in str(error)
        verbs: list[Callable[[], int]] = [
            lambda: table(["table9"], root, compose), lambda: table(["summary"], root, compose),
        ]  # fmt: skip
        if number < slow_verbs:
            (root / "run.json").write_bytes(path.read_bytes())
            verbs += [lambda: figure(["fig12", "fig13"], root), lambda: publish([str(root)], root),
                      lambda: verify.main([str(path)])]  # fmt: skip
        for verb in verbs:
            assert verb() in (0, 1, 2)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
    return refused


def test_damage_is_named(
    root: Path, compose: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> Any:
        raise RecordError("nothing is trained here")

    monkeypatch.setattr(verify, "compose", stop)
    assert 90 < attack(root, compose, capsys, 120, 0, 6) < 120


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_damage_is_named_many_times(
    root: Path, compose: Any, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    attack(root, compose, capsys, 300, seed, 30)
