"""Plain lines with the remaining time, and the bar."""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Callable

import pytest
import rich.console

from noisyexp.tasks.base import StepOutput
from noisyexp.training import Trainer, progress
from noisyexp.training.callbacks import Callback
from noisyexp.training.progress import ProgressDisplay, format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599, "59 min 59 s"),
     (3600, "1 h 00 min"), (7500, "2 h 05 min"), (360_000, "100 h 00 min")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


class Clock(Callback):
    """10 seconds for each update."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        self.now += 10.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_plain_lines(
    clock: Clock, toy_trainer: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [clock, ProgressDisplay("toy", "plain")]
    toy_trainer([0.5, 0.25], callbacks, steps=5, epochs=2).fit()
    lines = capsys.readouterr().err.splitlines()
    # A line every 30 s, counted anew from the end of the epoch, and one for each epoch.
    steps = [int(re.findall(r"step (\d+)/10", line)[0]) for line in lines]
    assert steps == [3, 5, 8, 10]
    assert lines[0] == "toy: epoch 0.60 of 2, step 3/10, 0 items/s, 1 min 10 s left: loss 0.062"
    assert lines[1] == (
        "toy: epoch 1.00 of 2, step 5/10, 0 items/s, 50 s left: score 0.5  loss 0.2664"
    )
    assert "0 s left: score 0.25" in lines[3]


def test_rate_and_time_are_of_this_process(
    clock: Clock, toy_trainer: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    first = toy_trainer(steps=4, epochs=1)
    for _ in range(2):
        first.run_step()
    callbacks = [clock, ProgressDisplay("toy", "plain")]
    resumed = toy_trainer([1.0, 1.0], callbacks, steps=4, epochs=2)
    resumed.load_state_dict(first.state_dict())
    resumed.fit()
    # 2 updates in 20 s here: the 4 that are left take 40 s, not 20 s.
    assert "step 4/8, 0 items/s, 40 s left" in capsys.readouterr().err.splitlines()[0]


def test_throughput(
    clock: Clock, toy_trainer: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    class Many(Callback):
        def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
            output.items = 12_340

    toy_trainer([1.0], [clock, Many(), ProgressDisplay("toy", "plain")], epochs=1).fit()
    assert "step 2/2, 1,234 items/s, 0 s left" in capsys.readouterr().err


def test_off_prints_nothing(
    toy_trainer: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    toy_trainer(callbacks=[ProgressDisplay("toy", "off")]).fit()
    assert capsys.readouterr() == ("", "")


def test_auto_is_a_bar_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, style in ((True, "bar"), (False, "plain")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert ProgressDisplay("toy", "auto").style == style


def test_bar(toy_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = functools.partial(
        rich.console.Console, file=screen, force_terminal=True, width=150, color_system=None
    )
    monkeypatch.setattr(rich.console, "Console", console)
    display = ProgressDisplay("toy run", "bar")
    toy_trainer([0.5, 0.75, 0.25], [display], steps=2, epochs=3).fit()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for epoch, score in ((1, "0.5"), (2, "0.75"), (3, "0.25")):
        assert f"epoch {epoch}: score {score}  loss" in text
    assert "toy run" in text
    assert "6/6" in text
    assert display._bar is None
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h")  # cursor


def test_bar_of_a_run_that_breaks_gives_the_terminal_back(
    toy_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    console = functools.partial(rich.console.Console, file=screen, force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", console)
    with pytest.raises(IndexError):
        toy_trainer([], [ProgressDisplay("toy", "bar")]).fit()
    assert screen.getvalue().count("\x1b[?25h") == 1
