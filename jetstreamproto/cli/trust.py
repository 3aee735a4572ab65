"""Which servers a command believes, who it says it is, and what it asks the person about it."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from jetstreamproto.cli.options import ConnectionOptions
from jetstreamproto.errors import ConfigurationError, UnknownHost
from jetstreamproto.security.identity import IDENTITY_FILE, Identity
from jetstreamproto.security.trust import (
    KNOWN_HOSTS_FILE,
    CertificateAuthority,
    KnownHosts,
    PinnedKeys,
    Trust,
)
from jetstreamproto.state import default_state_dir

PASSWORD_VARIABLE = "JETSTREAM_PASSWORD"

_TERMINAL = "/dev/tty"


def state_dir(options: ConnectionOptions) -> Path:
    """The folder of the identity and the known hosts."""
    return options.state_dir or default_state_dir()


def own_identity(options: ConnectionOptions) -> Identity | None:
    """This host's identity from the state folder, if it has one. Nothing is created."""
    folder = state_dir(options)
    if not (folder / IDENTITY_FILE).exists():
        return None
    return Identity.load_or_create(folder, datetime.now(UTC))


def client_identity(options: ConnectionOptions, own: Identity | None) -> Identity | None:
    """What is shown to a server that asks who we are: --cert, otherwise our `own`."""
    if options.cert is None:
        return own
    try:
        return Identity.from_files(options.cert, options.key)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def server_trust(options: ConnectionOptions, own: Identity | None) -> Trust:
    """Which server is believed: by --ca, by --pin, otherwise by the known-hosts file."""
    if options.ca is not None:
        return CertificateAuthority(options.ca, options.target.host.partition("%")[0])
    if options.pin is not None:
        return PinnedKeys([options.pin])
    known_hosts = KnownHosts(
        state_dir(options) / KNOWN_HOSTS_FILE,
        str(options.target),
        own=own.fingerprint if own is not None else None,
    )
    known_hosts.known()  # a file that cannot be used is better found before there is a connection
    return known_hosts


def credentials(options: ConnectionOptions) -> tuple[str, str] | None:
    """The user name and password of --user; asks for the password where there is a terminal."""
    if options.user is None:
        return None
    if options.password_file is not None:
        return options.user, _first_line(options)
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        if not on_terminal():
            raise click.UsageError(
                f"--user needs a password: give --password-file or ${PASSWORD_VARIABLE}"
            )
        password = click.prompt(f"Password of {options.user}", hide_input=True, err=True)
    return options.user, str(password)


def on_terminal() -> bool:
    """Whether somebody can be asked: errors are shown on a terminal, and it can be read."""
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def accepts(unknown: UnknownHost) -> bool:
    """Ask whether a server seen for the first time is the right one. Waits for the answer."""
    question = (
        f"{unknown.host} is not known here. It shows the fingerprint\n"
        f"  {unknown.fingerprint}\n"
        "Is that what `jetstream identity` says there? Trust it from now on? [y/N] "
    )
    print(question, end="", file=sys.stderr, flush=True)
    with open(_TERMINAL, encoding="utf-8", errors="replace") as terminal:
        return terminal.readline().strip().lower() in ("y", "yes")


def _first_line(options: ConnectionOptions) -> str:
    assert options.password_file is not None
    try:
        text = options.password_file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{options.password_file}: not a readable text file") from error
    return text.split("\n", 1)[0].removesuffix("\r")
