"""Pages written by hand, with blocks between marks that are written by the program."""

from __future__ import annotations

import re


def with_summary(readme: str, name: str, table: str) -> str:
    """The page with the first tables of each scale between its marks for `name`, if it has them.

    These are the final numbers and, where the page has them, the first metric while learning.
    `table` has the scales with runs.

    Args:
        readme: text with `<!-- table2 -->` and `<!-- /table2 -->`.
        name: "table2".
        table: the rendered table.
    """
    scales = re.findall(r"^## (Scale: .*|While learning, scale .*)\n\n((?:\|.*\n)+)", table, re.M)
    block = "\n".join(f"{title}\n\n{rows}" for title, rows in scales)
    return between_marks(readme, name, block)


def between_marks(readme: str, name: str, block: str) -> str:
    """The page with `block` between its marks for `name`, if it has them."""
    marks = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(marks, lambda match: f"{match[1]}\n{block}\n{match[2]}", readme, flags=re.S)
