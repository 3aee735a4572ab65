"""Programs that measure JetStreamProto against its peers: `python -m tests.benchmarks.NAME`.

Each one runs ours and the peers in turns, server and client in processes of their own, over
127.0.0.1 or (`wan`, `events`, `sharing`) over emulated links, which need root on Linux.
`docs/benchmarks.md` has the method and the figures.
"""
