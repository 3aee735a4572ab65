"""Tests with another build of the extension: a program, since it must be there before the package.

python -m tests.loopback.sanitized EXTENSION.so TEST...
"""

from __future__ import annotations

import importlib.util
import sys
import unittest

NAME = "jetstreamproto.reactors._uring"


def load(path: str) -> None:
    """Have everybody import this build."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    load(sys.argv[1])
    unittest.main(module=None, argv=[sys.argv[0], *sys.argv[2:]])
