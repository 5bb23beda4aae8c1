"""Test vectors of the units, computed in float64 straight from the paper's equations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

Batch = tuple[dict[str, Any], dict[str, Tensor]]
Blocks = Callable[[str], Iterator[Batch]]

# Columns that are Python numbers or names in a call; the others become float64 tensors.
_SETTINGS = ("variant", "act", "alpha", "c")


def _columns(vectors: dict[str, Any], block: str) -> list[str]:
    own = {"NANI": "input_columns", "NANIS": "input_columns"}.get(block, f"{block}_columns")
    return vectors.get(own, vectors["columns"])


@pytest.fixture(params=["sample", "full"])
def blocks(request: pytest.FixtureRequest) -> Blocks:
    """Rows of a block as (settings, columns of tensors), one batch for each setting.

    "sample" is the part that lies beside this file; "full" is vectors.json in the folder
    NOISYEXP_SPEC (default ../shared/spec beside the repository) and is skipped without it.
    """
    here = Path(__file__).resolve()
    path = here.with_name("vectors_sample.json")
    if request.param == "full":
        beside = here.parents[3] / "shared" / "spec"
        path = Path(os.environ.get("NOISYEXP_SPEC") or beside) / "vectors.json"
        if not path.is_file():
            pytest.skip("full test vectors not found: set NOISYEXP_SPEC to the folder with them")
    vectors = json.loads(path.read_text(encoding="utf-8"))

    def batches(block: str) -> Iterator[Batch]:
        columns = _columns(vectors, block)
        # The rows of the authors' code leave the last column out.
        rows = [dict(zip(columns, row, strict=False)) for row in vectors[block]]
        names = [name for name in _SETTINGS if name in columns]

        def settings_of(row: dict[str, Any]) -> tuple[Any, ...]:
            return tuple(row[name] for name in names)

        for values, group in groupby(sorted(rows, key=settings_of), settings_of):
            chosen = list(group)
            tensors = {
                name: torch.tensor([row[name] for row in chosen], dtype=torch.float64)
                for name in chosen[0]
                if name not in names
            }
            yield dict(zip(names, values, strict=True)), tensors

    return batches
