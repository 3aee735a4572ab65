"""Every exception JetStreamProto raises, in one tree under `JetStreamError`.

Catch `JetStreamError` for all of them, or a branch of it: `WireError` for bytes that are not
what they claim to be, `HandshakeError` (and `TrustError` in it) for a session that never came
to be, `SessionError` for one that ended, `ChannelError` for one channel of a living session.
"""

from __future__ import annotations

from enum import IntEnum


class JetStreamError(Exception):
    """The root of the tree."""


class ConfigurationError(JetStreamError):
    """A setting, key file or option cannot be used; the message names it."""


class WireError(JetStreamError, ValueError):
    """Bytes from outside break a rule of the wire format; the message names the rule."""


class FrameTooLong(WireError):
    """A frame announces, or already has, more bytes than the receiver allows."""


class SchemaError(JetStreamError, ValueError):
    """A FlatBuffers schema uses something that the layout compiler does not support."""


# --- before a session exists -------------------------------------------------------------


class HandshakeError(JetStreamError):
    """The handshake failed; the message says what the peer or this side refused."""


class HandshakeTimeout(HandshakeError):
    """The peer did not finish the handshake within its deadline."""


class NothingListens(HandshakeError):
    """The host says that nothing listens on that UDP port."""


class NotJetStream(HandshakeError):
    """The peer speaks something else on this port."""


class Refused(HandshakeError):
    """The peer turned this session away: it is full, closing, or does not know us."""


class NotLetIn(Refused):
    """The peer does not accept our certificate, or our user name and password."""


class TrustError(HandshakeError):
    """The peer's identity is not one that this side trusts."""


class UnknownHost(TrustError):
    """First contact: the known-hosts file has no entry for this server.

    `host` is the name the entry would have, `fingerprint` what the server showed.
    """

    def __init__(self, host: str, fingerprint: str) -> None:
        super().__init__(f"{host} is not known here; it shows the fingerprint {fingerprint}")
        self.host = host
        self.fingerprint = fingerprint


class WrongFingerprint(TrustError):
    """The server's key is not the pinned or known one."""


class CertificateRejected(TrustError):
    """A certificate is expired, not yet valid, for another name, or from an unknown CA."""


# --- a session that ended ----------------------------------------------------------------


class SessionError(JetStreamError):
    """The session cannot go on."""


class SessionClosed(SessionError):
    """The session was ended properly, by either side, so nothing more can be sent."""


class SessionCut(SessionError):
    """The connection broke without the peer's authenticated end: data may be missing."""


class PeerSilent(SessionCut):
    """The peer answered no heartbeat within the idle timeout."""


class ProtocolViolation(SessionError):
    """The peer broke a rule of the session protocol; the session was ended for it."""


# --- one channel -------------------------------------------------------------------------


class ChannelError(JetStreamError):
    """Something about one channel; the session lives on."""


class ChannelClosed(ChannelError):
    """This side of the channel has already been ended."""


class ChannelReset(ChannelError):
    """The channel was cut short by either side, with a code (see `ResetCode`) and a reason."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"channel reset, code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class ServiceNotFound(ChannelReset):
    """The peer offers no service of that name."""


class NotAllowed(ChannelReset):
    """The peer's access rules do not let us use that service."""


class MessageTooLarge(ChannelError):
    """A message is larger than the peer (or this side) accepts."""


class QueueFull(ChannelError):
    """More is waiting to be sent than the channel may hold; wait for it to drain."""


# --- files -------------------------------------------------------------------------------


class FileError(JetStreamError):
    """A file or folder cannot be sent, taken or kept; the message says why.

    `code` is one of `jetstreamproto.services.files.model.FileCode`.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


# --- calls -------------------------------------------------------------------------------


class RpcError(JetStreamError):
    """A call failed; methods raise it to say how.

    `status` is a `jetstreamproto.RpcStatus`, `details` any value that a result could be.
    `started` is False where the method has certainly not been run, so that the call may be
    repeated whatever it does.
    """

    def __init__(
        self, status: IntEnum, message: str = "", details: object = None, *, started: bool = True
    ) -> None:
        super().__init__(f"{status.name}: {message}" if message else status.name)
        self.status = status
        self.message = message
        self.details = details
        self.started = started


# --- events ------------------------------------------------------------------------------


class EventError(JetStreamError, ValueError):
    """Something about events was refused; the message says why.

    `code` is one of `jetstreamproto.services.events.model.codes.EventCode`.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


# --- key-value ---------------------------------------------------------------------------


class KeyValueError(JetStreamError):
    """The server refuses a request; `code` is a `Status` of `services.kv.model`.

    `position` says which write of a batch is the reason, from 0 on, if it is one of them.
    """

    def __init__(self, code: int, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.position = position


class RevisionConflict(KeyValueError):
    """A key has another revision than a write asked for: `revision`, 0 if it is not there."""

    def __init__(self, code: int, reason: str, revision: int, position: int | None = None) -> None:
        super().__init__(code, reason, position)
        self.revision = revision


# --- chat --------------------------------------------------------------------------------


class ChatError(JetStreamError):
    """The server refuses something in a chat; the message says why.

    `code` is a `jetstreamproto.services.chat.model.codes.ChatCode`. `retry_after` is the seconds
    after which the same would be taken, where that is known.
    """

    def __init__(self, code: int, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
