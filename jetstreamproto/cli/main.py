"""The `jetstream` command."""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module

import click

from jetstreamproto._version import __version__
from jetstreamproto.cli.failure import ExitStatus, Interrupted, NobodyReads, StreamFailed, describe
from jetstreamproto.cli.output import note, show_error

PROGRAM = "jetstream"


_COMMANDS = (
    "bench",
    "call",
    "chat",
    "describe",
    "doctor",
    "echo",
    "get",
    "identity",
    "kv",
    "ls",
    "ping",
    "pub",
    "send",
    "services",
    "stream",
    "sub",
    "tunnel",
)
"""Each is what has that name in the module of that name."""


class CommandGroup(click.Group):
    """Imports a command when it is asked for, so that none waits for what others need."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS and name not in self.commands:
            self.add_command(getattr(import_module(f"jetstreamproto.cli.{name}"), name))
        return super().get_command(context, name)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def jetstream() -> None:
    """Talk to a JetStream server.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 server not trusted, 4 not allowed there,
    5 timed out.
    """


def main() -> int:
    """The entry point: runs the command line, and returns the exit status.

    A command that is stopped by a signal, or writes to a pipe that nobody reads, ends by that
    signal, as a shell expects.
    """
    gc.disable()  # until `run`: what is imported stays, and looking through it takes a third longer
    arguments = sys.argv[1:]
    try:
        status = jetstream.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.Abort:  # Ctrl-C before there was a reactor
        return _stopped(signal.SIGINT, "--json" in arguments)
    except Interrupted as stop:
        return _stopped(stop.signal_number, "--json" in arguments)
    except NobodyReads:
        return _end_by(signal.SIGPIPE)
    except Exception as error:
        return _failed(error, "--json" in arguments)
    finally:
        gc.enable()
    return status if isinstance(status, int) else ExitStatus.DONE


def _stopped(number: int, as_json: bool) -> int:
    if as_json:
        _show_error("Interrupted", "interrupted")
    return _end_by(number)


def _failed(error: Exception, as_json: bool) -> int:
    failure = describe(error)
    if isinstance(error, click.ClickException):
        error.show()
    else:
        if not failure.expected:
            import traceback

            traceback.print_exception(error)
        note(f"{PROGRAM}: {failure.message}")
    if isinstance(error, StreamFailed):
        _discard_output()
    elif as_json:
        _show_error(failure.kind, failure.message)
    return failure.status


def _show_error(kind: str, message: str) -> None:
    try:
        show_error(kind, message)
    except (NobodyReads, StreamFailed):
        _discard_output()


def _discard_output() -> None:
    """Or else Python tries once more to write what is left, and complains, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end_by(number: int) -> int:
    """End this process as the signal would have, so that a shell's loop or `pipefail` sees it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # only where the signal is blocked
