"""Tunnel: TCP connections carried through a session, in both directions.

`model` has the rules of access, `socks5` the proxy's side of RFC 1928. `relay` joins a channel to
a TCP connection (`tcp`), which `dialling` makes or `calling` was given by a port. `service` is the
server's side and `client` the other.
"""
