"""What `twistd jetstream` calls: its command line, and the service made from it.

Everything that can be wrong is tried here, before twistd becomes a daemon: an error is one line
on standard error, and an exit status that is not 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.reactors import getReactorTypes
from twisted.application.service import IService
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python import usage

from jetstreamproto._version import __version__
from jetstreamproto.errors import ConfigurationError
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.server.access import ANYONE, AccessRules
from jetstreamproto.server.announcement import about_sockets, announcement
from jetstreamproto.server.authentication import PasswordAuthentication, encode_users
from jetstreamproto.server.config import EXPLANATIONS, KINDS, ServerConfig, option_name
from jetstreamproto.server.listeners import open_listeners
from jetstreamproto.server.offers import make_offers, opened_services
from jetstreamproto.server.reading import read_file, read_options
from jetstreamproto.server.service import JetStreamService
from jetstreamproto.server.values import Flag
from jetstreamproto.services.offer import Offer

if TYPE_CHECKING:
    from jetstreamproto.server.workers.part import WorkerPart
    from jetstreamproto.server.workers.supervisor import Supervisor

PROGRAM = "twistd jetstream"

_CONFIG, _INTERFACE, _AUTH = "config", "interface", "auth"
_NOT_SET = 0  # what usage.Options makes of a flag that is not given


class Options(usage.Options, AuthOptionMixin):
    """The command line of `twistd jetstream`; once parsed, `config` is what it comes to."""

    supportedInterfaces = (IUsernamePassword,)
    synopsis = "[options]"
    longdesc = (
        "An encrypted server for many channels of messages over each connection. Without"
        " --clients, --client-ca or --auth it serves this host only, unless --allow-anonymous is"
        " given. Every option but --config can stand in the TOML file too, with _ for -."
    )
    optParameters = [  # noqa: RUF012 - as usage.Options wants it
        *(
            [option_name(key), None, None, EXPLANATIONS[key]]
            for key, kind in KINDS.items()
            if key != _INTERFACE and not isinstance(kind, Flag)
        ),
        [_CONFIG, None, None, "TOML file with settings and rules of access ([[allow]])."],
    ]
    optFlags = [  # noqa: RUF012
        [option_name(key), None, EXPLANATIONS[key]]
        for key, kind in KINDS.items()
        if isinstance(kind, Flag)
    ]

    def __init__(self) -> None:
        super().__init__()
        self.arguments: Sequence[str] = ()
        """The command line itself."""
        self.config: ServerConfig
        self.warnings: list[str] = []
        self._interfaces: list[str] = []
        self._auth: list[str] = []

    @property
    def checkers(self) -> Sequence[Any]:
        """The checkers of user names and passwords, in the order they are asked."""
        checkers: Sequence[Any] = self.get("credCheckers", ())
        return checkers

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line; what is wrong with it is one line, and the end."""
        self.arguments = tuple(options or ())
        try:
            super().parseOptions(options)
        except (usage.UsageError, ConfigurationError) as error:
            raise SystemExit(f"{PROGRAM}: {error}") from None

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}")

    def postOptions(self) -> None:
        self.config = self.read()

    def opt_interface(self, text: str) -> None:
        self._interfaces.append(text)

    opt_interface.__doc__ = EXPLANATIONS[_INTERFACE]

    def opt_auth(self, description: str) -> None:
        """Let in users by name and password: METHOD:ARGUMENT (see --help-auth). Repeatable."""
        self._auth.append(description)

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"JetStreamProto {__version__}")
        raise SystemExit(0)

    def read(self) -> ServerConfig:
        """The configuration that the file and the options make together."""
        folder, settings = Path.cwd(), dict[str, object]()
        if self[_CONFIG] is not None:
            path = folder / self[_CONFIG]
            settings = read_file(path)
            if not self._auth:
                folder = path.parent
        settings.update(read_options(self._given()))
        if self._auth:
            settings[_AUTH] = tuple(self._auth)
            self._warn_of_passwords()
        config = ServerConfig(**settings)  # type: ignore[arg-type]
        for description in config.auth:
            self.add_checker(description, folder)
        return config

    def add_checker(self, description: str, folder: Path) -> None:
        """Make the checker that `description` asks for; its file is relative to `folder`."""
        method, _, argument = description.partition(":")
        if method == "file" and argument:
            description = f"{method}:{_readable(folder / argument)}"
        try:
            super().opt_auth(description)
        except usage.UsageError as error:
            raise ConfigurationError(f"--auth {method}: {error}") from None
        encode_users(self.checkers[-1])

    def _given(self) -> dict[str, str]:
        given = {key: self[option_name(key)] for key in KINDS if key != _INTERFACE}
        if self._interfaces:
            given[_INTERFACE] = ",".join(self._interfaces)
        return {key: text for key, text in given.items() if text not in (None, _NOT_SET)}

    def _warn_of_passwords(self) -> None:
        if any(description.startswith("memory:") for description in self._auth):
            self.warnings.append(
                "warning: the passwords of --auth memory: are in the list of processes, for"
                " everyone on this host to read; --auth file:PATH keeps them private"
            )


