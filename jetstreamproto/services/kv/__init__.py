"""Key-value: buckets of keys, each with a value or a hash of fields, kept by the server.

`model` has the names, the limits and what a write does; `store` is what a service needs of a
database, and `sqlite` the one that there is; `service` and `watching` are the server's side,
`client` is the other.
"""
