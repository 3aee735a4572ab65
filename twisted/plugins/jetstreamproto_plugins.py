"""What JetStreamProto adds to Twisted: `twistd jetstream`, and `jetstream:` in endpoint strings.

Twisted imports every plugin file whenever it looks for any plugin, so this one only declares,
and names the modules that do the work.
"""

from twisted.application.service import ServiceMaker

from jetstreamproto.endpoints.strings import ClientParser, ServerParser

jetstream_server = ServiceMaker(
    "JetStream",
    "jetstreamproto.server.tap",
    "Encrypted, multiplexed messages and streams over TCP.",
    "jetstream",
)

jetstream_client_endpoints = ClientParser()
jetstream_server_endpoints = ServerParser()
