"""sweep=<name> on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisyexp.cli.named_sweeps import expand_sweeps, sweep_names
from noisyexp.cli.run import main
from noisyexp.errors import ConfigError


def test_a_name_stands_for_its_words(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: ptb\nact: nan,nah\nact.c: 0.1,0.5\ntraining.lr: 1\n")
    assert sweep_names(tmp_path) == ["mine"]
    assert expand_sweeps(["-m", "sweep=mine", "seed=0,1"], tmp_path) == [
        "-m", "task=ptb", "act=nan,nah", "act.c=0.1,0.5", "training.lr=1", "seed=0,1"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"sweep=mime: choose from mine\. Did you mean mine\?"):
        expand_sweeps(["sweep=mime"], tmp_path)


def test_a_sweep_needs_m(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep=ptb_char_sigma", "data=generated"]) == 2
    assert "16 runs in one command: add -m to sweep over values" in capsys.readouterr().err
    assert main(["-m", "sweep=nothing"]) == 2
    assert "sweep=nothing: choose from ptb_char_sigma." in capsys.readouterr().err
