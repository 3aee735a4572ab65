"""Bytes and limits: FlatBuffers packets, framing of byte streams, compression. No I/O, no clock."""
