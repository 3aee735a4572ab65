"""The server behind `twistd jetstream`: its options, who may do what, and its life."""
