"""What the environment of a run may not change about tests, and the programs that they start."""

import atexit
import os
import signal
import tempfile

from hypothesis import settings

# A script's background jobs ignore SIGINT, and what tests start and interrupt would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of programs would each compile all they import: a third of a second, where it is slow.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    _compiled = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    atexit.register(_compiled.cleanup)
    os.environ["PYTHONPYCACHEPREFIX"] = _compiled.name

# Tests are not timed: what is slow once may be the machine, or a table that is made then.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")
