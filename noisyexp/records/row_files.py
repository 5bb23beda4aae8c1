"""Row files: one YAML a table row or a figure's series, with a header for people.

They lie in `configs/experiment/tableN/` and `configs/experiment/figN/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.records.yaml_file import parse_yaml, read_text
from noisyexp.schema import closest

HEADER_FIELDS = ("command", "time", "expect")
PLACES = {"table": "table", "figure": "fig"}
"""Key of the `row` block that says where the paper has it -> how the folder's name starts."""
ROW_FIELDS = ("order", "label", "source", "baseline", "seeds", "paper")
SOURCES = ("paper", "ours")
MAX_OVERLAY_LINES = 25


@dataclass(frozen=True)
class Row:
    """One row of a table: the paper's, or our own.

    Attributes:
        experiment: name for the command line, "table2/nah".
        title, command, time, expect: the comment header of the file.
        order: place in the table, counted from 1.
        label: as printed in the paper.
        source: "paper" (the paper has this row) or "ours".
        baseline: experiment that the effect is measured against, None for the baseline itself.
        seeds: of its runs.
        paper: the paper's number by metric, in the order of the columns; None for a metric that
            the paper does not give or only draws. Empty when source is "ours".
        task: config name of the task, "ptb".
        act: config name of the activation, "nah".
        overlay_lines: lines of the file after the header.
    """

    experiment: str
    title: str
    command: str
    time: str
    expect: str
    order: int
    label: str
    source: str
    baseline: str | None
    seeds: tuple[int, ...]
    task: str
    act: str
    overlay_lines: int
    paper: Mapping[str, float | None]


def parse_header(text: str) -> tuple[dict[str, str], int]:
    """The comment header of a row file.

    A field may go on in further comment lines that start with three blanks or more.

    Returns:
        The fields by name (plus "title", the first free comment line), and how many lines the
        header has. Fields that the file lacks are missing from the mapping.
    """
    fields: dict[str, str] = {}
    current, count = "", 0
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        count += 1
        body = line[1:]
        match = re.match(rf"\s*({'|'.join(HEADER_FIELDS)}):\s*(.*)$", body)
        if match:
            current = match[1]
            fields[current] = match[2].strip()
        elif body.strip().startswith("@package"):
            continue
        elif current and body.startswith("   "):
            fields[current] = f"{fields[current]} {body.strip()}"
        elif not current and body.strip():
            fields["title"] = f"{fields.get('title', '')} {body.strip()}".strip()
    return {key: value for key, value in fields.items() if value}, count


def load_row(path: Path) -> Row:
    """Read one row file.

    Raises:
        RecordError: not YAML, or a field of the header or of the `row` block is missing, unknown
            or malformed; every problem is listed.
    """
    text = read_text(path)
    header, header_lines = parse_header(text)
    config = parse_yaml(text, path)
    block = config.get("row") if isinstance(config, dict) else None
    if not isinstance(block, dict):
        raise RecordError(
            f"{path} has no 'row:' block; it needs table or figure, {', '.join(ROW_FIELDS)}"
        )
    choices = {group: _choice(config, group) for group in ("task", "act")}
    problems = _header_problems(header) + _row_problems(block, path.parent.name)
    for group, choice in choices.items():
        if choice is None:
            problems.append(
                f"its defaults list does not choose '{group}' ('- override /{group}: <name>')"
            )
    if problems:
        raise RecordError(f"{path}: " + "; ".join(problems))
    return Row(
        experiment=f"{path.parent.name}/{path.stem}",
        task=str(choices["task"]),
        act=str(choices["act"]),
        overlay_lines=len(text.splitlines()) - header_lines,
        title=header["title"],
        command=header["command"],
        time=header["time"],
        expect=header["expect"],
        order=block["order"],
        label=block["label"],
        source=block["source"],
        baseline=block["baseline"],
        seeds=tuple(block["seeds"]),
        paper=dict(block["paper"]),
    )


def load_rows(folder: Path) -> list[Row]:
    """Every row file of `folder` (`configs/experiment/table2`), ordered by `row.order`.

    Raises:
        RecordError: no row file, a bad one, two rows in one place, or a baseline that is not a row
            of this table.
    """
    rows = sorted((load_row(path) for path in folder.glob("*.yaml")), key=lambda row: row.order)
    if not rows:
        raise RecordError(f"{folder} holds no row files (*.yaml); tables are folders of row files")
    names = {row.experiment for row in rows}
    for row, following in pairwise(rows):
        if row.order == following.order:
            raise RecordError(
                f"{row.experiment} and {following.experiment} both have row.order {row.order}"
            )
    for row in rows:
        if row.baseline is not None and row.baseline not in names:
            raise RecordError(
                f"{row.experiment}: row.baseline is {row.baseline!r}, allowed are "
                f"{', '.join(sorted(names))} or null"
            )
    return rows


def _choice(config: Mapping[str, Any], group: str) -> str | None:
    """The choice of the defaults list for `group`, by "override /group: choice"."""
    for entry in config.get("defaults") or ():
        if isinstance(entry, dict):
            for key, value in entry.items():
                if str(key).removeprefix("override ").lstrip("/") == group:
                    return str(value)
    return None


def _header_problems(header: Mapping[str, str]) -> list[str]:
    return [
        f"the comment header lacks '# {key}:'" if key != "title" else "the header lacks a title"
        for key in ("title", *HEADER_FIELDS)
        if key not in header
    ]


def _row_problems(block: Mapping[str, Any], folder: str) -> list[str]:
    problems = [f"row.{key} is missing" for key in ROW_FIELDS if key not in block]
    problems += [
        f"row.{key} is not known.{closest(str(key), (*PLACES, *ROW_FIELDS))}"
        for key in block
        if key not in (*PLACES, *ROW_FIELDS)
    ]
    places = [key for key in PLACES if key in block]
    if len(places) != 1:
        problems.append("exactly one of row.table and row.figure is needed")
    if problems:
        return problems
    if f"{PLACES[places[0]]}{block[places[0]]}" != folder:
        problems.append(f"row.{places[0]} is {block[places[0]]!r} but the folder is {folder}")
    if not isinstance(block["order"], int):
        problems.append(f"row.order is {block['order']!r}, expected a whole number")
    if not isinstance(block["label"], str) or not block["label"]:
        problems.append(f"row.label is {block['label']!r}, expected text")
    if not (block["baseline"] is None or isinstance(block["baseline"], str)):
        problems.append(f"row.baseline is {block['baseline']!r}, expected an experiment or null")
    if block["source"] not in SOURCES:
        problems.append(f"row.source is {block['source']!r}, allowed are {', '.join(SOURCES)}")
    problems += _seed_problems(block["seeds"])
    paper = block["paper"]
    numbers = isinstance(paper, dict) and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in paper.values()
    )
    if not numbers:
        problems.append(f"row.paper is {paper!r}, expected metric: number (or null) pairs or {{}}")
    elif bool(paper) != (block["source"] == "paper"):
        problems.append("row.paper has numbers exactly when row.source is 'paper'")
    return problems


def _seed_problems(seeds: Any) -> list[str]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if whole and seeds and len(set(seeds)) == len(seeds):
        return []
    return [f"row.seeds is {seeds!r}, expected different whole numbers such as [0, 1, 2]"]
