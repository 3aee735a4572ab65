"""The `jetstream` command: one file a command, and the nouns they share."""
