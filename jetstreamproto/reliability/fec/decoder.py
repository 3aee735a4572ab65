"""The receiver's side of FEC: keeps the last symbols and restores what repairs allow."""

from __future__ import annotations

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.reliability.fec.codes import SHARES, encode, factor, restore, solve
from jetstreamproto.reliability.fec.galois import Block, add

_NUMBERS = 0xFFFFFFFF
_HALF = 1 << 31
_FARTHEST = 1 << 20
"""Symbols that are farther from the newest than this cannot be from before or after an outage."""
_MOST_EQUATIONS, _MOST_UNKNOWNS, _MOST_TRIES = 16, 64, 4
"""Sizes of what is solved jointly, and how often a packet may lead to that in vain: bounds the
work that one packet can cause."""

Restored = list[tuple[int, bytes]]
"""Numbers and contents of symbols."""


class _Group:
    """Repairs (row: data) of one window, of which some symbols are missing."""

    __slots__ = ("base", "count", "k", "missing", "repairs", "size", "used")

    def __init__(self, base: int, count: int, k: int, missing: set[int], size: int) -> None:
        self.base, self.count, self.k = base, count, k
        self.missing = missing
        self.size = size
        self.repairs: dict[int, Block] = {}
        self.used: set[int] = set()

    @property
    def window(self) -> tuple[int, int, int]:
        return self.base, self.count, self.k

    def equation(self, row: int) -> dict[int, int]:
        """Factors of the missing symbols in `row`."""
        k, base = self.k, self.base
        return {n: factor(k, row, base + (n - base & _NUMBERS)) for n in self.missing}


