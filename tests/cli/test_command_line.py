"""What a person types and reads: help, the word nan, single runs, the line at the end of a run."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli import outcome
from noisyexp.cli.compose import check
from noisyexp.cli.outcome import paper_numbers, run_line, show
from noisyexp.cli.run import main
from noisyexp.cli.sample import main as sample
from noisyexp.cli.table import main as table_main
from noisyexp.cli.translate import main as translate
from noisyexp.errors import DataError
from noisyexp.nan_names import spell_nan
from noisyexp.tasks.ptb import PTB
from noisyexp.training.run import Outcome

Run = Callable[..., Any]
Records = Callable[..., dict[str, dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]


# --- the word nan


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("act=nan", "act=nan_normal"),
        ("act=NAN", "act=nan_normal"),
        ("act=NaN", "act=nan_normal"),
        ("act='nan'", "act='nan_normal'"),
        ('act="nan"', 'act="nan_normal"'),
        ("act=nan_normal", "act=nan_normal"),
        ("act=reference,nan,nah", "act=reference,nan_normal,nah"),
        ("act=nan,nani,nanil,nanis", "act=nan_normal,nani,nanil,nanis"),
        ("act=choice(nan,nah)", "act=choice(nan_normal,nah)"),
        ("act=reference, nan", "act=reference, nan_normal"),
        ("+act=nan", "+act=nan_normal"),
        ("++act=nan", "++act=nan_normal"),
        ("act=glob(*)", "act=glob(*)"),
        ("act=glob(nan*)", "act=glob(nan*)"),
        ("act=glob(*nan)", "act=glob(*nan)"),
        ("act=my/nan", "act=my/nan"),
        ("act=nan-2", "act=nan-2"),
        ("act=my.nan", "act=my.nan"),
        ("act=banana", "act=banana"),
        ("act.c=nan", "act.c=nan"),
        ("act.variant=nan", "act.variant=nan"),
        ("training.lr=nan", "training.lr=nan"),
        ("run_root=act=nan", "run_root=act=nan"),
        ("experiment=table2/nan", "experiment=table2/nan_normal"),
        ("seed=0", "seed=0"),
        ("nan", "nan"),
        ("-m", "-m"),
        ("", ""),
    ],
)
def test_spell_nan(typed: str, read: str) -> None:
    assert spell_nan(typed) == read
    assert spell_nan(read) == read


@pytest.mark.parametrize(
    "typed", ["act=nan", "act=NAN", "act='nan'", 'act="Nan"', "act=nan_normal"]
)
def test_nan_in_a_single_run(typed: str) -> None:
    (spec,) = check([spell_nan(typed)])
    assert (spec.names.act, spec.config.act.variant, spec.config.act.label) == (
        "nan_normal", "nan", "NAN",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "variants"),
    [
        ("act=reference,nan,nah", ["reference", "nan", "nah"]),
        ("act='nan',NAN,nah", ["nan", "nan", "nah"]),
        (
            "act=glob(*)",
            [
                "hard",
                "nah",
                "nah_mean",
                "nan",
                "nani",
                "nanil",
                "nanis",
                "penalized_tanh",
                "reference",
            ],
        ),
        ("act=glob(nan*)", ["nan", "nani", "nanil", "nanis"]),
    ],
)
def test_nan_in_a_sweep(typed: str, variants: list[str]) -> None:
    assert [spec.config.act.variant for spec in check([spell_nan(typed)])] == variants


# --- single runs


def test_a_run_its_record_and_the_same_command_again(tiny: Run, records: Records) -> None:
    first = tiny("act=nan", "seed=3")
    assert (first.code, first.err) == (0, "")
    (record,) = records().values()
    assert (record["act"], record["config"]["act"]["variant"]) == ("nan_normal", "nan")
    assert (record["status"], record["seed"], record["experiment"]) == ("complete", 3, None)
    assert record["command"][:4] == ["run.py", "task=ptb", "act=nan_normal", "seed=3"]
    (line,) = first.out.splitlines()
    assert line.startswith("ptb nan (scale=smoke, seed 3): train_ppl ")
    for key in ("train_ppl", "valid_ppl", "valid_ppl_zaremba", "test_ppl"):
        assert f"{key} {record['final'][key]:.2f}" in line
    assert " | best possible: valid_ppl " in line
    assert "paper (" not in line

    again = tiny("act=nan", "seed=3")
    assert (again.code, again.err) == (0, "")
    assert again.out == line.replace("seed 3):", "seed 3) already finished:") + "\n"
    assert records() == {"nan_normal 3": record}


def test_a_diverged_run_says_where_and_is_not_tried_again(tiny: Run, records: Records) -> None:
    for already in ("", " already finished"):
        result = tiny("act=reference", "training.lr=1e38")
        assert result.code == 1
        start = f"ptb reference (scale=smoke, seed 0){already}: diverged: non-finite loss at step 2"
        assert result.out.startswith(start)
        assert "Traceback" not in result.err
        assert records()["reference 0"]["status"] == "diverged"


def test_an_error_of_the_machine_has_no_traceback_and_a_bug_has(
    tiny: Run, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, traceback in (
        (DataError("no such file: put it there"), False),
        (KeyError("x"), True),
    ):
        monkeypatch.setattr(PTB, "prepare", raiser(error))
        result = tiny("act=reference")
        assert (result.code, result.out) == (1, "")
        assert str(error) in result.err
        assert ("Traceback" in result.err) == traceback
        assert records()["reference 0"]["status"] == "failed"
    monkeypatch.undo()
    assert tiny("act=reference").code == 0
    assert records()["reference 0"]["status"] == "complete"


def test_an_impatient_end_is_no_failure(
    tiny: Run, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PTB, "loss", raiser(KeyboardInterrupt()))
    result = tiny("act=reference")
    assert (result.code, result.out) == (130, "")
    assert result.err == "interrupted; the same command goes on from the last checkpoint\n"
    assert records()["reference 0"]["status"] == "interrupted"


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*args: object) -> None:
        raise error

    return fail


# --- the line at the end of a run

RECORD: dict[str, Any] = {
    "status": "complete", "reason": None, "experiment": None, "task": "ptb", "act": "reference",
    "scale": "paper", "data": "real", "seed": 0, "selection": "valid_ppl", "floor": {},
    "metrics": {"valid_ppl": {}, "valid_ppl_zaremba": {}, "test_ppl": {}},
    "final": {"step": 9, "valid_ppl": 120.456, "valid_ppl_zaremba": 119.5, "test_ppl": 115.614},
    "cost": {"wall_s": 3000.0},
}  # fmt: skip


def line(skipped: bool = False, **changes: Any) -> str:
    return run_line(Outcome(Path("runs/x"), {**copy.deepcopy(RECORD), **changes}, skipped))


def test_our_numbers_beside_the_papers() -> None:
    # Table 2 of the paper.
    assert line() == (
        "ptb reference (scale=paper, seed 0): valid_ppl 120.46, valid_ppl_zaremba 119.50, "
        "test_ppl 115.61 | paper (table2: LSTM (Reference)): valid_ppl_zaremba 119.4, "
        "test_ppl 115.6 | 50 min 00 s, runs/x"
    )
    assert (
        "paper (table2: LSTM with NAN Activation Function): valid_ppl_zaremba 111.7, test_ppl 108 |"
    ) in line(act="nan_normal")
    assert (
        "paper (table2: LSTM with NAH Activation Function): valid_ppl_zaremba 112.6, "
        "test_ppl 108.7 |"
    ) in line(act="nah")


def test_a_run_at_another_scale_says_that_the_papers_is_not_its_own() -> None:
    text = line(act="nah", scale="cpu")
    assert "paper (table2: LSTM with NAH Activation Function at paper scale): " in text


@pytest.mark.parametrize(
    "changes",
    [{"act": "nani"}, {"act": "hard", "experiment": "table2/hard"}, {"task": "ptb_medium"},
     {"act": "hard", "experiment": "table2/nah"}, {"act": "nah", "data": "generated"}],
)  # fmt: skip
def test_no_numbers_of_the_paper_where_it_has_none(changes: dict[str, str]) -> None:
    assert "paper (" not in line(**changes)


def test_the_record_s_own_row_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "configs/experiment/table2/reference.yaml").read_text()
    for table, number in (("table1", "1.5"), ("table2", "2.5")):
        folder = tmp_path / "experiment" / table
        folder.mkdir(parents=True)
        own = re.sub(r"test_ppl: 115.6", f"test_ppl: {number}", text)
        (folder / "reference.yaml").write_text(own.replace("table: 2", f"table: {table[-1]}"))
    (tmp_path / "experiment" / "table3").mkdir()
    (tmp_path / "experiment" / "table3" / "broken.yaml").write_text("row: 3")
    monkeypatch.setattr(outcome, "CONFIG_DIR", tmp_path)
    numbers = {"valid_ppl_zaremba": 119.4}
    own_row = {**RECORD, "experiment": "table2/reference"}
    assert paper_numbers(own_row) == ("table2: LSTM (Reference)", {**numbers, "test_ppl": 2.5})
    assert paper_numbers(RECORD) == ("table1: LSTM (Reference)", {**numbers, "test_ppl": 1.5})


@pytest.mark.parametrize(
    ("overrides", "number"),
    [
        (["act=reference"], "test_error 33.28"),
        (["act=reference", "task.curriculum=true"], "test_error 14.83"),
        (["act=nan_normal"], "test_error 31.12"),
        (["act=nan_normal", "anneal.schedule=interval", "training.lr=0.01"], "test_error 9.53"),
        (["act=nan_normal", "act.c=0.7"], None),
        (["act=nanil"], None),
    ],
)
def test_rows_with_the_same_units_are_told_apart(overrides: list[str], number: str | None) -> None:
    (spec,) = check(["task=unique_count", "scale=cpu", *overrides])
    found = line(task="unique_count", act=spec.names.act, scale="cpu", config=dict(spec.plain))
    assert ("paper (" in found) == (number is not None)
    assert number is None or f"at paper scale): {number} |" in found


def test_the_best_possible_value_of_generated_data() -> None:
    text = line(data="generated", act="nani", floor={"valid_ppl": 21.666, "test_ppl": 21.666})
    assert " | best possible: valid_ppl 21.67, test_ppl 21.67 | " in text


def test_a_run_that_did_not_get_there() -> None:
    assert line(status="diverged", reason="non-finite loss at step 7", skipped=True) == (
        "ptb reference (scale=paper, seed 0) already finished: diverged: non-finite loss at step "
        "7. runs/x"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.0402714, "0.04027"), (9.99996, "10"), (115.614, "115.61"),
        (99_999.0, "99999.00"), (100_000.0, "1e+05"),
        (1.23456e300, "1.23e+300"), (float("nan"), "nan"), (None, "not a number"),
    ],
)  # fmt: skip
def test_show(value: float | None, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize("words", [["--cfg", "job", "sed=1"], ["sed=1", "--info"]])
def test_hydras_own_pages_are_checked_like_runs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "sed=1: no such key. Did you mean seed?" in capsys.readouterr().err


def test_hydras_words_are_no_overrides(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "--package=act", "act=nah"]) == 0
    assert "variant: nah" in capfd.readouterr().out
    assert main(["-sc", "install=bash"]) == 0
    assert "complete" in capfd.readouterr().out


def test_scripts_with_pairs_say_what_they_take(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        sample(["--help"])
    out = capsys.readouterr().out
    assert "  run=          folder of a run" in out and "(default 0.8)" in out
    with pytest.raises(SystemExit, match="0"):
        translate(["--help"])
    out = capsys.readouterr().out
    assert re.search(r"^  run= +folder of a run of task=nmt \(needed\)$", out, re.M)
    assert re.search(r"^  weights= .*\(last, best; default best\)$", out, re.M)
    with pytest.raises(SystemExit, match="0"):
        table_main(["--help"])
    assert "\n  names ...     tables, as 2, fig11 or summary" in capsys.readouterr().out
