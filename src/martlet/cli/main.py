"""The entry point: the list of commands, and how failures become messages and exit codes.

Loads a command's module only when it is called, so that `martlet --help` is fast.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from martlet import __version__
from martlet.cli.output import Output, show_failure
from martlet.errors import Exit, MartletError, UsageError
from martlet.model import Reason

INTERRUPTED = 130

COMMANDS = {
    "session": "Start, look at and stop sessions.",
    "migrate": "Move a running session to another node.",
    "node": "Look at the cluster's servers.",
    "ps": "List every process of every session.",
    "kill": "Signal a session or one of its processes.",
    "events": "Show what happened, and what happens.",
    "doctor": "Check this machine and the cluster.",
    "config": "Show the settings of this machine.",
    "lab": "Run a whole cluster on this machine.",
    "image": "Build and list the images that sessions run on.",
}
"""Each command's module in this package has its name and holds it as `command`."""


class Lazy(click.Group):
    """A group whose commands are loaded when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if importlib.util.find_spec(f"martlet.cli.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"martlet.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="martlet")
def martlet() -> None:
    """Move running desktops and programs between servers, unseen by the people who use them.

    \b
    Example:
      martlet lab up
      martlet session start
      martlet migrate SID
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit with its code."""
    raise SystemExit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    _quiet()
    try:
        result = martlet.main(arguments, prog_name="martlet", standalone_mode=False)
        return result if isinstance(result, int) else Exit.DONE
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        show_failure(usage_error(error), wanted_output(arguments))
        return Exit.USAGE
    except click.ClickException as error:
        show_failure(MartletError(error.format_message()), wanted_output(arguments))
        return Exit.FAILED
    except MartletError as error:
        show_failure(error, wanted_output(arguments))
        return error.exit
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


def usage_error(error: click.UsageError) -> UsageError:
    """Click's error about the command line, with where to read on."""
    path = error.ctx.command_path if error.ctx else "martlet"
    reason = Reason(code="usage", text=error.format_message(), hint=f"see '{path} --help'")
    return UsageError("wrong usage", reasons=[reason])


def wanted_output(arguments: Sequence[str]) -> Output:
    """What `--output` says in a command line that may be wrong elsewhere; what follows `--` is not ours."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    pairs = zip(own, [*own[1:], ""], strict=True)
    as_json = any(word == "--output=json" or (word, after) == ("--output", "json") for word, after in pairs)
    return Output.JSON if as_json else Output.TABLE


def _quiet() -> None:
    """Commands print; libraries' log lines appear only when `MARTLET_LOG` asks for them."""
    if os.environ.get("MARTLET_LOG"):
        from martlet import log

        log.setup()
    else:
        logging.getLogger().addHandler(logging.NullHandler())


if __name__ == "__main__":
    main()
