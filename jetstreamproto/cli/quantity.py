"""Amounts of bytes, as they are written on the command line."""

from __future__ import annotations

import re

import click

_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_amount(text: str) -> int:
    """The bytes in `65536`, `64KiB` (1024), `256MB` (1000 * 1000) or `1.5GB`.

    Raises `ValueError` with a message for the person who wrote it.
    """
    from fractions import Fraction

    match = _AMOUNT.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not an amount of bytes, as in 65536, 64KiB or 256MB")
    number, prefix, binary = match.groups()
    amount = Fraction(number) * (1024 if binary else 1000) ** _POWERS[prefix.lower()]
    if amount < 1 or amount.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(amount)


def amount_option(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> int | None:
    """The callback of an option that takes an amount of bytes."""
    try:
        return None if text is None else parse_amount(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error
