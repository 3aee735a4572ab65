"""Opening a client's session: over one transport, or over the one that serves best.

`destination.Destination` is what everything else uses: applications by way of `client`, the
endpoints, and the command line.
"""
