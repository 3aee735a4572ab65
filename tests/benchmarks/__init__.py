"""Programs that measure JetStreamProto against its peers: `python -m tests.benchmarks.NAME`.

Each one runs ours and the peers in turns, over 127.0.0.1, server and client in processes of their
own. `docs/benchmarks.md` has the method and the figures.
"""
