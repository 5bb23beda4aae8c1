"""Measure Figure 2: where gradient descent with and without noise ends; writes results/escape.json.

Examples:
    python scripts/escape.py
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from noisyexp.fileio import write_json
from noisyexp.pictures.escape import Settings, measure
from noisyexp.places import CHECKOUT
from noisyexp.training.record import code_version, describe_machine


def main(path: Path | None = None, settings: Settings | None = None) -> int:
    """Measure, print the shares and write them.

    Args:
        path: of the JSON; results/escape.json by default.
        settings: of the experiment; those of the figure by default.
    """
    path = path or CHECKOUT / "results" / "escape.json"
    torch.set_num_threads(1)  # the tensors are small
    began = time.perf_counter()
    result = measure(settings)
    for entry in result["rates"]:
        every, poor = entry["all"], entry["from_poor"]
        print(
            f"{entry['label']:20s} learning rate {entry['learning_rate']:<5g} global minimum: of "
            f"all {every['global']:.3f} ± {every['standard_error']:.3f}, of starts in the poor "
            f"well {poor['global']:.3f} ± {poor['standard_error']:.3f}"
        )
    record = {
        "command": "python scripts/escape.py",
        "code": code_version(),
        "machine": describe_machine(torch.device("cpu")),
        "torch": str(torch.__version__),
        "seconds": round(time.perf_counter() - began, 1),
        **result,
    }
    write_json(path, record)
    print(f"wrote {path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path}")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    sys.exit(main())
