"""Ours and its peers. Each module has a coroutine function `TASK(reactor, job)` for each task that
it can be the client of, and `server(job)`, which makes the factory to listen with over TCP; or
`listen(reactor, job)`, a coroutine function which listens by itself and returns the port. It may
have `install_reactor()` if the epoll reactor will not do.

A name such as `udp-fec-1472` is a variant of the module in front of the first dash.
"""
