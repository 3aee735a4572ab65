"""The one thing that setup.cfg cannot say: the extension module, for Linux and optional.

Without a compiler the package is installed without it, and the io_uring reactor falls back to
epoll. It uses the stable ABI, so one build does for every Python from 3.11 on.
"""

import sys

from setuptools import Extension, setup

EXTENSIONS = [
    Extension(
        "jetstreamproto.reactors._uring",
        ["jetstreamproto/reactors/_uring.c"],
        libraries=["m"],
        py_limited_api=True,
        optional=True,
    )
]

if sys.platform == "linux":
    setup(ext_modules=EXTENSIONS, options={"bdist_wheel": {"py_limited_api": "cp311"}})
else:
    setup()
