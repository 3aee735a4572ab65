"""What the server program offers of calls: health, reflection, the registry, and applications."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.offer import Offer, Permissions
from jetstreamproto.services.rpc.messages import RPC
from jetstreamproto.services.rpc.model import ANY
from jetstreamproto.services.rpc.registry import RpcRegistry
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.services.rpc.signatures import service_name, signatures

METHODS = "methods"
"""The scope that says which methods may be called, as `demo.Calculator#*`."""
REGISTER = "register"
"""The scope that says which services a peer may register as a provider of, as `demo.*`."""


class RpcOffer(Offer):
    """Offers `targets`, each the `module:Object` of a class, made at start, or of an instance.

    Who may call what, and register as whose provider, `permissions` say; without a word of
    theirs, who may use the service at all may both. Raises `ConfigurationError` for a target
    that cannot be imported or exposed.
    """

    single = True

    def __init__(self, targets: Sequence[str], permissions: Permissions) -> None:
        self._targets = [_load(target) for target in targets]
        names = [service_name(target) for target in self._targets]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"--rpc: the service {name} is given twice")
        self._registry = RpcRegistry(lambda peer: permissions(peer, RPC, REGISTER, (ANY,)))
        self.server = RpcServer(
            [self._registry], permitted=lambda peer: permissions(peer, RPC, METHODS, (ANY,))
        )
        super().__init__(self.server.services)

    def start(self, reactor: Any) -> None:
        targets, self._targets = self._targets, []
        for target in targets:
            self.server.expose(target() if isinstance(target, type) else target)

    def stop(self) -> None:
        self._registry.stop()


def _load(text: str) -> Any:
    """The target, imported from the working directory or wherever Python looks."""
    module, _, path = text.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        target: Any = import_module(module)
        for name in path.split("."):
            target = getattr(target, name)
    except Exception as error:  # whatever importing an application raises
        raise ConfigurationError(f"--rpc {text}: {type(error).__name__}: {error}") from error
    try:
        signatures(target)
    except ConfigurationError as error:
        raise ConfigurationError(f"--rpc {text}: {error}") from error
    return target
