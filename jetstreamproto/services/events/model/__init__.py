"""The rules of events, without I/O: topics, limits, streams, and what consumers have to get."""
