"""For tests of applications built on JetStreamProto: no sockets, no sleeping."""

from jetstreamproto.testing.datagram_pair import DatagramPair
from jetstreamproto.testing.linkmodel import LinkOptions
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.testing.simnet import SimulatedNetwork

__all__ = ["DatagramPair", "LinkOptions", "SessionPair", "SimulatedNetwork"]
