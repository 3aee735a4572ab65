"""What `jetstream tunnel` does while it runs: keeps a session, listens, and says what happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from twisted.application.internet import backoffPolicy
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater

from jetstreamproto.cli.connection import route
from jetstreamproto.cli.failure import Failure, NobodyReads, StreamFailed, clean, describe
from jetstreamproto.cli.forwards import DYNAMIC, LOCAL, REMOTE, Forward
from jetstreamproto.cli.output import note, show_object
from jetstreamproto.client import ReconnectingClient
from jetstreamproto.errors import ChannelReset, JetStreamError, NotLetIn, SessionError, TrustError
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.services.tunnel.client import Carried, TunnelClient, Watcher
from jetstreamproto.services.tunnel.model import TunnelCode, show_address
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.session import Session
from jetstreamproto.sockets.resolving import resolve

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
"""Seconds between two attempts to connect again."""


class ForwardFailed(JetStreamError):
    """Somewhere nothing can be listened on, and it was said that this ends the tunnel."""


@dataclass(frozen=True)
class TunnelPlan:
    """What the command line asks for. New connections wait up to `wait` seconds for a session."""

    forwards: Sequence[Forward]
    exit_on_failure: bool
    urgency: int
    as_json: bool
    wait: float


class Carrying(Watcher):
    """One run of the command. `ready` is True once all that can be listened on is."""

    def __init__(
        self,
        reactor: ReactorBase,
        factory: JetStreamClientFactory,
        connect: Callable[[], Deferred[Session]],
        plan: TunnelPlan,
    ) -> None:
        self.ready = False
        self._plan = plan
        self._reactor = reactor
        self._sessions = ReconnectingClient(
            connect, retry_policy=backoffPolicy(_FIRST_WAIT, _LONGEST_WAIT), clock=reactor
        )
        self._tunnel = TunnelClient(
            reactor,
            self._sessions.when_connected,
            resolve,
            urgency=plan.urgency,
            watcher=self,
            session_wait=plan.wait,
        )
        factory.services.update(self._tunnel.services)
        self._remote = [forward for forward in plan.forwards if forward.option == REMOTE]
        self._listening = 0
        self._ending = False
        self._lost: Deferred[None] = Deferred()  # the session, or whoever reads what we print

    async def run(self) -> None:
        """Carry connections, until this is cancelled or what went wrong cannot be mended."""
        self._sessions.startService()
        try:
            session = await self._sessions.when_connected(fail_after=1)
            self._connected(session)
            self._listen_here()
            while True:
                await self._listen_there(session)
                self._check_any(session)
                self.ready = True
                await self._lost
                self._say_lost(session)
                session = await self._again()
                self._connected(session)
        finally:
            self._ending = True
            await self._turn()
            await self._tunnel.stop()
            await self._sessions.stopService()

    def _connected(self, session: Session) -> None:
        lost = self._lost = Deferred()

        def closed(_: None) -> None:
            if not lost.called:
                lost.callback(None)

        session.when_closed().addCallback(closed)
        self._say(
            f"connected to {session.peer.address} over {session.transport}",
            event="connected",
            host=session.peer.address,
            fingerprint=session.peer.fingerprint,
            **route(session),
        )

    async def _again(self) -> Session:
        """The next session. Raises what makes trying again pointless."""
        while True:
            try:
                return await self._sessions.when_connected(fail_after=1)
            except (TrustError, NotLetIn):
                raise
            except (JetStreamError, OSError) as error:
                problem = describe(error)
                self._say(
                    f"no session: {problem.message}; trying again",
                    event="retrying",
                    message=problem.message,
                )
                await self._turn()

    def _turn(self) -> Deferred[None]:
        """A turn of the reactor: the service's failures are told from within it, and it may not
        be called then."""
        return deferLater(self._reactor, 0)

    # --- listening ------------------------------------------------------------------------

    def _listen_here(self) -> None:
        for forward in self._plan.forwards:
            try:
                if forward.option == LOCAL and forward.target is not None:
                    found = self._tunnel.listen_local(forward.bind, forward.port, forward.target)
                elif forward.option == DYNAMIC:
                    found = self._tunnel.listen_socks(forward.bind, forward.port)
                else:
                    continue
            except CannotListenError as error:
                cause = error.socketError
                self._no_listener(forward, getattr(cause, "strerror", None) or str(cause))
            else:
                self._say_listening(forward, *found)
                self._listening += 1

    async def _listen_there(self, session: Session) -> None:
        """Have the server listen. The port that it gave for 0 is asked for again next time."""
        remote, self._remote = self._remote, []
        for forward in remote:
            assert forward.target is not None
            try:
                found, closed = await self._tunnel.listen_remote(
                    session, forward.bind, forward.port, forward.target
                )
            except ChannelReset as error:
                self._no_listener(forward, clean(error.reason or str(error)))
                if error.code != ResetCode.NOT_ALLOWED:  # it may be possible next time
                    self._remote.append(forward)
            except SessionError:
                self._remote.append(forward)  # the session is gone, there will be another
            else:
                self._say_listening(forward, *found)
                self._remote.append(replace(forward, port=found[1]))
                self._listening += not self.ready
                closed.addCallback(self._stopped, session, forward)

    def _no_listener(self, forward: Forward, why: str) -> None:
        if self._plan.exit_on_failure:
            where = show_address(forward.bind, forward.port)
            raise ForwardFailed(f"cannot listen on {where} ({forward.option}): {why}")
        self._say_not_listening(forward, why)

    def _stopped(self, _: None, session: Session, forward: Forward) -> None:
        """The server listens no more for us. With the session that goes without saying."""
        if session.accepts_channels and not self._ending:
            self._say_not_listening(forward, "the server has stopped")

    def _check_any(self, session: Session) -> None:
        if not self.ready and not self._listening and session.accepts_channels:
            raise ForwardFailed("there is nothing left to carry")

    # --- saying what happens ----------------------------------------------------------------

    def _say_not_listening(self, forward: Forward, why: str) -> None:
        where = show_address(forward.bind, forward.port)
        self._say(
            f"cannot listen on {where} ({forward.option}): {why}",
            event="not_listening",
            forward=forward.option,
            host=forward.bind,
            port=forward.port,
            message=why,
        )

    def _say_listening(self, forward: Forward, host: str, port: int) -> None:
        target = "SOCKS5" if forward.target is None else show_address(*forward.target)
        where = clean(show_address(host, port))
        self._say(
            f"{forward.option} {where} -> {target}: ready",
            event="listening",
            forward=forward.option,
            host=clean(host),
            port=port,
            target=None if forward.target is None else target,
        )

    def _say_lost(self, session: Session) -> None:
        reason = session.close_reason
        why = describe(reason).message if reason is not None else "the server ended it"
        self._say(f"the session is lost: {why}", event="lost", message=why)

    def opened(self, connection: Carried) -> None:
        self._say(None, event="opened", **_about(connection))

    def closed(self, connection: Carried, reason: JetStreamError | None) -> None:
        relay = connection.relay
        assert relay is not None
        self._say(
            None,
            event="closed",
            **_about(connection),
            to_channel=relay.to_channel,
            to_tcp=relay.to_tcp,
            seconds=round(self._reactor.seconds() - connection.started, 6),
            message=None if reason is None else explain(reason).message,
        )

    def failed(self, connection: Carried, reason: JetStreamError) -> None:
        problem = explain(reason)
        self._say(
            f"{connection.origin} -> {connection.target}: {problem.message}",
            event="failed",
            **_about(connection),
            kind=problem.kind,
            message=problem.message,
        )

    def _say(self, line: str | None, **event: object) -> None:
        if not self._plan.as_json:
            if line is not None:
                note(line)
            return
        try:
            show_object(event)
        except (NobodyReads, StreamFailed) as error:
            if not self._lost.called:
                self._lost.errback(error)


def _about(connection: Carried) -> dict[str, object]:
    return {
        "id": connection.number,
        "origin": clean(connection.origin),
        "target": clean(connection.target),
    }


def explain(reason: JetStreamError) -> Failure:
    """What is shown of a connection that failed or broke."""
    problem = describe(reason)
    if not isinstance(reason, ChannelReset):
        return problem
    names = [code.name for code in (*TunnelCode, *ResetCode) if code == reason.code]
    kind = names[0].title().replace("_", "") if names else problem.kind
    return Failure(kind, clean(reason.reason or str(reason)), problem.status)
