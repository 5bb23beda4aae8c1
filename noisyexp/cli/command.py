"""The command `noisyexp`: one verb for each thing that people do, one grammar, key=value.

A verb is a module with `main(arguments) -> exit code`, imported when it is called: a table does not
wait for torch. Click lists the verbs and completes them in the shell.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import click
from click.shell_completion import CompletionItem

from noisyexp import __version__
from noisyexp.cli.arguments import HELP
from noisyexp.cli.completion import complete
from noisyexp.cli.verb import say_missing
from noisyexp.process import settle


@dataclass(frozen=True)
class Verb:
    """One verb: the module that has its `main`, and one line for the list."""

    module: str
    help: str


VERBS = {
    "run": Verb("noisyexp.cli.run", "train: one run, or a sweep with -m"),
    "plan": Verb("noisyexp.cli.plan", "say what runs would cost: time, memory, disk"),
    "reproduce": Verb("noisyexp.cli.reproduce", "run what a table of the paper lacks, write it"),
    "report": Verb("noisyexp.cli.report", "average any runs over seeds: table, file or page"),
    "runs": Verb("noisyexp.cli.runs", "list runs with settings and size, or remove some"),
    "queue": Verb("noisyexp.cli.queue", "do the long runs of results/queue.yaml, some at a time"),
    "table": Verb("noisyexp.cli.table", "write the pages of results/ from the run records"),
    "figure": Verb("noisyexp.cli.figure", "draw the figures of results/ from the run records"),
    "publish": Verb("noisyexp.cli.publish", "copy records of finished runs into results/records"),
    "verify": Verb("noisyexp.cli.verify", "train a recorded run again and compare"),
    "evaluate": Verb("noisyexp.cli.evaluate", "measure the weights of a run again"),
    "sample": Verb("noisyexp.cli.sample", "show what a trained model does"),
    "translate": Verb("noisyexp.cli.translate", "translate text with a trained model"),
    "caption": Verb("noisyexp.cli.caption", "describe pictures with a trained model"),
    "inspect": Verb("noisyexp.cli.inspect", "draw a unit: value, spread, gradient, equation"),
    "bench": Verb("noisyexp.cli.bench", "measure layers, tasks, ... beside torch's, in a checkout"),
}

EXAMPLES = """\
\b
Examples
  noisyexp run task=ptb act=nah scale=smoke data=generated
  noisyexp run -m task=ptb act=reference,nan,nah seed=0,1,2 scale=cpu
  noisyexp table 2
  noisyexp inspect act=nah

\b
`noisyexp <verb> --help` says what a verb takes. In a checkout `python run.py` is `noisyexp run`.
Exit status: 0 done, 1 failed or found a difference, 2 refused what was typed; a run has more.
"""


class Verbs(click.Group):
    """Verbs in the order of `VERBS`: what most people want comes first."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Their names."""
        return list(self.commands)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb of a line; the word help is answered with how to ask for help."""
        if args[:1] == [HELP]:
            verb = args[1] if args[1:] and args[1] in VERBS else "<verb>"
            raise click.UsageError(f"use noisyexp --help, or noisyexp {verb} --help", context)
        return super().resolve_command(context, args)


class Words(click.Command):
    """A verb that reads its own words: click hands them on as they are, `--help` too."""

    def __init__(self, name: str, verb: Verb) -> None:
        super().__init__(
            name,
            help=verb.help,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
            params=[
                click.Argument(
                    ["words"], nargs=-1, type=click.UNPROCESSED, shell_complete=self._complete
                )
            ],
            callback=lambda words: run_verb(verb, words),
        )

    def _complete(
        self, context: click.Context, parameter: click.Parameter, word: str
    ) -> list[CompletionItem]:
        return [CompletionItem(found) for found in complete(str(self.name), word)]


def run_verb(verb: Verb, words: Sequence[str]) -> int:
    """Import the verb's module and hand it its words; returns its exit code."""
    settle()
    try:
        code: int = importlib.import_module(verb.module).main(list(words))
    except ModuleNotFoundError as error:  # some are imported when they are needed, to draw for one
        return say_missing(error)
    return code


@click.group(
    "noisyexp",
    cls=Verbs,
    subcommand_metavar="VERB [key=value ...]",
    help="Noisy Activation Functions (Gulcehre et al., 2016): experiments and results.",
    epilog=EXAMPLES,
    commands={name: Words(name, verb) for name, verb in VERBS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="noisyexp")
def command() -> None:
    """The group of all verbs."""


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code: 2 for a word that is no verb."""
    try:
        code = command.main(list(arguments), prog_name="noisyexp", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # what click makes of Ctrl-C
        raise KeyboardInterrupt from None
    return int(code or 0)