class FecDecoder:
    """Restores missing symbols of one direction of a connection.

    At most the last `span` symbols (a power of two, 256 at least) and `max_repairs` repairs are
    kept, and no more than `max_bytes` of each; the oldest go first. What goes can neither be
    restored nor help to. All is restored that the kept repairs determine together, unless that
    takes the equations of more than 16 repairs over several windows, or 64 unknowns.

    `first` is the number of the first symbol. `recovered` counts symbols restored, `repairs`
    repairs received, `useless` those among them that nothing was restored from.
    """

    __slots__ = (
        "_bytes",
        "_groups",
        "_kept_repairs",
        "_mask",
        "_max_bytes",
        "_max_repairs",
        "_next",
        "_repair_bytes",
        "_ring",
        "_span",
        "_tail",
        "recovered",
        "repairs",
        "useless",
    )

    def __init__(
        self, span: int = 512, max_repairs: int = 256, max_bytes: int = 4 << 20, first: int = 0
    ) -> None:
        if span < SHARES or span & (span - 1):
            raise ValueError(f"span must be a power of two, at least {SHARES}")
        self.recovered = 0
        self.repairs = 0
        self.useless = 0
        self._span = span
        self._mask = span - 1
        self._max_repairs = max_repairs
        self._max_bytes = max_bytes
        self._ring: list[Block | None] = [None] * span
        self._tail = first  # the oldest number that is kept, or still missed
        self._next = first  # after the newest number that is known of
        self._bytes = 0
        self._groups: dict[tuple[int, int, int], _Group] = {}  # the oldest first
        self._kept_repairs = 0
        self._repair_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of symbols and repairs that are kept."""
        return self._bytes + self._repair_bytes

    @property
    def kept_repairs(self) -> int:
        return self._kept_repairs

    def source(self, number: int, symbol: Block) -> Restored:
        """Symbol `number` has come; what can be restored with its help.

        Raises `ProtocolViolation` for a number that is nowhere near the others.
        """
        following = self._next
        if number != following:
            return self._out_of_order(number, symbol)
        ring, index = self._ring, number & self._mask
        old = ring[index]
        ring[index] = symbol
        self._bytes += len(symbol) if old is None else len(symbol) - len(old)
        self._next = following = (following + 1) & _NUMBERS
        if (following - self._tail) & _NUMBERS > self._span:
            self._tail = (self._tail + 1) & _NUMBERS
            if self._groups:
                self._drop_late()
        if self._bytes > self._max_bytes:
            self._shrink()
        return []

    def repair(self, base: int, count: int, k: int, row: int, data: Block) -> Restored:
        """A repair has come; what can be restored with its help.

        Restored symbols are as long as the longest that the repair covers, filled with zeros.
        Raises `ProtocolViolation` for a repair that no sender can have made.
        """
        if not 0 < count <= k <= row < SHARES:
            raise ProtocolViolation(f"a repair of row {row} over {count} of {k} symbols")
        self.repairs += 1
        self._check_distance(base)
        if self._ahead(base + count) > 0:
            self._advance((base + count) & _NUMBERS)
        group = self._groups.get((base, count, k))
        if group is None:
            ring, mask = self._ring, self._mask
            missing = {n & _NUMBERS for n in range(base, base + count) if ring[n & mask] is None}
            if not missing or base - self._tail & _NUMBERS >= _HALF:
                self.useless += 1
                return []
            group = self._groups[base, count, k] = _Group(base, count, k, missing, len(data))
        elif group.size != len(data):
            raise ProtocolViolation("repairs of one group differ in length")
        elif row in group.repairs:
            self.useless += 1
            return []
        group.repairs[row] = data
        self._kept_repairs += 1
        self._repair_bytes += len(data)
        restored = self._restore([group])
        self._shrink()
        return restored

    # --- what is kept -----------------------------------------------------------------

    def _ahead(self, number: int) -> int:
        """How far `number` is beyond the newest symbol known of."""
        return (number - self._next + _HALF & _NUMBERS) - _HALF

    def _check_distance(self, number: int) -> None:
        if abs(self._ahead(number)) > _FARTHEST:
            raise ProtocolViolation(f"FEC symbol {number} is far from all others")

    def _out_of_order(self, number: int, symbol: Block) -> Restored:
        self._check_distance(number)
        if self._ahead(number) > 0:  # those before it are missing, or come later
            self._advance(number)
            return self.source(number, symbol)
        if number - self._tail & _NUMBERS >= _HALF or self._ring[number & self._mask] is not None:
            return []
        restored = self._restore(self._arrived({number: symbol}))
        self._shrink()
        return restored

    def _advance(self, following: int) -> None:
        """Symbols before `following` exist, and are missing so far."""
        new = min(self._ahead(following), self._span)
        for number in range(following - new, following):
            self._forget(number)
        self._next = following
        if following - self._tail & _NUMBERS > self._span:
            self._tail = following - self._span & _NUMBERS
            self._drop_late()

    def _forget(self, number: int) -> None:
        index = number & self._mask
        symbol = self._ring[index]
        if symbol is not None:
            self._ring[index] = None
            self._bytes -= len(symbol)

    def _shrink(self) -> None:
        if self._bytes > self._max_bytes:
            while self._bytes > self._max_bytes:
                self._forget(self._tail)
                self._tail = self._tail + 1 & _NUMBERS
            self._drop_late()
        while self._repair_bytes > self._max_bytes or self._kept_repairs > self._max_repairs:
            self._drop(next(iter(self._groups.values())))

    def _drop(self, group: _Group) -> None:
        del self._groups[group.window]
        count = len(group.repairs)
        self._kept_repairs -= count
        self._repair_bytes -= count * group.size
        self.useless += count - len(group.used)

    def _drop_late(self) -> None:
        """Drop the repairs that cover what has been forgotten."""
        tail = self._tail
        for group in [g for g in self._groups.values() if g.base - tail & _NUMBERS >= _HALF]:
            self._drop(group)

    def _arrived(self, symbols: dict[int, Block]) -> list[_Group]:
        """Missing symbols are there now; the repairs that still miss others beside them."""
        for number, symbol in symbols.items():
            self._ring[number & self._mask] = symbol
            self._bytes += len(symbol)
        touched = []
        for group in list(self._groups.values()):
            if group.missing.isdisjoint(symbols):
                continue
            group.missing.difference_update(symbols)
            if group.missing:
                touched.append(group)
            else:
                self._drop(group)
        return touched

    # --- restoring --------------------------------------------------------------------

    def _restore(self, changed: list[_Group]) -> Restored:
        """All that can be restored, now that something is new about these groups."""
        restored: Restored = []
        tries = _MOST_TRIES
        try:
            while changed:
                group = changed.pop()
                if not group.missing:
                    continue
                found = {}
                if len(group.repairs) >= len(group.missing):
                    found = self._restore_alone(group)
                elif tries and len(self._groups) > 1:
                    found = self._restore_jointly(group)
                    tries -= not found
                if found:
                    restored += found.items()
                    # without the filling, which another repair need not be long enough for
                    changed += self._arrived({n: s.rstrip(b"\0") for n, s in found.items()})
        except ValueError as error:
            raise ProtocolViolation(str(error)) from None
        self.recovered += len(restored)
        return restored

    def _restore_alone(self, group: _Group) -> dict[int, bytes]:
        missing = sorted(group.missing, key=lambda n: n - group.base & _NUMBERS)
        rows = sorted(group.repairs)[: len(missing)]
        group.used.update(rows)
        repairs = {row: group.repairs[row] for row in rows}
        symbols = restore(self._symbols(group), group.base, group.k, repairs)
        return dict(zip(missing, symbols, strict=True))

    def _symbols(self, group: _Group) -> list[Block | None]:
        ring, mask = self._ring, self._mask
        return [ring[n & mask] for n in range(group.base, group.base + group.count)]

    def _restore_jointly(self, group: _Group) -> dict[int, bytes]:
        """With all repairs that share missing symbols, directly or by way of others."""
        joint = [(g, row) for g in self._connected(group) for row in g.repairs]
        if len(joint) < 2:
            return {}
        solution = solve([g.equation(row) for g, row in joint])
        rests: dict[int, bytes] = {}
        found = {}
        for number, terms in solution.items():
            for i, _ in terms:
                if i not in rests:
                    g, row = joint[i]
                    g.used.add(row)
                    rests[i] = self._rest(g, row)
            size = max(len(rests[i]) for i, _ in terms)
            found[number] = add([(by, rests[i]) for i, by in terms], size)
        return found

    def _connected(self, group: _Group) -> list[_Group]:
        """The groups to solve with `group`; without those that cannot contribute."""
        joint = [group]
        missing = set(group.missing)
        equations = len(group.repairs)
        others = [g for g in reversed(self._groups.values()) if g is not group]
        grown = True
        while grown:
            grown = False
            for other in others:
                if missing.isdisjoint(other.missing) or other in joint:
                    continue
                equations += len(other.repairs)
                if equations > _MOST_EQUATIONS:
                    return _contributing(joint)
                joint.append(other)
                missing |= other.missing
                grown = True
        return _contributing(joint)

    def _rest(self, group: _Group, row: int) -> bytes:
        """A repair's data without the share of the symbols that are there."""
        known = [b"" if symbol is None else symbol for symbol in self._symbols(group)]
        share = encode(known, group.base, group.k, (row,))[0]
        if len(share) > group.size:
            raise ValueError(f"a symbol of {len(share)} bytes under a repair of {group.size}")
        return add(((1, group.repairs[row]), (1, share)), group.size)


def _contributing(joint: list[_Group]) -> list[_Group]:
    """Leave out groups with more missing symbols that no other covers than they have repairs: they
    tell nothing, of these or of the rest. Nothing is left if there are too many unknowns."""
    while True:
        seen: set[int] = set()
        shared: set[int] = set()
        for group in joint:
            shared |= seen & group.missing
            seen |= group.missing
        rest = [g for g in joint if len(g.missing - shared) <= len(g.repairs)]
        if len(rest) == len(joint):
            return joint if len(seen) <= _MOST_UNKNOWNS else []
        joint = rest
