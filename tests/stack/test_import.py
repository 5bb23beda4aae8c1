"""What importing the layers costs: not the compiler, which takes as long again as torch itself."""

from __future__ import annotations

import subprocess
import sys

import torch

from noisyexp.kernels.dispatch import constant_in_graphs

TRAINS = """
import sys, torch
import noisyexp, noisyexp.nn
layer = noisyexp.NoisyLSTM(4, 5)
layer(torch.ones(3, 2, 4))[0].sum().backward()
assert "torch._dynamo" not in sys.modules, "before"
compiled = torch.compile(layer, backend="eager")
compiled(torch.ones(3, 2, 4))[0].sum().backward()
assert "torch._dynamo" in sys.modules, "after"
import torch._dynamo.utils
graphs = torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)
print("graphs of the functions inside:", graphs)
"""


def test_layers_train_without_the_compiler() -> None:
    """And are left out of graphs once it is there, as torch's own, with nothing inside compiled."""
    result = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "graphs of the functions inside: 0\n"), result


def test_the_mark_is_the_one_of_torch() -> None:
    """Ours only leaves out the import."""

    def ours() -> None: ...

    def torchs() -> None: ...

    assert constant_in_graphs(ours) is ours
    torch.compiler.assume_constant_result(torchs)  # type: ignore[no-untyped-call]
    assert vars(ours) == vars(torchs) != {}
