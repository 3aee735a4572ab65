"""The kernel settings that are recommended for a host, and what each costs where it is lower.

`conf/sysctl.d/90-jetstream.conf` is `sysctl_file()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sysctl:
    """A sysctl. Its numbers should be at least `wanted`; bits of a `mask` should be set.

    `without` is what one does without while it is lower.
    """

    name: str
    wanted: tuple[int, ...]
    without: str
    mask: bool = False

    @property
    def text(self) -> str:
        """As sysctl(8) writes the value."""
        return " ".join(map(str, self.wanted))

    def is_met(self, found: Sequence[int]) -> bool:
        """Whether these numbers are as good as what is wanted, or better."""
        if len(found) != len(self.wanted):
            return False
        if self.mask:
            return all(have & want == want for have, want in zip(found, self.wanted, strict=True))
        return all(have >= want for have, want in zip(found, self.wanted, strict=True))

    def better(self, found: Sequence[int]) -> str:
        """The value to set on a host that has these numbers: none of them gets lower."""
        if len(found) != len(self.wanted):
            return self.text
        pairs = zip(found, self.wanted, strict=True)
        return " ".join(str(have | want if self.mask else max(have, want)) for have, want in pairs)


RECOMMENDED = (
    Sysctl(
        "net.core.rmem_default",
        (8388608,),
        "a UDP socket that asks for no buffer loses datagrams in bursts",
    ),
    Sysctl(
        "net.core.wmem_default",
        (8388608,),
        "a UDP socket that asks for no buffer must wait within a burst",
    ),
    Sysctl(
        "net.core.rmem_max",
        (67108864,),
        "no UDP socket, and no program without CAP_NET_ADMIN, gets the receive buffer it asks for",
    ),
    Sysctl(
        "net.core.wmem_max",
        (67108864,),
        "no program without CAP_NET_ADMIN gets the send buffer it asks for",
    ),
    Sysctl(
        "net.ipv4.tcp_rmem",
        (4096, 87380, 67108864),
        "a TCP receiver takes less than a fast and long path holds",
    ),
    Sysctl(
        "net.ipv4.tcp_wmem",
        (4096, 65536, 67108864),
        "a TCP sender cannot fill a fast and long path, and starts with a smaller buffer",
    ),
    Sysctl(
        "net.ipv4.tcp_fastopen",
        (3,),
        "servers take no data with a SYN: each connection costs one round trip more",
        mask=True,
    ),
    Sysctl(
        "net.ipv4.tcp_mtu_probing",
        (1,),
        "TCP hangs where a router drops large packets without saying so",
    ),
    Sysctl(
        "net.core.somaxconn",
        (4096,),
        "connections are refused when more than so many wait to be accepted",
    ),
)

SYSCTL_FILE = "/etc/sysctl.d/90-jetstream.conf"


def sysctl_file() -> str:
    """The text of a sysctl.d(5) file with all of them."""
    lines = [
        "# Kernel settings for JetStreamProto. `jetstream doctor` compares a host with them.",
        f"# Install it as {SYSCTL_FILE}, then run: sysctl --system",
    ]
    for setting in RECOMMENDED:
        lines += [
            "",
            f"# Where it is lower: {setting.without}.",
            f"{setting.name} = {setting.text}",
        ]
    return "\n".join(lines) + "\n"
