"""The options that every command with a HOST:PORT shares."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jetstreamproto.cli.target import Target, location_argument, target_argument

if TYPE_CHECKING:
    from jetstreamproto.reliability.settings import DatagramSettings

T = TypeVar("T")

TCP, UDP, QUIC = "tcp", "udp", "quic"
AUTO = "auto"

_BBR = "bbr"
_NO_OPTION = "no option"
_GOES_WITH = {"congestion": (UDP, QUIC), "fec": (UDP,), "mtu": (UDP, QUIC)}

_READABLE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder of the identity and the known hosts.",
)


@dataclass(frozen=True)
class ConnectionOptions:
    """What the options say about the server and how to reach it."""

    target: Target
    transport: str = AUTO
    pin: str | None = None
    ca: Path | None = None
    trust_new: bool = False
    state_dir: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    timeout: float = 10.0
    congestion: str | None = None
    fec: str | None = None
    mtu: int | None = None
    profile: str = "default"
    bulk: bool = field(default=False, metadata={_NO_OPTION: True})
    """Whether much is going to be moved; a command says so, there is no option."""

    def __post_init__(self) -> None:
        if self.pin is not None and self.ca is not None:
            raise click.UsageError("give --pin or --ca, not both")
        if self.key is not None and self.cert is None:
            raise click.UsageError("--key needs --cert")
        if self.password_file is not None and self.user is None:
            raise click.UsageError("--password-file needs --user")
        for name, transports in _GOES_WITH.items():
            if getattr(self, name) is not None and self.transport not in transports:
                raise click.UsageError(f"--{name} goes with --transport {' or '.join(transports)}")
        if self.congestion == _BBR and self.transport == QUIC:
            raise click.UsageError("--transport quic has cubic and newreno for --congestion")

    def datagram_settings(self) -> DatagramSettings:
        """How a connection over UDP or QUIC behaves."""
        from jetstreamproto.reliability.settings import DatagramSettings

        given = {"congestion": self.congestion, "fec": self.fec, "mtu": self.mtu}
        return DatagramSettings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


def connection_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command HOST:PORT and the common options, as a `ConnectionOptions` in front."""
    argument = click.argument("target", metavar="HOST:PORT", callback=target_argument)
    return _with_options(command, argument)


def location_options(metavar: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """As `connection_options`, but the target is a `Location`, which may have a path."""
    argument = click.argument("target", metavar=metavar, callback=location_argument)
    return lambda command: _with_options(command, argument)


def _with_options(
    command: Callable[..., T], argument: Callable[[Callable[..., T]], Callable[..., T]]
) -> Callable[..., T]:
    @functools.wraps(command)
    def with_connection(**values: Any) -> T:
        given = [field for field in fields(ConnectionOptions) if _NO_OPTION not in field.metadata]
        mine = {field.name: values.pop(field.name) for field in given}
        return command(ConnectionOptions(**mine), **values)

    for decorate in reversed((argument, *_OPTIONS)):
        decorate(with_connection)
    return with_connection


def _fec(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from jetstreamproto.server.values import read_fec

    try:
        return read_fec(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _pin(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from jetstreamproto.errors import ConfigurationError
    from jetstreamproto.security.identity import parse_fingerprint

    try:
        return parse_fingerprint(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option(
        "--transport",
        type=click.Choice([AUTO, TCP, UDP, QUIC]),
        default=AUTO,
        show_default=True,
        help="How to reach the server; auto takes what serves best.",
    ),
    click.option(
        "--pin",
        metavar="FINGERPRINT",
        callback=_pin,
        help="Trust the server with this fingerprint (see `jetstream identity`) only.",
    ),
    click.option(
        "--ca",
        type=_READABLE,
        metavar="FILE",
        help="Trust a server whose certificate for HOST is from a CA in this PEM file.",
    ),
    click.option(
        "--trust-new", is_flag=True, help="Trust and remember a server seen for the first time."
    ),
    state_dir_option,
    click.option(
        "--cert",
        type=_READABLE,
        metavar="FILE",
        help="Certificate to show if the server asks, in PEM; otherwise this host's identity.",
    ),
    click.option("--key", type=_READABLE, metavar="FILE", help="Its key, if not in the same file."),
    click.option(
        "--user",
        metavar="NAME",
        help="Log in; the password is asked for, or comes from $JETSTREAM_PASSWORD.",
    ),
    click.option(
        "--password-file", type=_READABLE, metavar="FILE", help="The password: its first line."
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long connecting may take.",
    ),
    click.option(
        "--congestion",
        type=click.Choice(["bbr", "cubic", "newreno"]),
        help="udp, quic: congestion control.  [default: bbr; cubic for quic]",
    ),
    click.option(
        "--fec",
        callback=_fec,
        metavar="off|adaptive|K+R",
        help="udp: forward error correction; K+R adds R packets to every K.  [default: adaptive]",
    ),
    click.option(
        "--mtu",
        type=click.IntRange(1200, 65507),
        metavar="N",
        help="udp, quic: bytes in a datagram.  [default: what the path takes]",
    ),
    click.option(
        "--profile",
        type=click.Choice(["default", "low-latency", "bulk", "system"]),
        default="default",
        show_default=True,
        help="Options of the socket; see docs/sockets.md.",
    ),
)
