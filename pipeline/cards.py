"""Columns by their cards and names: a card read or refused, and which of a store's columns a user means."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from expert_zoo.card import ExpertCard
from pipeline.errors import StoreError, UnknownFormat


def read_card(data: bytes, where: str) -> ExpertCard:
    """Raises UnknownFormat for a kind or quantity of a later version, StoreError for what is no card."""
    try:
        return ExpertCard.read(data)
    except ValidationError as error:
        if of_later := _unknown_words(error):
            raise UnknownFormat(f"{where}: {of_later}") from error
        raise StoreError(f"{where} is not an expert card: {error}") from error


def _unknown_words(error: ValidationError) -> str:
    """What in a card's spec is a word of a later version, such as its kind or quantity; "" if nothing."""
    strange = [
        f"{found['loc'][-1]} {found['input']!r}"
        for found in error.errors()
        if found["type"] == "literal_error" and found["loc"][0] == "spec" and isinstance(found["input"], str)
    ]
    if not strange:
        return ""
    return f"{' and '.join(strange)} is unknown to this version; use the version of expert-labels that wrote it"


def column_meant(
    name: str,
    columns: list[str],
    unknown: Callable[[], dict[str, str]],
    filled: Callable[[str], bool],
    where: str,
) -> str:
    """Which of ``columns`` is meant by ``expert`` or ``expert@version``; StoreError if none or more than one fits.

    Of several versions of an expert the only one that is ``filled`` is meant. ``unknown`` tells what is strange about columns
    of later versions, and ``where`` names the store in errors; both functions are asked only where the name does not tell.
    """
    fitting = [column for column in columns if name in (column, column.split("@")[0])]
    if len(fitting) > 1:
        fitting = [column for column in fitting if filled(column)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if name not in columns and (strange := unknown().get(name)):
        raise UnknownFormat(strange)
    known = ", ".join(fitting or columns) or "none yet"
    problem = "more than one version of" if fitting else "no column"
    raise StoreError(f"{where} has {problem} {name!r}; name one of: {known}")
