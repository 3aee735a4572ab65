"""Reactors whose sockets have a profile, and reactors with other ways to wait.

import jetstreamproto.reactors

jetstreamproto.reactors.install(profile="bulk")  # before anything imports the reactor
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetstreamproto.sockets.profiles import SocketProfile


def install(profile: SocketProfile | str | None = None) -> None:
    """Install Twisted's reactor for this system, with this profile for every socket of it.

    Without one it is `$JETSTREAM_PROFILE`, or else `default`. Raises `ConfigurationError` for a
    profile that there is not, and Twisted's `ReactorAlreadyInstalledError`.
    """
    from jetstreamproto.reactors import tuned

    tuned.install(profile)
