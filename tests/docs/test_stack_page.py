"""docs/stack.md names tests that exist, and all tests of the stack."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STACK = ROOT / "tests" / "stack"


def functions(path: Path) -> set[str]:
    """The tests of a file, as the page names them."""
    found = (
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    )
    name = path.name if path.parent == STACK else str(path.relative_to(ROOT))
    return {f"{name}::{function}" for function in found if function.startswith("test_")}


def test_the_page_of_the_stack_is_of_its_tests() -> None:
    lines = (ROOT / "docs" / "stack.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    named = {name for row in rows for name in re.findall(r"`([\w/]+\.py::\w+)`", row)}
    assert all(re.search(r"\.py::\w+`", row.split("|")[-2]) for row in rows)
    stack = set().union(*map(functions, STACK.glob("test_*.py")))
    assert stack - named == set()
    others = {ROOT / name.split("::")[0] for name in named - stack}
    assert named - stack - set().union(*map(functions, filter(Path.is_file, others))) == set()
