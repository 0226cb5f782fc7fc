"""`headrace …`: finds the command, imports only its module, and reports an error in one sentence.

Exit codes: 0 done; 1 an error of another kind; 2 a setting or an argument is wrong; 3 the task failed or was cancelled;
4 no such task or kind; 5 the gateway or Kafka does not answer; 130 interrupted.
"""

import difflib
import errno
import importlib
import io
import sys

import click

from headrace import __version__
from headrace.errors import HeadraceError

# Command -> module:attribute. Importing all of them would take longer than most commands do.
COMMANDS: dict[str, str] = {
    "up": "headrace.cli.roles:up",
    "gateway": "headrace.cli.roles:gateway",
    "worker": "headrace.cli.roles:worker",
    "storekeeper": "headrace.cli.roles:storekeeper",
    "analytics": "headrace.cli.roles:analytics",
    "topics": "headrace.cli.topics:topics",
    "submit": "headrace.cli.tasks:submit",
    "produce": "headrace.cli.produce:produce",
    "status": "headrace.cli.tasks:status",
    "events": "headrace.cli.tasks:events",
    "result": "headrace.cli.tasks:result",
    "log": "headrace.cli.tasks:log",
    "cancel": "headrace.cli.tasks:cancel",
    "dead": "headrace.cli.dead:dead",
    "kinds": "headrace.cli.tasks:kinds",
    "nodes": "headrace.cli.tasks:nodes",
    "why": "headrace.cli.why.command:why",
    "health": "headrace.cli.health:health",
    "chaos": "headrace.cli.chaos:chaos",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called or described."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, 1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Serverless-style compute on Apache Kafka alone.

    Start with `headrace up`, then `headrace submit`. Every option is also an environment variable; see the help of each
    command.

    Exit codes: 0; 1 an error of another kind; 2 usage; 3 the task failed or was cancelled; 4 no such task or kind; 5
    the gateway or Kafka does not answer.
    """


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code. An error that the user can fix is one sentence, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks must not end a command
    try:
        result = cli.main(args=arguments, prog_name="headrace", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.Abort:
        return 130
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except HeadraceError as e:
        click.echo(f"headrace: {e}", err=True)
        return e.exit_code
    except BrokenPipeError:  # as in `headrace events | head`
        sys.stderr.close()
        return 0
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        click.echo(f"headrace: cannot write {e.filename or 'the output'} ({e.strerror}): make room", err=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
