"""Forward error correction: repair symbols that spare a round trip."""
