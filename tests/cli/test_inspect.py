"""What `python -m noisyexp.inspect` measures, draws and refuses."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import NormalDist

import pytest
import torch

import noisyexp.cli.inspect as command
import noisyexp.cli.inspect_settings as settings_module
import noisyexp.pictures.unit_pages as page_module
from noisyexp.activations import Activation, find_variant, variants
from noisyexp.cli.inspect_settings import parse
from noisyexp.errors import ConfigError
from noisyexp.pictures.unit_equations import describe, equation
from noisyexp.pictures.unit_profile import make_unit, measure

NORMAL = NormalDist()
DRAWS = 40_000


def _x(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _sigma(excess: float, c: float, p: float = 1.0) -> tuple[float, float]:
    """Sigma and its slope in Delta."""
    g = 1 / (1 + math.exp(-p * excess))
    return c * (g - 0.5) ** 2, 2 * c * (g - 0.5) * g * (1 - g) * p


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.15])
def test_nan_of_tanh(alpha: float) -> None:
    """Eq 12 at x = 3: Delta = -2, d = -sgn(x) sgn(1 - alpha)."""
    found = measure(make_unit("tanh", "nan", c=0.5, alpha=alpha), _x(3.0), DRAWS)
    sigma, slope = _sigma(-2.0, 0.5)
    leak = alpha + (1 - alpha) * 3
    assert found.expected.item() == pytest.approx(leak, abs=1e-12)
    assert found.mean.item() == pytest.approx(leak, abs=5 * sigma / DRAWS**0.5)
    assert found.std.item() == pytest.approx(sigma, rel=0.02)
    assert found.gradient_mean.item() == pytest.approx(1 - alpha, abs=5 * abs(slope) / DRAWS**0.5)
    half = abs(slope) * NORMAL.inv_cdf(0.95)
    wanted = [1 - alpha - half, 1 - alpha + half]
    quantiles = found.gradient_quantiles[[0, -1], 0].tolist()
    assert quantiles == pytest.approx(wanted, abs=0.03 * half)


def test_nah_of_sigmoid() -> None:
    """Algorithm 1 at x = 6: Delta = -1, h' - u' = -1/4; quantiles of the half-normal."""
    found = measure(make_unit("sigmoid", "nah", c=0.5, p=2.0), _x(6.0), DRAWS)
    sigma, slope = _sigma(-1.0, 0.5, 2.0)
    mean = math.sqrt(2 / math.pi)
    assert found.expected.item() == pytest.approx(1 - mean * sigma, abs=1e-12)
    assert found.mean.item() == pytest.approx(1 - mean * sigma, abs=5 * sigma / DRAWS**0.5)
    assert found.std.item() == pytest.approx(sigma * math.sqrt(1 - 2 / math.pi), rel=0.02)
    # d = -1, so that d phi/dx = |xi| slope / 4, and slope is negative.
    assert found.gradient_mean.item() == pytest.approx(mean * slope / 4, rel=0.02)
    wanted = [NORMAL.inv_cdf((1 + q) / 2) * slope / 4 for q in (0.95, 0.05)]
    assert found.gradient_quantiles[[0, -1], 0].tolist() == pytest.approx(wanted, rel=0.06)


def test_input_noise_returns_to_the_linear_range_by_chance() -> None:
    """NANI at x = 1.05, sigma = 0.05: one standard deviation outside, so a share of 0.159."""
    found = measure(make_unit("tanh", "nani", c=0.05), _x(1.05), DRAWS)
    assert found.gradient_mean.item() == pytest.approx(NORMAL.cdf(-1), abs=0.01)
    assert found.expected.item() == 1.0


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
@pytest.mark.parametrize(
    "act", ["reference", "hard", "nan", "nah", "nani", "nanil", "nanis", "penalized_tanh"]
)
def test_gradients_agree_with_finite_differences(act: str, kind: str) -> None:
    """The same seed gives the same draws, so that values can be differenced."""
    unit = make_unit(kind, act, alpha=1.15, c=0.25, code_compat=True)
    x, step = _x(-5.3, -0.7, 0.4, 2.6, 5.9), 1e-6
    found = measure(unit, x, 30, seed=5)
    above, below = (measure(unit, x + side * step, 30, seed=5).values for side in (1, -1))
    torch.testing.assert_close(found.gradients, (above - below) / (2 * step), rtol=1e-5, atol=1e-6)


def test_clipped_output() -> None:
    found = measure(make_unit("tanh", "nan", c=4.0, clip_output=True), _x(4.0), 2000)
    assert float(found.values.max()) == 1.0 and float(found.values.min()) < 0.5
    assert make_unit("tanh", "nan").training


def test_every_unit_is_described() -> None:
    for kind in ("tanh", "sigmoid"):
        for act in ("reference", "hard", "nan", "nah", "nani", "nanil", "nanis"):
            text = equation(make_unit(kind, act))
            assert text.count("$") % 2 == 0 and text.endswith(")")
    assert "(Eq 12, 9)" in equation(make_unit("tanh", "nan"))
    assert "softplus" in equation(make_unit("tanh", "nanil", code_compat=True))
    unit = make_unit("sigmoid", "nah", c=0.15, alpha=1.1, clip_output=True)
    assert describe(unit) == "NAH, sigmoid, alpha = 1.1, c = 0.15, p = 1, clipped to 0..1"


def test_arguments() -> None:
    found = parse(["act=NAN", "kind=both", "c=1e-1", "code_compat=True"])
    assert (found.act, found.kinds, found.c, found.code_compat) == (
        "nan", ("tanh", "sigmoid"), 0.1, True,
    )  # fmt: skip
    assert parse(["act=nan_normal"]).act == "nan" and parse([]).act == "nah"
    assert parse(["act=all"]).acts == tuple(variants())
    assert parse(["act=noisyexp.activations.variants.NAH"]).kind == "tanh"
    given = parse(["act=nani", "p=2", "alpha=1.1", "c=1"])
    assert given.unused(find_variant("nani")) == ["alpha", "p"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("knd=tanh", "knd=tanh: no such key. Did you mean kind?"),
        ("act=nanl", "act=nanl: choose from reference, hard, nan, nah, nah_mean, nani, nanil, "
                     "nanis, penalized_tanh, all. Did you mean nanil?"),
        ("act=no.such", "act=no.such: variant 'no.such' cannot be imported"),
        ("kind=tahn", "Did you mean tanh?"),
        ("c=-1", "c=-1: expected a number (at least 0)"),
        ("alpha=big", "alpha=big: expected a number"),
        ("p=inf", "p=inf: expected a number"),
        ("clip_output=yes", "clip_output=yes: expected true or false"),
        ("nah", "nah: expected key=value"),
    ],
)  # fmt: skip
def test_mistakes(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([argument]) == 2
    assert message in capsys.readouterr().err


def test_all_mistakes_in_one_message() -> None:
    with pytest.raises(ConfigError) as error:
        parse(["act=x", "c=x", "p=1", "p=2"])
    assert len(error.value.problems) == 3


def test_places_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "HISTOGRAM_DRAWS", 10)
    monkeypatch.setattr(page_module, "DRAWS", 10)
    assert command.main([f"out={tmp_path}"]) == 2
    (tmp_path / "file").write_text("")
    assert command.main([f"out={tmp_path}/file/x"]) == 1
    shown = capsys.readouterr().err
    assert "is a folder" in shown and "choose another out=<path>" in shown
    assert "Errno" not in shown and ".tmp" not in shown


def test_a_picture_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["act=nan", "alpha=1.15", "c=0.5"]) == 0
    shown = capsys.readouterr().out
    rows = {
        cells[0].strip(): [float(cell) for cell in cells[1:]]
        for line in shown.splitlines()
        if "│" in line and len(cells := line.strip("│ ").split("│")) == 7
    }
    assert list(rows) == ["-4", "-2", "-1", "0", "1", "2", "4"]
    # Mean 1.15 - 0.15 x, std 0.0267 and 0.1025, gradient -0.15.
    assert rows["2"] == pytest.approx([0.85, 0.0267, 0.85, -0.15, -0.225, -0.075], abs=0.003)
    assert rows["4"][:3] == pytest.approx([0.55, 0.1024, 0.55], abs=0.003)
    assert rows["0"] == [0, 0, 0, 1, 1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "inspect-nan-tanh.png",
        "inspect-nan-tanh.svg",
    ]
    text = (tmp_path / "inspect-nan-tanh.svg").read_text()
    assert "<!-- NAN, tanh, alpha = 1.15, c = 0.5, p = 1" in text
    assert "<!-- output in saturation, x = 3 -->" in text


def test_a_page_that_loads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "variants", lambda: ["hard", "nanis"])
    for module, name in (
        (page_module, "DRAWS"),
        (page_module, "HISTOGRAM_DRAWS"),
        (command, "TABLE_DRAWS"),
    ):
        monkeypatch.setattr(module, name, 50)
    assert command.main(["act=all", "alpha=1.1", f"out={tmp_path}/units.html"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "units.html", "units.png", "units.svg",
    ]  # fmt: skip
    text = (tmp_path / "units.html").read_text()
    assert "http" not in text
    sources = re.findall(r'src="([^"]{20})', text)
    assert len(sources) == 3 and all(s.startswith("data:image/svg+xml;b") for s in sources)
    assert '<h2 id="nanis--tanh">nanis, tanh</h2>' in text


OWN = """
from noisyexp.activations import Activation


