"""The command `noisyexp`: its verbs, their help, what the shell is offered, an installed wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from noisyexp import __version__, places
from noisyexp.cli.command import VERBS, main
from noisyexp.cli.completion import complete

ROOT = Path(__file__).resolve().parents[2]


def test_alone_it_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.help)}$", out, re.M), name


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_a_word_that_is_no_verb_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tabel"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "tabel" in captured.err and "table" in captured.err


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


def test_completion_offers_files_and_keys() -> None:
    assert complete("run", "ta") == ["task="]
    assert complete("run", "task=ptb_l") == ["task=ptb_large"]
    assert complete("run", "act=reference,nan") == [
        f"act=reference,{name}" for name in ("nan", "nani", "nanil", "nanis")
    ]
    assert complete("run", "experiment=table2/nah_m") == ["experiment=table2/nah_mean"]
    assert complete("table", "fig1") == ["fig11"]
    assert complete("sample", "r") == []


def test_listing_and_completing_need_no_torch() -> None:
    code = (
        "import sys; from noisyexp.cli.command import main; main([]); "
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
