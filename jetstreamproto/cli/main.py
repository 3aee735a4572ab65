"""The `jetstream` command."""

from __future__ import annotations

import os
import signal
import sys

import click

from jetstreamproto._version import __version__
from jetstreamproto.cli.bench import bench
from jetstreamproto.cli.call import call
from jetstreamproto.cli.chat import chat
from jetstreamproto.cli.describe import describe as describe_service
from jetstreamproto.cli.doctor import doctor
from jetstreamproto.cli.echo import echo
from jetstreamproto.cli.failure import ExitStatus, Interrupted, NobodyReads, StreamFailed, describe
from jetstreamproto.cli.get import get
from jetstreamproto.cli.identity import identity
from jetstreamproto.cli.kv import kv
from jetstreamproto.cli.ls import ls
from jetstreamproto.cli.output import note, show_error
from jetstreamproto.cli.ping import ping
from jetstreamproto.cli.pub import pub
from jetstreamproto.cli.send import send
from jetstreamproto.cli.services import services
from jetstreamproto.cli.stream import stream
from jetstreamproto.cli.sub import sub
from jetstreamproto.cli.tunnel import tunnel

PROGRAM = "jetstream"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def jetstream() -> None:
    """Talk to a JetStream server.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 server not trusted, 4 not allowed there,
    5 timed out.
    """


for command in (
    ping,
    echo,
    bench,
    identity,
    tunnel,
    send,
    get,
    ls,
    doctor,
    call,
    services,
    describe_service,
    kv,
    chat,
    pub,
    sub,
    stream,
):
    jetstream.add_command(command)


def main() -> int:
    """The entry point: runs the command line, and returns the exit status.

    A command that is stopped by a signal, or writes to a pipe that nobody reads, ends by that
    signal, as a shell expects.
    """
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
