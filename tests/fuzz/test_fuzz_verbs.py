"""Random words for every verb but run: one message, a known exit status, what is read stays."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_calls import BOUND, ENDS, MIXTURE, SEED, call, counts, settle_torch
from fuzz_damage import spoil
from fuzz_lines import VALUES

from noisyexp.cli.command import VERBS
from noisyexp.cli.start import main

SAFE = {"plan": ["calibrate=false"], "reproduce": ["plan=true"], "queue": ["list=true"]}
"""Words that keep a verb from training for hours."""
KEYS = {
    "plan": ("task", "act", "seed", "jobs", "run_root", "scale"),
    "inspect": ("act", "kind", "c", "alpha", "p", "clip_output", "code_compat"),
}
RIGHT = {
    "plan": ["task=mixture", "scale=smoke"], "report": ["runs"], "runs": ["runs"],
    "publish": ["{run}"], "verify": ["{run}/run.json"], "evaluate": ["run={run}"],
    "sample": ["run={run}"], "translate": ["run={run}"], "inspect": ["act=nah"],
}  # fmt: skip
"""Words that a verb takes; half of the lines begin with them."""
WRITTEN = ("out", "output", "attention", "picture")
"""Keys of files that are written: their values stay in the folder of the test."""
NAMES = (
    "fig6", "table4", "fig8", "summary", "grid_ptb_char", "99", "row", "weights", "pilot", "last",
    "best", "unique_count/nah", "mixture", "act=nah", "seed=0", "test_acc", "act.tanh.c", "all",
)  # fmt: skip


def _words(draw: random.Random, verb: str, places: list[str]) -> list[str]:
    """Words: keys that the verb has and others, names, files of every kind."""
    module = importlib.import_module(VERBS[verb].module)
    own = getattr(module, "Arguments", None)
    keys = [field.name for field in dataclasses.fields(own)] if own else []
    keys += [*KEYS.get(verb, ()), "nope"]
    right = draw.random() < 0.5
    words = [word.format(run=places[0]) for word in RIGHT.get(verb, ())] if right else []
    for _ in range(draw.choice((0, 1, 1)) if right else draw.choice((0, 1, 1, 2, 2, 3, 4))):
        key, kind = draw.choice(keys), draw.random()
        if key in WRITTEN:
            name = draw.choice(("x.png", "x.html", "x.json", "x", "x/y.csv", ".", "", "é.md"))
            words.append(f"{key}={draw.choice([*places, name])}")
        elif kind < 0.35:
            words.append(draw.choice([*places, *NAMES]))
        elif kind < 0.7:
            words.append(f"{key}={draw.choice([*places, *NAMES])}")
        else:
            words.append(f"{key}={draw.choice(VALUES)}" if kind < 0.95 else draw.choice(VALUES))
    words = [word for word in words if "/dev/" not in word or word.partition("=")[0] not in WRITTEN]
    return [w for w in words if w not in ("rm", "watch=true") and not w.startswith("epochs=")]


@counts(16, 1_000)
def test_every_verb(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in VERBS:
        module = importlib.import_module(VERBS[name].module)
        if hasattr(module, "project_root"):
            monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    monkeypatch.setattr("noisyexp.training.weights_file.project_root", lambda: tmp_path)
    threads = torch.get_num_threads()
    assert call([*MIXTURE, "run_root=runs"])[0] == 0
    (folder,) = (tmp_path / "runs" / "mixture").iterdir()
    read = {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("I agree .\n")
    os.mkfifo(tmp_path / "pipe")
    shutil.copytree(folder, tmp_path / "damaged")
    here = str(folder.relative_to(tmp_path))
    places = [here, f"{here}/run.json", "damaged", "damaged/run.json", "runs", "empty", "text.txt",
              "pipe", "nowhere", "."]  # fmt: skip
    draw, found = random.Random(f"verbs {SEED}"), Counter[Any]()
    failures: list[str] = []
    verbs = sorted(set(VERBS) - {"run", "bench"})
    for number in range(count):
        verb = verbs[number % len(verbs)]
        damaged = tmp_path / "damaged" / draw.choice(("run.json", "last.pt"))
        damaged.write_bytes(spoil(draw, (folder / damaged.name).read_bytes()))
        words = [*_words(draw, verb, places), *SAFE.get(verb, [])]
        words = [word for word in words if "pipe" not in word or verb != "translate"]
        out, began = io.StringIO(), time.process_time()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a b\n")))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                code: Any = main([verb, *words])
        except BaseException as error:
            code = repr(error)
        text, seconds = out.getvalue(), time.process_time() - began
        whole = all(
            hashlib.sha256(path.read_bytes()).digest() == digest for path, digest in read.items()
        )
        if code not in ENDS or "Traceback" in text or seconds >= BOUND or not whole:
            failures.append(f"{verb} {words}: {code}, {seconds:.0f} s, {whole=}: {text[-800:]}")
            print(failures[-1], flush=True)
        found[code] += 1
        if number % 100 == 99:
            print(f"{number + 1} command lines of verbs: {dict(found)}", flush=True)
    settle_torch(threads)
    assert not failures
