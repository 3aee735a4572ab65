"""Transports: each turns a kind of socket into a link that carries a session's packets."""
