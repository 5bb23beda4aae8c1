"""The pages of `scripts/make_examples.py` say what the runs' models find."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import scripts.make_examples as script
from noisyexp.cli.compose import check
from noisyexp.data.moses import detokenise
from noisyexp.records.publish import publish
from noisyexp.tasks.captioning.decoding import decode, spell
from noisyexp.tasks.captioning.extractors import EXTRACTORS, prepare_image
from noisyexp.tasks.nmt.decoding import read
from noisyexp.training import execute
from noisyexp.training.load import load_run


def folders(root: Path, task: str, acts: tuple[str, ...]) -> list[Path]:
    """Run folders of smoke runs on generated data, published below `root`/results."""
    found = []
    for act in acts:
        options = [f"run_root={root}/runs", "threads=1", "progress=off", f"act={act}"]
        (spec,) = check([f"task={task}", "scale=smoke", "data=generated", *options])
        found.append(execute(spec).folder)
        publish(found[-1] / "run.json", root / "results")
    return found


def test_translations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = folders(tmp_path, "nmt", ("reference", "hard"))
    assert script.main([str(run) for run in runs], tmp_path) == 0
    assert capsys.readouterr().out == "wrote results/examples/nmt.md\n"
    page = (tmp_path / "results" / "examples" / "nmt.md").read_text()
    run = load_run(runs[1], "best")
    data = run.task.corpus.test  # type: ignore[attr-defined]
    short = [k for k, text in enumerate(data.tokenised[0]) if len(text.split()) <= 12]
    sources = [data.source[k] for k in short[:10]]
    best = run.task.translate(run.model, sources, torch.device("cpu"))  # type: ignore[attr-defined]
    expected = [f"| hard | {detokenise(read(one, data.target.vocab), 'fr')} |" for one in best]
    assert [line for line in page.splitlines() if line.startswith("| hard")] == expected
    assert page.count("| **source**") == page.count("| reference") == len(sources)
    assert "results/records" not in page and "records/nmt/hard-smoke-generated-seed0.json" in page


def test_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = folders(tmp_path, "captioning", ("nah",))
    loaded = load_run(run, "best")
    channels, side = loaded.task.data.channels, loaded.task.data.side  # type: ignore[attr-defined]
    network = SimpleNamespace(load=lambda: None)
    monkeypatch.setitem(EXTRACTORS, loaded.task.config.features, network)

    def annotate(network: None, images: Tensor) -> Tensor:
        torch.manual_seed(int(images.sum()) % 1000)
        return torch.rand(1, side * side, channels)

    monkeypatch.setattr("noisyexp.cli.caption.annotate", annotate)
    assert script.main([str(run)], tmp_path) == 0
    page = (tmp_path / "results" / "examples" / "captioning.md").read_text()
    pictures = sorted(script.PICTURES.glob("*.jpg"))
    shown = [line for line in page.splitlines() if line.startswith("nah: ")]
    assert len(shown) == len(pictures) == 5
    for line, picture in zip(shown, pictures, strict=True):
        pixels = prepare_image(picture.read_bytes())
        (best,) = decode(
            loaded.model, annotate(None, pixels.unsqueeze(0)).half().float(),
            loaded.task.config.beam, loaded.task.config.decode_words,
        )  # fmt: skip
        text = " ".join(spell(best, loaded.task.data.vocab))  # type: ignore[attr-defined]
        assert line == f"nah: {text} ({best.score:.1f} nats)"
        drawn = tmp_path / "results" / "figures" / f"caption-{picture.stem}-nah.png"
        assert drawn.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_words(tmp_path: Path) -> None:
    runs = folders(tmp_path, "ptb", ("reference", "nah"))
    assert script.main([str(run) for run in runs], tmp_path) == 0
    page = (tmp_path / "results" / "examples" / "ptb.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines()]
    run = load_run(runs[1])
    shares = run.task.saturated(run.model, torch.device("cpu"))  # type: ignore[attr-defined]
    shown = run.task.sample(run.model, torch.device("cpu")).text
    places, *rows = [line for line in lines if len(line) > 3 and line[0] != "| ---"]
    assert [place.rstrip(" |") for place in places[1:]] == list(shares)
    assert [row[0] for row in rows] == ["| reference", "| nah"]
    assert [float(cell.rstrip(" |")) for cell in rows[1][1:]] == [
        round(share) for share in shares.values()
    ]
    (_, written) = [line[1].removesuffix(" |") for line in lines if line[0] == "| nah"]
    assert written.replace("&lt;", "<") in shown and "by the weights of their last update" in page


def test_what_cannot_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = folders(tmp_path, "nmt", ("reference",))
    (other,) = folders(tmp_path, "captioning", ("reference",))
    assert script.main([str(run), str(other)], tmp_path) != 0
    assert "these are nmt smoke seed 0, captioning smoke seed 0" in capsys.readouterr().err
    (tmp_path / "results" / "records" / "nmt" / "reference-smoke-generated-seed0.json").unlink()
    assert script.main([str(run)], tmp_path) != 0
    assert "reference-smoke-generated-seed0.json in results/records" in capsys.readouterr().err
