"""Ours and its peers. Each module has `server(job)`, which makes the factory to listen with, and
a coroutine function `TASK(reactor, job)` for each task that it can be the client of.
"""
