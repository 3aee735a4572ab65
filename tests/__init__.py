"""What the environment of a run may not change about the programs that tests start."""

import atexit
import os
import signal
import tempfile

# A script's background jobs ignore SIGINT, and what tests start and interrupt would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of programs would each compile all they import: a third of a second, where it is slow.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    _compiled = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    atexit.register(_compiled.cleanup)
    os.environ["PYTHONPYCACHEPREFIX"] = _compiled.name
