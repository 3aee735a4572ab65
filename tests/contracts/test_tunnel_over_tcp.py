"""The tunnel's contract over TCP, in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.contracts.tunnel_contract import TunnelContract
from tests.doubles import make_pair


class TunnelOverTcpTests(TunnelContract, SynchronousTestCase):
    """At no distance."""

    def connect(self, services: Any, client_services: Any, **options: Any) -> Any:
        return make_pair(services, client_services=client_services, **options)


class TunnelOverDistantTcpTests(TunnelOverTcpTests):
    """At 20 ms each way, in pieces."""

    large = 200_000

    def connect(self, services: Any, client_services: Any, **options: Any) -> Any:
        return super().connect(services, client_services, latency=0.02, chop=1000, **options)
