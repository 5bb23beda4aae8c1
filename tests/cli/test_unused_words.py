"""A sweep over several units with words that not all of them can use."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.activations import Activation, find_variant, variants
from noisyexp.cli.compose import check
from noisyexp.cli.plan import main as plan_main
from noisyexp.cli.unused import Unused, can_use
from noisyexp.errors import ConfigError
from noisyexp.report.averages import average
from noisyexp.training.config import arguments_of

Run = Callable[..., Any]
Records = Callable[..., dict[str, dict[str, Any]]]
OWN = """
from noisyexp.activations import Activation


class Base(Activation):
    def __init__(self, kind, num_units, *, strength, **settings):
        super().__init__(kind, num_units, **settings)
        self.strength = strength

    def expected(self, x):
        return x.tanh() * self.strength


class Own(Base):
    variant = "own_of_sweeps"
    has_noise = False

    def __init__(self, kind, num_units, *, lift=0.0, **settings):
        super().__init__(kind, num_units, **settings)
        self.lift = lift
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The override that adds a folder of files with a unit of one's own."""
    monkeypatch.setattr(Activation, "_known", dict(Activation._known))
    (tmp_path / "units_of_sweeps.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "configs" / "act" / "own.yaml"
    file.parent.mkdir(parents=True)
    text = "variant: units_of_sweeps.Own\nlabel: Own\nsettings: {strength: 0.5}\n"
    file.write_text(f"# A unit of one's own.\n{text}")
    return f"hydra.searchpath=[file://{tmp_path}/configs]"


@pytest.mark.parametrize("acts", ["reference,own", "own,reference"])
def test_the_reference_runs_once_beside_a_setting_of_ones_own(
    folder: str, acts: str, tiny: Run, records: Records, tmp_path: Path
) -> None:
    words = [folder, f"act={acts}", "act.settings.strength=0.5,1.0", "seed=0,1"]
    result = tiny("-m", *words, "training.max_steps=1")
    assert (result.code, result.err) == (0, "")
    said = "reference does not use act.settings.strength: its runs are without, once for all values"
    assert result.out.splitlines()[0] == said
    assert "6 of 6 runs complete" in result.out
    found = {
        (run.settings["act"], run.settings.get("act.settings.strength"), run.record.seed): run
        for group in average([tmp_path / "runs"]).groups
        for run in group.runs
    }
    own = itertools.product(["own"], [0.5, 1.0], [0, 1])
    soft = itertools.product(["reference"], [None], [0, 1])
    assert set(found) == {*own, *soft}
    # The record has a command that makes the same run again.
    for name in (("own", 1.0, 1), ("reference", None, 0)):
        run = found[name]
        (again,) = check([folder, *(word for word in run.record.command if word != "run.py")])
        assert again.digest == run.record.config_hash, name
    report = average([tmp_path / "runs"])
    assert [group.name for group in report.groups] == [
        "reference", "own, act.settings.strength=0.5", "own, act.settings.strength=1",
    ]  # fmt: skip
    assert report.compares


def test_a_plan_counts_such_runs_once(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=mixture", "scale=smoke", "act=reference,own", "act.settings.strength=1,2,3"]
    assert plan_main([folder, *words, "seed=0,1", "calibrate=false"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("reference does not use act.settings.strength: ")
    assert "8 runs: 8 to do" in out and out.count("mixture reference") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["act=own", "act.settings.strenght=1"], "Did you mean act.settings.strength"),
        (["act=reference,own", "act.settings.strenght=1"], "Did you mean act.settings.strength"),
        (["act=reference", "act.settings.strength=1,2"], "act.settings.strength"),
        (["act=reference,hard", "+act.settings.strength=1"], "no argument of Reference; it has"),
        (["act=reference,hard", "anneal.schedule=interval"], "reference units have no noise"),
    ],
)  # fmt: skip
def test_a_word_that_no_unit_can_use_is_refused(
    folder: str, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check([folder, "task=mixture", *words])


def test_constants_that_are_in_no_equation_of_a_unit_make_no_runs() -> None:
    """c is no part of the soft and the hard unit; alone they keep what was asked for."""
    unused = Unused()
    words = ["task=mixture", "scale=smoke", "act.c=0.1,0.5", "seed=0"]
    specs = check([*words, "act=reference,hard,nah"], unused=unused)
    assert unused.by_unit == {"reference": {"act.c"}, "hard": {"act.c"}}
    assert [(spec.names.act, spec.config.act.c) for spec in specs] == [
        ("reference", None), ("hard", None), ("nah", 0.1), ("nah", 0.5),
    ]  # fmt: skip
    # The hash is that of the single run.
    assert specs[0].digest == check([*words[:2], "seed=0", "act=reference"])[0].digest
    assert [spec.config.act.c for spec in check([*words, "act=reference"])] == [0.1, 0.5]
    annealed = check([*words[:2], "act=reference,nan_normal", "anneal.schedule=interval,update"])
    assert [spec.config.anneal.schedule for spec in annealed] == ["none", "interval", "update"]


def test_what_a_unit_can_use_is_what_changes_it() -> None:
    """By the units themselves: a constant that can be used changes a value or what is drawn."""
    import torch

    x = torch.linspace(-6, 6, 401, dtype=torch.float64)[:, None]
    xi = -x.sign()  # back towards the linear range
    for name in variants():
        unit = find_variant(name)
        for key, values in (("alpha", (1.0, 1.3)), ("c", (0.2, 9.0))):
            made = [
                unit("tanh", 1, p_shape="scalar", dtype=torch.float64, **{key: v}) for v in values
            ]
            for one in made:
                if one.p is not None:
                    torch.nn.init.constant_(one.p, 3.0)
            noise = xi if unit.has_noise else None
            pairs = [(one.train()(x, noise), one.eval()(x)) for one in made]
            same = all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
            assert can_use(unit, f"act.{key}") == (not same), (name, key)
    assert {"alpha", "c", "p_shape"} <= {*arguments_of(find_variant("nah"))}
    assert not can_use(find_variant("nah"), "act.settings.strength")
    assert can_use(find_variant("reference"), "training.lr")