def makeService(options: Options) -> IService:
    try:
        if options.config.workers > 1:
            return make_supervisor(options)
        return make_service(options)
    except ConfigurationError as error:
        raise SystemExit(f"{PROGRAM}: {error}") from None


def make_service(options: Options) -> JetStreamService:
    """The service for these options, listening already. Raises `ConfigurationError`."""
    config = options.config
    offers, factory = _offers_and_factory(options)
    check(offers)
    profile = config.socket_profile
    listeners = open_listeners(config.interface, config.port, config.transports, profile)
    lines = announcement(config, factory.identity.fingerprint, listeners.port)
    return JetStreamService(
        factory,
        listeners,
        [*lines, about_sockets(profile.name, listeners), *options.warnings],
        datagram_settings=config.datagram_settings(),
        offers=offers,
        profile=profile,
    )


def make_worker(options: Options, part: WorkerPart) -> JetStreamService:
    """The service of one of several processes, on the sockets of its part."""
    offers, factory = _offers_and_factory(options, part)
    return JetStreamService(
        factory,
        part.listeners,
        [],
        datagram_settings=options.config.datagram_settings(),
        offers=offers,
        mailboxes=part.mailboxes(),
        profile=options.config.socket_profile,
    )


def make_supervisor(options: Options) -> Supervisor:
    """What runs `--workers` processes with these options. Raises `ConfigurationError`."""
    from jetstreamproto.server.workers.part import open_parts
    from jetstreamproto.server.workers.supervisor import Supervisor

    config = options.config
    offers, factory = _offers_and_factory(options)  # for what may be wrong with them
    check(offers)
    parts, unsteered = open_parts(
        config.interface, config.port, config.transports, config.workers, config.socket_profile
    )
    lines = announcement(config, factory.identity.fingerprint, parts[0].listeners.port)
    if unsteered is not None:
        lines = [*lines, f"datagrams are forwarded between the workers: {unsteered}"]
    return Supervisor(
        parts,
        lambda described: [described, installed_reactor(), *options.arguments],
        [*lines, about_sockets(config.profile, parts[0].listeners), *options.warnings],
        config.drain_timeout,
    )


def check(offers: Sequence[Offer]) -> None:
    """Raise `ConfigurationError` if one of them could not start."""
    for offer in offers:
        offer.check()


def installed_reactor() -> str:
    """The name by which `twistd --reactor` knows the installed reactor; empty if by none."""
    from twisted.internet import reactor

    module = type(reactor).__module__
    for known in getReactorTypes():
        if getattr(known, "moduleName", None) == module:
            return str(known.shortName)
    return ""


def _offers_and_factory(
    options: Options, part: WorkerPart | None = None
) -> tuple[Sequence[Offer], JetStreamServerFactory]:
    """What this process offers, and the factory of its sessions."""
    config = options.config
    access = AccessRules(config.allow, opened_services(config))
    offers = make_offers(config, access)
    _check_rules(options, {name for offer in offers for name in offer.services})
    identity = _identity(config)
    settings = config.session_settings()
    if part is not None and part.is_backend:
        from jetstreamproto.server.workers.backend import backend

        return backend(identity, offers, access, settings)
    services = {name: service for offer in offers for name, service in offer.services.items()}
    if part is not None:
        from jetstreamproto.server.workers.relay import relays

        services.update(relays(identity, offers, settings, part.backend))
        offers = [offer for offer in offers if not offer.single]
    factory = JetStreamServerFactory(
        identity,
        services,
        clients=config.client_trust(),
        authenticate=_authentication(options),
        access=access,
        settings=settings,
        admission=config.admission_limits(1 if part is None else part.count),
    )
    return offers, factory


def _identity(config: ServerConfig) -> Identity:
    if config.cert is not None:
        return Identity.from_files(config.cert, config.key)
    return Identity.load_or_create(config.state_dir, datetime.now(UTC))


def _authentication(options: Options) -> PasswordAuthentication | None:
    if not options.checkers:
        return None
    return PasswordAuthentication(options.checkers, allow_anonymous=options.config.allow_anonymous)


def _check_rules(options: Options, services: Collection[str]) -> None:
    """A misspelt service would be a rule that silently allows nothing."""
    for rule in options.config.allow:
        for service in sorted(rule.services - {ANYONE}):
            if service not in services:
                names = ", ".join(sorted(services))
                raise ConfigurationError(
                    f"{options[_CONFIG]}: allow: no service {service!r}; there is {names}"
                )


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"--auth file: {path}: {error.strerror}") from error
    return path
