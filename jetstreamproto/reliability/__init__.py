"""Reliable, congestion-controlled delivery over datagrams: no I/O, no clock, no randomness."""
