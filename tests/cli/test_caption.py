"""`noisyexp caption` captions a picture with the words and the attention of its model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import noisyexp.cli.caption as script
from noisyexp.cli.compose import check
from noisyexp.tasks.captioning import Captioning, generated
from noisyexp.tasks.captioning.extractors import EXTRACTORS, Extractor
from noisyexp.tasks.captioning.model import Captioner
from noisyexp.training.load import LoadedRun

OPTIONS = ["task=captioning", "scale=smoke", "data=generated", "act=nah", "task.decode_words=4"]


def network(images: Tensor) -> Tensor:
    """Annotations that say how red the picture is; 4 x 4 locations."""
    red = images[:, :1, :1, :1].float() / 255
    return red.expand(-1, generated.CHANNELS, generated.SIDE, generated.SIDE)


def record(folder: Path, task: str, source: str) -> None:
    """As much of a run's record as says what it was."""
    config = {"task": {"name": task}, "data": {"source": source}}
    (folder / "run.json").write_text(json.dumps({"config": config}))


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture, and in place of a run a model that always says its third word."""
    (spec,) = check(OPTIONS)
    task = Captioning(spec.task_config, "generated", 0)
    task.prepare(Path())
    task.source = "real"
    torch.manual_seed(0)
    model = task.build_model(spec.config.act.spec())
    assert isinstance(model, Captioner)
    with torch.no_grad():
        model.output.bias[3] = 4.0
    asked: list[tuple[str, str]] = []

    def load(folder: str, weights: str, *, only_words: bool = False) -> LoadedRun:
        asked.append((folder, weights))
        return LoadedRun(task, model.eval(), 7)

    monkeypatch.setattr(script, "load_run", load)
    record(tmp_path, "captioning", "real")
    extractor = Extractor(generated.SIDE, generated.CHANNELS, "tiny", lambda: network)
    monkeypatch.setitem(EXTRACTORS, task.config.features, extractor)
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 260), (200, 0, 0)).save(path)
    return path


def test_a_caption_and_its_picture(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare = script.prepare_image
    monkeypatch.setattr(  # a photograph is turned as its camera noted
        script, "prepare_image", lambda content, *, upright: prepare(content, upright=upright)
    )
    drawn = tmp_path / "out.png"
    assert script.main([f"run={tmp_path}", f"image={picture}", "beam=2", f"picture={drawn}"]) == 0
    shown = capsys.readouterr().out
    word = generated.generate(24, 8).vocab.lookup_token(3)
    assert shown.startswith(f"{' '.join([word] * 4)}  (")
    assert f"picture: {drawn}" in shown
    assert drawn.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=x"], "image: missing (picture to caption)"),
        (["run=x", "imag=x.jpg"], "imag=x.jpg: no such key. Did you mean image?"),
        (["run=x", "image=y", "beam=0"], "beam=0: expected a whole number (at least 1)"),
        (
            ["run=x", "image=README.md", "weights=mean"],
            "weights=mean: of a run expected last or best",
        ),
        (["image=x.jpg"], "no model given: run=<folder>, or weights=<name in results/weights>"),
        (["run=x", "image=nowhere.jpg"], "nowhere.jpg cannot be read as a picture"),
        (["run=x", "image=/dev/null"], "/dev/null cannot be read as a picture: a pipe, socket"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(arguments) != 0
    assert message in capsys.readouterr().err


def test_a_text_is_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("A dog runs .\n")
    assert script.main(["run=x", f"image={path}"]) != 0
    said = f"{path} cannot be read as a picture: it is no picture of a format that Pillow knows"
    assert said in capsys.readouterr().err


def test_a_run_of_another_task(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is refused before its data are prepared."""
    monkeypatch.delattr(script, "load_run")
    record(tmp_path, "nmt", "real")
    assert script.main([f"run={tmp_path}", f"image={picture}"]) != 0
    assert f"{tmp_path} is a run of nmt, not of captioning" in capsys.readouterr().err


def test_a_run_on_generated_data(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.load_run(tmp_path, "best").task.source = "generated"
    assert script.main([f"run={tmp_path}", f"image={picture}"]) != 0
    assert "is a run on generated data" in capsys.readouterr().err
