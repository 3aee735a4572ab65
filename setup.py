"""The one thing that setup.cfg cannot say: the extension module, for Linux and optional.

Without a compiler the package is installed without it, and the io_uring reactor falls back to
epoll. It uses the stable ABI, so one build does for every Python from 3.11 on.
"""

import sys
from glob import glob

from setuptools import Extension, setup

SOURCES = "jetstreamproto/reactors/_ring"
EXTENSIONS = [
    Extension(
        "jetstreamproto.reactors._uring",
        sorted(glob(f"{SOURCES}/*.c")),
        depends=[f"{SOURCES}/ring.h"],
        libraries=["m"],
        py_limited_api=True,
        optional=True,
    )
]

if sys.platform == "linux":
    setup(ext_modules=EXTENSIONS, options={"bdist_wheel": {"py_limited_api": "cp311"}})
else:
    setup()
