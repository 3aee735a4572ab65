"""For tests of applications built on JetStreamProto: no sockets, no sleeping."""

from jetstreamproto.testing.pair import SessionPair

__all__ = ["SessionPair"]
