"""What JetStreamProto adds to Twisted's own programs: `twistd jetstream`.

Twisted imports every plugin file whenever it looks for any plugin, so this one only declares,
and names the modules that do the work.
"""

from twisted.application.service import ServiceMaker

jetstream_server = ServiceMaker(
    "JetStream",
    "jetstreamproto.server.tap",
    "Encrypted, multiplexed messages and streams over TCP.",
    "jetstream",
)
