"""Events: topics, live fan-out, durable streams and consumers (docs/events.md)."""
