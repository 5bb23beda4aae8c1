"""The C sources say where fields lie and what names are worth, and Python declares the same."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
import torch

from noisyexp.kernels import bindings as K
from noisyexp.kernels import cpu, cuda, matmul, memory, optimizers, persistent
from noisyexp.kernels.build import SOURCES, find_compiler

STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "noise_key": K.NoiseKey, "activation": K.Activation, "layer": K.Layer,
    "persistent": K.Persistent, "shape": K.Shape, "step_loop": K.StepLoop, "score": K.Score,
    "matrix": matmul.Matrix,
    "matmul": matmul.Matmul, "recurrence": matmul.Recurrence, "memory_step": memory.MemoryStep,
    "tensor_update": optimizers.TensorUpdate, "update_call": optimizers.UpdateCall,
}  # fmt: skip

CONSTANTS = {
    "CHUNKS": K.CHUNKS,
    "MAX_ACTIVATIONS": K.MAX_ACTIVATIONS,
    "MOST_TOTALS": persistent.MOST_TOTALS,
    **{name: value for name, value in vars(K).items() if name.startswith(("FORM_", "MULTIPLIER_"))},
    **{f"RULE_{rule.name}": int(rule) for rule in optimizers.Rule},
    "BY_FLOATS": matmul.FORMS["rounded"],
    "BY_PAIRS": matmul.FORMS["pairs"],
    "BY_TILES": matmul.FORMS["tiles"],
    "OPERANDS_FLOAT": persistent.OPERANDS[torch.float32],
    "OPERANDS_BF16": persistent.OPERANDS[torch.bfloat16],
    "OPERANDS_FP16": persistent.OPERANDS[torch.float16],
}

PROGRAM = """
#include <stddef.h>
#include <stdio.h>
#define NO_TILES
#define PART 2
#define REAL float
#define NAME(x) x##_f
#include "numbers.h"
#include "tile_rows.h"
#include "loops.h"
#include "optimizers.h"
#include "memory.h"
#define FIELD(s, f) printf(#s "." #f " %zu %zu\\n", offsetof(s, f), sizeof(((s *)0)->f));
#define NUMBER(n) printf(#n " %d\\n", (int)(n));
int main(void) {
"""


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_fields_and_constants_of_c_are_those_of_python(tmp_path: Path) -> None:
    expected = [
        (f"FIELD({name}, {field})", f"{name}.{field} {at.offset} {at.size}")
        for name, structure in STRUCTURES.items()
        for field, at in ((field[0], getattr(structure, field[0])) for field in structure._fields_)
    ]
    expected += [(f"NUMBER({name})", f"{name} {value}") for name, value in CONSTANTS.items()]
    expected += [
        (f'printf("{name} %zu\\n", sizeof({name}));', f"{name} {ctypes.sizeof(structure)}")
        for name, structure in STRUCTURES.items()
    ]
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(PROGRAM + "\n".join(line for line, _ in expected) + "\nreturn 0;}\n")
    stubs = "".join(
        f"void {cell}_{way}_f(const void *a, long t, long b) {{ (void)a, (void)t, (void)b; }}\n"
        for cell in ("lstm", "gru")
        for way in ("forward", "backward")
    )
    (tmp_path / "steps.c").write_text(stubs)  # which loops.h calls, and nothing here
    command = [str(find_compiler()), "-O0", "-w", "-std=gnu11", f"-I{SOURCES}", "-o", str(program)]
    subprocess.run([*command, str(source), str(tmp_path / "steps.c"), "-lm"], check=True)
    said = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [line for _, line in expected]


def test_every_kernel_that_a_backend_names_is_there() -> None:
    """A name is the only thing by which the code chooses: a wrong one would go by torch, unseen."""
    library = cpu.library()
    if library is None:
        pytest.skip("no compiled kernels")
    for name in cpu.KERNELS:
        assert any(hasattr(library, f"{name}{suffix}") for suffix in ("_f", "")), name
    sources = "".join(path.read_text() for path in SOURCES.glob("*"))
    for name in cuda.KERNELS:
        if name.endswith("_all"):  # a program for each cell
            cell, name = name.split("_", 1)
            assert f"CELL_{cell.upper()}" in sources
        assert re.search(rf"(KERNEL|ENTRY) (NAME\({name}\)|{name}(_f)?)\(", sources), name
