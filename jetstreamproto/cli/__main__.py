"""`python -m jetstreamproto.cli` is the `jetstream` command."""

from __future__ import annotations

import sys

from jetstreamproto.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
