"""TLS peers that were not written for this protocol, and what a hello of ours says to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from jetstreamproto.security.handshake import ALPN, Role, TlsContext
from jetstreamproto.security.identity import Identity


def foreign_connection(
    role: Role,
    *,
    version: int = SSL.TLS1_3_VERSION,
    alpn: Sequence[bytes] = (ALPN,),
    ciphers: bytes | None = None,
    curve: ec.EllipticCurve | None = None,
    identity: Identity | None = None,
) -> SSL.Connection:
    """A TLS peer that was not written for this protocol."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(version)
    if ciphers is not None:
        context.set_tls13_ciphersuites(ciphers)
    if curve is not None:
        context.set_tmp_ecdh(curve)  # and no other group
    if identity is not None:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
    if alpn and role is Role.CLIENT:
        context.set_alpn_protos(list(alpn))
    elif alpn:
        context.set_alpn_select_callback(
            lambda _, offered: next(
                (name for name in alpn if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS
            )
        )
    connection = SSL.Connection(context, None)
    if role is Role.CLIENT:
        connection.set_connect_state()
    else:
        connection.set_accept_state()
    return connection


@contextlib.contextmanager
def older_servers() -> Iterator[None]:
    """Servers know none of the groups that clients make keys of, so they ask for another."""
    connection = TlsContext.connection

    def older(tls: TlsContext) -> SSL.Connection:
        if tls.role is Role.SERVER:
            tls._context.set_tmp_ecdh(ec.SECP256R1())
        return connection(tls)

    with patch.object(TlsContext, "connection", older):
        yield


def groups_of(flight: bytes) -> tuple[list[int], list[int]]:
    """The groups that a ClientHello offers, and those that it has keys of (RFC 8446 section 4)."""
    hello = flight[9:]  # behind the headers of the record and the message
    at = 2 + 32  # version and random
    at += 1 + hello[at]  # session id
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
    at += 1 + hello[at]  # compression methods
    extensions = by_number(hello[at:])
    offered = extensions[10][2:]
    return (
        [int.from_bytes(offered[at : at + 2], "big") for at in range(0, len(offered), 2)],
        list(by_number(extensions[51])),
    )


def by_number(block: bytes) -> dict[int, bytes]:
    """What is in a vector of numbers, each with a vector of bytes."""
    found, at = {}, 2
    while at < len(block):
        number, size = (int.from_bytes(block[at + n : at + n + 2], "big") for n in (0, 2))
        found[number] = block[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def drive(foreign: SSL.Connection) -> bytes:
    """Let a foreign peer work with what it was given; what it has to say."""
    with contextlib.suppress(SSL.WantReadError):
        foreign.do_handshake()
    try:
        return foreign.bio_read(1 << 16)
    except SSL.WantReadError:
        return b""
