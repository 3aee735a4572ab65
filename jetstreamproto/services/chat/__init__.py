"""Chat: rooms with presence, history, topics and moderation, and direct messages.

`model` has the rules, `registry` and `history` keep what outlives the process, `service` and
`visitor` are the server's side, `client` is the other.
"""
