"""What `twistd jetstream` calls: its command line, and the service made from it.

Everything that can be wrong is tried here, before twistd becomes a daemon: an error is one line
on standard error, and an exit status that is not 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python import usage

from jetstreamproto._version import __version__
from jetstreamproto.errors import ConfigurationError
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.server.access import ANYONE, AccessRules
from jetstreamproto.server.announcement import announcement
from jetstreamproto.server.authentication import PasswordAuthentication, encode_users
from jetstreamproto.server.config import EXPLANATIONS, KINDS, ServerConfig, option_name
from jetstreamproto.server.listeners import open_listeners
from jetstreamproto.server.offers import make_offers
from jetstreamproto.server.reading import read_file, read_options
from jetstreamproto.server.service import JetStreamService
from jetstreamproto.server.values import Flag

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
        return make_service(options)
    except ConfigurationError as error:
        raise SystemExit(f"{PROGRAM}: {error}") from None


def make_service(options: Options) -> JetStreamService:
    """The service for these options, listening already. Raises `ConfigurationError`."""
    config = options.config
    access = AccessRules(config.allow)
    offers = make_offers(config, access)
    services = {name: service for offer in offers for name, service in offer.services.items()}
    _check_rules(options, services)
    factory = JetStreamServerFactory(
        _identity(config),
        services,
        clients=config.client_trust(),
        authenticate=_authentication(options),
        access=access,
        settings=config.session_settings(),
        admission=config.admission_limits(),
    )
    listeners = open_listeners(config.interface, config.port, config.transports)
    lines = announcement(config, factory.identity.fingerprint, listeners.port)
    return JetStreamService(
        factory,
        listeners,
        [*lines, *options.warnings],
        datagram_settings=config.datagram_settings(),
        offers=offers,
    )


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
