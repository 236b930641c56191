"""Names and beginnings of names, as the settings file writes them: exact, or with a single * at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import ConfigurationError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name, or, if ``is_prefix``, how a name begins."""

    text: str
    is_prefix: bool = False

    @property
    def name(self) -> str:
        """The pattern as the settings file writes it."""
        return self.text + "*" * self.is_prefix


def parse_pattern(written: str, where: str, *, what: str) -> Pattern:
    """Read a pattern; ``what`` is named by it.

    Raises:
        ConfigurationError: it is empty, or has a * elsewhere than at its end.
    """
    text = written.strip()
    is_prefix = text.endswith("*")
    text = text.removesuffix("*")
    if "*" in text or not (text or is_prefix):
        msg = f'{where} is no {what}; write a name, or the beginning of one followed by a single *, as in "acme/*"'
        raise ConfigurationError(msg, key=written)
    return Pattern(text, is_prefix)


class Patterns(Generic[T]):
    """What is set for names. Immutable."""

    def __init__(self, items: Iterable[tuple[Pattern, T]] = ()) -> None:
        listed = list(items)
        self._exact = {pattern.text: value for pattern, value in listed if not pattern.is_prefix}
        prefixes = [(pattern.text, value) for pattern, value in listed if pattern.is_prefix]
        self._prefixes = sorted(prefixes, key=lambda item: len(item[0]), reverse=True)

    def matches(self, *names: str) -> Iterator[T]:
        """Yield what is set for any of these names of one thing: the exact ones first, then the longest beginnings."""
        yield from (self._exact[name] for name in names if name in self._exact)
        yield from (value for prefix, value in self._prefixes if any(name.startswith(prefix) for name in names))

    def find(self, *names: str) -> T | None:
        """Return the first match."""
        return next(self.matches(*names), None)

    def __iter__(self) -> Iterator[T]:
        return iter((*self._exact.values(), *(value for _, value in self._prefixes)))
