"""The server's configuration: every setting with its kind, its default and its explanation.

Each is an option of `twistd jetstream` (`--max-sessions`) and a key of its TOML file
(`max_sessions`); the option wins. The rules of access stand in the file only, as `[[allow]]`.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Mapping
from pathlib import Path

import attrs

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.settings import (
    DEFAULT_DATAGRAM_SETTINGS,
    MAX_DATAGRAM,
    MIN_DATAGRAM,
    DatagramSettings,
)
from jetstreamproto.security.trust import CertificateAuthority, PinnedKeys, Trust
from jetstreamproto.server.access import AllowRule
from jetstreamproto.server.listeners import QUIC, TRANSPORTS
from jetstreamproto.server.values import (
    Flag,
    Kind,
    Location,
    Names,
    Seconds,
    Shared,
    SharedFolder,
    Size,
    Whole,
    Word,
    read_congestion,
    read_fec,
)
from jetstreamproto.services.rpc.model import read_target
from jetstreamproto.services.tunnel.model import DEFAULT_LIMITS
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings
from jetstreamproto.sockets.profiles import (
    DEFAULT_PROFILE,
    PROFILES,
    SocketProfile,
    find_profile,
)
from jetstreamproto.state import default_state_dir
from jetstreamproto.transports.admission import AdmissionLimits
from jetstreamproto.transports.shared_port import MAX_WORKERS

_KIND, _HELP = "kind", "help"
_MANY = 10_000_000
_YEAR = 366 * 86400.0
_MAX_MESSAGE = (1 << 32) - 1  # what HELLO can announce
_QUIC_LIBRARY = "aioquic"
_LIMITS = AdmissionLimits()
_UDP = DEFAULT_DATAGRAM_SETTINGS


def read_address(text: str) -> str:
    """An IP address in its canonical form, given with or without the brackets of IPv6."""
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        raise ValueError(
            f"{text!r} is not an IP address, such as 127.0.0.1, ::1, 0.0.0.0 or ::"
        ) from None


def read_transport(text: str) -> str:
    """The name of a transport that there is."""
    if text not in TRANSPORTS:
        raise ValueError(f"{text!r} is not a transport; there is {', '.join(TRANSPORTS)}")
    if text not in available_transports():
        raise ValueError(f"{text} needs the package {_QUIC_LIBRARY}, which is not installed")
    return text


def available_transports() -> tuple[str, ...]:
    """The transports whose packages are installed."""
    quic = importlib.util.find_spec(_QUIC_LIBRARY) is not None
    return tuple(name for name in TRANSPORTS if name != QUIC or quic)


def _about(kind: Kind, explanation: str) -> dict[str, object]:
    return {_KIND: kind, _HELP: explanation}


@attrs.frozen(kw_only=True)
class ServerConfig:
    """What a server is told. Raises `ConfigurationError` for settings that contradict."""

    port: int = attrs.field(
        default=9000,
        metadata=_about(Whole(0, 65535), "Port to listen on; 0 takes a free one. [9000]"),
    )
    interface: tuple[str, ...] = attrs.field(
        default=("127.0.0.1",),
        metadata=_about(
            Names(read_address),
            "IP address to listen on; several by commas or by giving this again. [127.0.0.1]",
        ),
    )
    transports: tuple[str, ...] = attrs.field(
        factory=available_transports,
        metadata=_about(
            Names(read_transport),
            "Transports to offer on the port: tcp, udp, quic. [tcp,udp,quic]",
        ),
    )
    profile: str = attrs.field(
        default=DEFAULT_PROFILE.name,
        metadata=_about(
            Word(str),
            f"Options of the sockets: {', '.join(PROFILES)}, or one of the file's [profiles.NAME]."
            f" [{DEFAULT_PROFILE.name}]",
        ),
    )
    profiles: Mapping[str, SocketProfile] = attrs.field(factory=dict)
    congestion: str = attrs.field(
        default=_UDP.congestion,
        metadata=_about(
            Word(read_congestion),
            f"Congestion control over UDP: bbr, cubic or newreno. [{_UDP.congestion}]",
        ),
    )
    fec: str = attrs.field(
        default=_UDP.fec,
        metadata=_about(
            Word(read_fec),
            "Forward error correction over UDP: off, adaptive (for channels with a deadline), or"
            f" K+R, which adds R packets to every K. [{_UDP.fec}]",
        ),
    )
    udp_mtu: int = attrs.field(
        default=_UDP.mtu,
        metadata=_about(
            Whole(0, MAX_DATAGRAM),
            f"Bytes in a UDP datagram, from {MIN_DATAGRAM}; 0 finds out what the path takes. [0]",
        ),
    )
    udp_send_window: int = attrs.field(
        default=_UDP.send_window,
        metadata=_about(
            Size(1 << 18, 1 << 40),
            "Bytes a UDP connection may have under way, whatever congestion control says. [64M]",
        ),
    )
    udp_receive_window: int = attrs.field(
        default=_UDP.receive_window,
        metadata=_about(
            Size(1 << 18, 1 << 40),
            "Bytes that a UDP connection takes beyond what it has in order. [32M]",
        ),
    )
    udp_tick: float = attrs.field(
        default=_UDP.tick,
        metadata=_about(
            Seconds(1.0), "Shortest time between two bursts of a UDP connection. [0.001]"
        ),
    )
    status_interval: float = attrs.field(
        default=_UDP.status_interval,
        metadata=_about(
            Seconds(_YEAR, zero=True),
            "Seconds between two log lines with the figures of each UDP connection; 0 for none."
            " [0]",
        ),
    )
    workers: int = attrs.field(
        default=1,
        metadata=_about(
            Whole(1, MAX_WORKERS), "Processes that share the port and the limits below. [1]"
        ),
    )
    state_dir: Path = attrs.field(
        factory=default_state_dir,
        metadata=_about(
            Location(), "Folder of the identity. [$JETSTREAM_HOME, else ~/.local/state/jetstream]"
        ),
    )
    data_dir: Path = attrs.field(
        default=attrs.Factory(lambda self: self.state_dir / "data", takes_self=True),
        metadata=_about(Location(), "Folder of what services keep. [data in the state folder]"),
    )
    kv_size: int = attrs.field(
        default=1 << 30,
        metadata=_about(
            Size(1 << 20, 1 << 45), "Bytes of disk that key-value may take, from 1M. [1G]"
        ),
    )
    cert: Path | None = attrs.field(
        default=None,
        metadata=_about(
            Location(), "PEM file with the certificate (and its chain) to show instead."
        ),
    )
    key: Path | None = attrs.field(
        default=None,
        metadata=_about(Location(), "PEM file with the key of --cert, if it is not in that file."),
    )
    clients: Path | None = attrs.field(
        default=None,
        metadata=_about(
            Location(), "File with the fingerprints of the clients to let in, one a line."
        ),
    )
    client_ca: Path | None = attrs.field(
        default=None,
        metadata=_about(Location(), "PEM file with the CAs whose clients are let in."),
    )
    auth: tuple[str, ...] = ()
    allow_anonymous: bool = attrs.field(
        default=False,
        metadata=_about(Flag(), "Let in clients that do not say who they are, from any host."),
    )
    max_sessions: int = attrs.field(
        default=_LIMITS.sessions,
        metadata=_about(Whole(1, _MANY), f"Connections at a time. [{_LIMITS.sessions}]"),
    )
    max_sessions_per_address: int = attrs.field(
        default=_LIMITS.sessions_per_address,
        metadata=_about(
            Whole(1, _MANY),
            f"Connections at a time from one address. [{_LIMITS.sessions_per_address}]",
        ),
    )
    max_half_open: int = attrs.field(
        default=_LIMITS.half_open,
        metadata=_about(
            Whole(1, _MANY),
            f"Connections at a time that have not proved themselves. [{_LIMITS.half_open}]",
        ),
    )
    max_message: int = attrs.field(
        default=DEFAULT_SETTINGS.max_message,
        metadata=_about(Size(1, _MAX_MESSAGE), "Largest message to accept, in bytes. [16M]"),
    )
    heartbeat: float = attrs.field(
        default=DEFAULT_SETTINGS.heartbeat,
        metadata=_about(
            Seconds(_YEAR),
            f"Quiet seconds after which a peer must answer. [{DEFAULT_SETTINGS.heartbeat:g}]",
        ),
    )
    idle_timeout: float = attrs.field(
        default=DEFAULT_SETTINGS.idle_timeout,
        metadata=_about(
            Seconds(_YEAR),
            f"Quiet seconds after which a peer is dead. [{DEFAULT_SETTINGS.idle_timeout:g}]",
        ),
    )
    drain_timeout: float = attrs.field(
        default=DEFAULT_SETTINGS.drain_timeout,
        metadata=_about(
            Seconds(_YEAR),
            "Seconds for sessions to finish when the server stops, and again for their peers to"
            f" agree. [{DEFAULT_SETTINGS.drain_timeout:g}]",
        ),
    )
    tunnel_connections: int = attrs.field(
        default=DEFAULT_LIMITS.connections,
        metadata=_about(
            Whole(1, _MANY),
            "TCP connections that the tunnel carries at a time for each session."
            f" [{DEFAULT_LIMITS.connections}]",
        ),
    )
    files: SharedFolder | None = attrs.field(
        default=None,
        metadata=_about(
            Shared(), "Folder to serve, as DIR for reading or DIR:rw for writing, too. [none]"
        ),
    )
    rpc: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_about(
            Names(read_target),
            "MODULE:OBJECT of a class or object whose methods may be called; several by commas."
            " [none]",
        ),
    )
    allow: tuple[AllowRule, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.key is not None and self.cert is None:
            raise ConfigurationError("--key is of no use without --cert")
        if self.clients is not None and self.client_ca is not None:
            raise ConfigurationError("--clients and --client-ca exclude each other")
        certificates = self.clients is not None or self.client_ca is not None
        if certificates and self.allow_anonymous:
            raise ConfigurationError(
                "--allow-anonymous contradicts --clients and --client-ca: these ask every client"
                " for a certificate"
            )
        try:
            _ = self.socket_profile
        except ConfigurationError as error:
            raise ConfigurationError(f"--profile: {error}") from None
        if self.heartbeat > self.idle_timeout:
            raise ConfigurationError(
                f"--heartbeat {self.heartbeat:g} is longer than --idle-timeout"
                f" {self.idle_timeout:g}"
            )
        if 0 < self.udp_mtu < MIN_DATAGRAM:
            raise ConfigurationError(
                f"--udp-mtu: {self.udp_mtu} is neither 0 nor from {MIN_DATAGRAM} to {MAX_DATAGRAM}"
            )
        if not (certificates or self.auth or self.allow_anonymous):
            self._stay_on_loopback()

    def _stay_on_loopback(self) -> None:
        for interface in self.interface:
            if not ipaddress.ip_address(interface).is_loopback:
                raise ConfigurationError(
                    f"--interface {interface} lets other hosts in: say whom with --clients,"
                    " --client-ca or --auth, or let in anyone with --allow-anonymous"
                )

    @property
    def socket_profile(self) -> SocketProfile:
        """What is set on the server's sockets."""
        return find_profile(self.profile, {**PROFILES, **self.profiles})

    def client_trust(self) -> Trust | None:
        """Who judges the clients' certificates; None when they are not asked for any."""
        if self.clients is not None:
            return PinnedKeys.from_file(self.clients)
        return None if self.client_ca is None else CertificateAuthority(self.client_ca)

    def session_settings(self) -> SessionSettings:
        """The settings of every session."""
        return SessionSettings(
            max_message=self.max_message,
            max_assembly=max(DEFAULT_SETTINGS.max_assembly, self.max_message),
            heartbeat=self.heartbeat,
            idle_timeout=self.idle_timeout,
            drain_timeout=self.drain_timeout,
        )

    def datagram_settings(self) -> DatagramSettings:
        """The settings of every connection over UDP."""
        return DatagramSettings(
            congestion=self.congestion,
            fec=self.fec,
            mtu=self.udp_mtu,
            send_window=self.udp_send_window,
            receive_window=self.udp_receive_window,
            tick=self.udp_tick,
            heartbeat=self.heartbeat,
            idle_timeout=self.idle_timeout,
            status_interval=self.status_interval,
        )

    def admission_limits(self, workers: int = 1) -> AdmissionLimits:
        """How many connections are let in by one of so many processes."""
        return AdmissionLimits(
            sessions=-(-self.max_sessions // workers),
            sessions_per_address=self.max_sessions_per_address,
            half_open=-(-self.max_half_open // workers),
        )


KINDS: Mapping[str, Kind] = {
    field.name: field.metadata[_KIND]
    for field in attrs.fields(ServerConfig)
    if _KIND in field.metadata
}
"""The kind of each setting that has an option of its own, by name."""

EXPLANATIONS: Mapping[str, str] = {
    field.name: field.metadata[_HELP]
    for field in attrs.fields(ServerConfig)
    if _HELP in field.metadata
}


def option_name(key: str) -> str:
    """The option of a setting, without its leading dashes."""
    return key.replace("_", "-")