class Steep(Activation):
    '''steep x, and c p xi in training.'''

    variant = "steep_of_inspect"
    has_p = True

    def __init__(self, kind, num_units, *, steep, **settings):
        super().__init__(kind, num_units, **settings)
        self.steep = steep

    def noisy(self, x, xi):
        return self.steep * x + self.c * self.p * xi

    def expected(self, x):
        return self.steep * x
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The override that adds a folder of files with a unit of one's own."""
    monkeypatch.setattr(Activation, "_known", dict(Activation._known))
    (tmp_path / "units_of_inspect.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "act").mkdir(parents=True)
    (tmp_path / "configs" / "act" / "steep.yaml").write_text(
        "# Steep.\nvariant: units_of_inspect.Steep\nlabel: Steep\nc: 0.25\nsettings: {steep: 3.0}\n"
        "tanh: {c: 0.75}\n"
    )
    return f"hydra.searchpath=[file://{tmp_path}/configs]"


def test_a_unit_of_ones_own_by_its_file_as_a_run_makes_it(folder: str, tmp_path: Path) -> None:
    """Settings of the file, of a kind, and of the command line, the last before the others."""
    for words, steep, c in (
        (["act=steep"], 3.0, {"tanh": 0.75, "sigmoid": 0.25}),
        (["act=steep", "act.settings.steep=7", "act.tanh.c=0.5"], 7.0,
         {"tanh": 0.5, "sigmoid": 0.25}),
        (["act=steep", "c=2"], 3.0, {"tanh": 0.75, "sigmoid": 2.0}),
        (["act=units_of_inspect.Steep", "act.settings.steep=5", "c=2"], 5.0,
         {"tanh": 2.0, "sigmoid": 2.0}),
    ):  # fmt: skip
        for unit in command.units(parse([folder, *words, "kind=both", "p=1.5"])):
            found = measure(unit, _x(-1.0, 0.5), DRAWS)
            assert found.expected.tolist() == [-steep, 0.5 * steep]
            size = 1.5 * c[unit.kind.name]
            assert found.std.tolist() == pytest.approx([size, size], rel=0.02)


def test_a_picture_of_a_unit_of_ones_own(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "HISTOGRAM_DRAWS", 10)
    monkeypatch.setattr(page_module, "DRAWS", 10)
    assert command.main([folder, "act=steep", "alpha=2"]) == 0
    shown = capsys.readouterr()
    assert "STEEP_OF_INSPECT, tanh, c = 0.75, p = 1" in shown.out and shown.err == ""
    assert "note:" not in shown.out  # nobody knows what the unit does with alpha
    assert (tmp_path / "inspect-steep-tanh.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["act=steeep"], "act=steeep: choose from hard, nah, "),
        (["act=steep", "act.settings.step=2"], "Did you mean act.settings.steep?"),
        (["act=steep", "act.settings.steep=2", "c=-1"], "c=-1: expected a number"),
        (["act=all"], "act=all: leave out hydra.searchpath="),
    ],
)  # fmt: skip
def test_mistakes_in_the_words_of_a_run(
    folder: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([folder, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_name_that_may_be_that_of_a_file_is_told_how_to_be_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["act=mine"]) == 2
    assert "hydra.searchpath=[file://<folder of act/mine.yaml>]" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    assert "noisyexp inspect act=nah" in shown and "clip_output" in shown
