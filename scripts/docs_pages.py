"""Hook of mkdocs: which files the documentation site has, and the pages of its reference.

The site shows the Markdown files where they lie in the repository, so that a link is right on both.
What a page links and is no page (a picture, a table as CSV) is copied. The reference is made from
the code: commands, configuration keys, metrics, and what mkdocstrings makes of the docstrings.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "reference/"
MODULES = {
    "layers": ("noisyexp.nn", "noisyexp.activations"),
    "functional": ("noisyexp.activations.functional",),
    "experiments": (
        "noisyexp.experiments", "noisyexp.tasks", "noisyexp.schema", "noisyexp.records.run_record",
    ),
    "reports": (
        "noisyexp.report.run_set", "noisyexp.report.groups", "noisyexp.report.group_table",
        "noisyexp.report.statistics",
    ),
}  # fmt: skip
"""Modules by their page of the reference."""
TIME = """\
| term | in `run.json` and `records` | meaning |
| --- | --- | --- |
| wall time | `cost.wall_s`, seconds | from begin to end of every process that worked at the run: \
data, updates, evaluations, checkpoints. In reports, lists and plans; hours in the tables of \
the paper. |
| training time | `cost.train_s`, seconds | the part of it inside the updates |
| training time an update | `cost.s_per_step`, seconds | training time by the number of updates: \
ms/step in reports, s/step in the tables of the paper |"""
"""The terms for time, one each, that headings of tables and pages use."""
LINK = re.compile(r"\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the navigation, all that they link, and the reference."""
    from mkdocs.structure.files import File

    for file in list(files):
        if not file.src_uri.startswith("assets/"):
            files.remove(file)
    pages = list(nav_pages(config.nav))
    for name in site_files([page for page in pages if not page.startswith(REFERENCE)]):
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for name in pages:
        if name.startswith(REFERENCE):
            text = reference_page(name.removeprefix(REFERENCE).removesuffix(".md"))
            files.append(File.generated(config, name, content=text))
    return files


def nav_pages(nav: Any) -> Iterator[str]:
    """Files that a navigation names, in its order."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, Mapping) else nav or ():
            yield from nav_pages(part)


def links(text: str) -> list[str]:
    """What a page links in this repository, with its anchor; no code, no addresses."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]+`", "", text)
    found = [a or b for a, b in LINK.findall(text)]
    return [link for link in found if ":" not in link]


def site_files(pages: Sequence[str]) -> list[str]:
    """The pages, and every file that can be reached from them by links, as paths below `ROOT`."""
    found: dict[str, None] = {}
    waiting = [*pages]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found[name] = None
        if name.endswith(".md"):
            folder = (ROOT / name).parent
            for link in links((ROOT / name).read_text("utf-8")):
                path = (folder / link.partition("#")[0]).resolve()
                if path.is_file():  # mkdocs itself complains about what is not there
                    waiting.append(PurePosixPath(path.relative_to(ROOT)).as_posix())
    return list(found)


def reference_page(name: str) -> str:
    """Markdown of a page of the reference."""
    made = {"commands": commands_page, "keys": keys_page, "metrics": metrics_page}
    if name in made:
        return made[name]()
    return "\n\n".join(f"::: {module}" for module in MODULES[name]) + "\n"


def commands_page() -> str:
    """`--help` of every verb."""
    from noisyexp.cli.command import VERBS

    parts = ["# Commands\n\n`noisyexp <verb> --help` prints the same."]
    for name, verb in VERBS.items():
        out = io.StringIO()
        try:
            with redirect_stdout(out):
                importlib.import_module(verb.module).main(["--help"])
        except SystemExit:
            pass
        parts.append(f"## {name}\n\n```text\n{out.getvalue().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def keys_page() -> str:
    """Every key of the configuration, those of the tasks after those that all have."""
    from noisyexp.cli.compose import hydra_session
    from noisyexp.cli.config_groups import Groups
    from noisyexp.cli.help import Key, keys_of

    with hydra_session() as loader:
        choices = Groups(loader, []).options("task")
    tasks = {name: keys_of([f"task={name}"]) for name in choices}
    sections: dict[str, list[Key]] = {}
    for key in tasks["ptb"]:
        room, dot, _ = key.name.partition(".")
        if room != "task":
            sections.setdefault(room if dot else "Of the run", []).append(key)
    parts = [
        "# Configuration keys\n\n`noisyexp run task=ptb --help` prints the keys of a task, "
        "`noisyexp run training --help` those of a section. Defaults of `training` are those of "
        "`task=ptb`; every task has its own.",
        *(f"## {name}\n\n{_table(keys)}" for name, keys in sections.items()),
    ]
    for name, keys in tasks.items():
        own = [key for key in keys if key.name.startswith("task.")]
        parts.append(f"## task={name}\n\n{_table(own)}")
    return "\n\n".join(parts) + "\n"


def _table(keys: Sequence[Any]) -> str:
    lines = ["| key | default | meaning | value |", "| --- | --- | --- | --- |"]
    for key in keys:
        # data.root is NOISYEXP_DATA of whoever builds the page.
        text = "data" if key.name == "data.root" else key.default
        default = f"`{text}`" if text else ""
        lines.append(f"| `{key.name}` | {default} | {_cell(key.meaning)} | {_cell(key.kind)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def metrics_page() -> str:
    """What every task reports."""
    from noisyexp.tasks import find_task, task_names

    parts = [
        "# Metrics\n\nWhat the tasks report, as `noisyexp report metric=...` takes it. The metric "
        "that selects decides which weights are best; it is of validation data.",
        f"## Time\n\n{TIME}",
    ]
    for name in task_names():
        task = find_task(name)
        lines = ["| name | label | unit | better is | |", "| --- | --- | --- | --- | --- |"]
        for key, metric in task.metrics.items():
            better = "smaller" if metric.direction == "min" else "larger"
            selects = "selects" if key == task.selection else ""
            lines.append(
                f"| `{key}` | {_cell(metric.label)} | {_cell(metric.unit)} | {better} | {selects} |"
            )
        parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"
