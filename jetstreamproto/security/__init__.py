"""Identity, trust, the TLS 1.3 handshake, and records sealed with its keys. No I/O, no clock."""
