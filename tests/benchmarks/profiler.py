"""Running a child's reactor under a profiler: cProfile, or samples of the line that is executed.

Both count processor time, so that waiting, and what other processes take, does not show. cProfile
counts every call and makes each dearer, which overstates small functions. The sampler
interrupts the process at every tick of the system (1 to 10 ms of processor time) and costs next to
nothing, but needs a run of many seconds; what a C function takes is on the line that calls it.
"""

from __future__ import annotations

import cProfile
import json
import signal
from collections import Counter
from pathlib import Path
from time import process_time
from types import FrameType
from typing import Any

from tests.benchmarks.job import Job

_INTERVAL = 0.001


def run(reactor: Any, job: Job) -> None:
    """Run the reactor and leave what was found in the file `job.profile`."""
    if job.sampled:
        _run_sampled(reactor, Path(job.profile))
        return
    profile = cProfile.Profile(process_time)
    profile.runcall(reactor.run, installSignalHandlers=False)
    profile.dump_stats(job.profile)


def _run_sampled(reactor: Any, path: Path) -> None:
    samples: Counter[tuple[str, int, str]] = Counter()

    def sample(_signal: int, frame: FrameType | None) -> None:
        if frame is not None:
            code = frame.f_code
            samples[code.co_filename, frame.f_lineno or 0, code.co_name] += 1

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)
    reactor.run(installSignalHandlers=False)
    signal.setitimer(signal.ITIMER_PROF, 0)
    path.write_text(json.dumps([[*place, count] for place, count in samples.most_common()]))
