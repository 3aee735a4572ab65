"""What JetStreamProto adds to Twisted: `twistd jetstream`, reactors, and `jetstream:`
in endpoint strings.

Twisted imports every plugin file whenever it looks for any plugin, so this one only declares,
and names the modules that do the work.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

from jetstreamproto.endpoints.strings import ClientParser, ServerParser

jetstream_server = ServiceMaker(
    "JetStream",
    "jetstreamproto.server.tap",
    "Encrypted, multiplexed messages and streams over TCP, QUIC and UDP.",
    "jetstream",
)

jetstream_epoll = Reactor(
    "jetstream-epoll",
    "jetstreamproto.reactors.tuned",
    "epoll, with a socket profile ($JETSTREAM_PROFILE) for every TCP and UDP socket.",
)

jetstream_uring = Reactor(
    "jetstream-uring",
    "jetstreamproto.reactors.uring",
    "io_uring, where the kernel has it, and else jetstream-epoll; with socket profiles.",
)

jetstream_client_endpoints = ClientParser()
jetstream_server_endpoints = ServerParser()
