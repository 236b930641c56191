"""What hosts say to each other: ledger commands and their answers as JSON, by name and in the order of their fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from hookspecs import USAGE_KINDS, Usage

from ..errors import AccountInDebt, CreditsError, DatabaseError, InsufficientCredits
from ..ledger.budget_entries import BUDGET_COMMANDS, Budgeted, BudgetKind, BudgetPeriod, RemoveBudget, SetBudget
from ..ledger.entries import (
    Answer,
    Code,
    Command,
    ExpireHold,
    ExpireLots,
    Extended,
    ExtendHold,
    LotTerms,
    Placed,
    PlaceHold,
    Posted,
    PostTransfer,
    Released,
    ReleaseHold,
    RollOver,
    Settled,
    SettleHold,
)

_RENAMED: Final = {SettleHold: "SettleHold 2", ReleaseHold: "ReleaseHold 2", ExpireHold: "ExpireHold 2"}
"""Commands that the version before budgets would carry out without moving them: it does not know these names."""
_KINDS: Final[tuple[Any, ...]] = (
    PlaceHold,
    ExtendHold,
    SettleHold,
    ReleaseHold,
    ExpireHold,
    PostTransfer,
    ExpireLots,
    RollOver,
    *BUDGET_COMMANDS,
)
_COMMANDS: Final[dict[str, Any]] = {kind.__name__: kind for kind in _KINDS} | {
    name: kind for kind, name in _RENAMED.items()
}
_ANSWERS: Final = {kind.__name__: kind for kind in (Placed, Extended, Settled, Released, Posted, Budgeted)}
_NOT_UNDERSTOOD: Final = "not_understood"
_PLAIN_KINDS: Final = 5


class NotUnderstood(ValueError):
    """A command or an answer that only another version of this package knows: it runs where it came from."""


def pack(messages: list[list[Any]]) -> bytes:
    """Return a frame's payload."""
    return json.dumps(messages, separators=(",", ":")).encode()


def unpack(payload: bytes) -> list[list[Any]]:
    """Return the messages of a payload.

    Raises:
        ValueError: it is none of ours.
    """
    messages = json.loads(payload)
    if not isinstance(messages, list) or not all(isinstance(message, list) for message in messages):
        msg = "a frame holds a list of messages"
        raise ValueError(msg)
    return messages


def command_message(number: int, command: Command) -> list[Any]:
    """Return ``[number, name, field, …]``."""
    kind = type(command)
    return [number, _RENAMED.get(kind, kind.__name__), *map(_plain, command)]


def command_of(message: list[Any]) -> Command:
    """Return the command of a message.

    Raises:
        NotUnderstood: another version's command, or one with other fields.
    """
    _, name, *fields = message
    kind = _COMMANDS.get(name)
    if kind is None or len(fields) != len(kind._fields):
        msg = f"unknown command {name!r:.40} of {len(fields)} fields"
        raise NotUnderstood(msg)
    values = dict(zip(kind._fields, fields, strict=True))
    try:
        if values.get("usage") is not None:
            values["usage"] = Usage(*values["usage"])
        if kind is PostTransfer:
            values["code"] = Code(values["code"])
            values["terms"] = LotTerms(*values["terms"])
        if kind is SetBudget or kind is RemoveBudget:
            values["kind"], values["period"] = BudgetKind(values["kind"]), BudgetPeriod(values["period"])
    except (AttributeError, TypeError, ValueError) as error:
        msg = f"unknown values in command {name}: {error}"
        raise NotUnderstood(msg) from error
    command: Command = kind(**values)
    return command


def answer_message(number: int, answer: Answer) -> list[Any]:
    """Return ``[number, name, field, …]``."""
    return [number, type(answer).__name__, *answer]


def error_message(number: int, error: BaseException) -> list[Any]:
    """Return ``[number, code, message, fields]``; an error that is not ours becomes a database error."""
    if isinstance(error, NotUnderstood):
        return [number, _NOT_UNDERSTOOD, str(error), {}]
    if not isinstance(error, CreditsError):
        error = DatabaseError(f"the leading host failed: {error}")
    return [number, error.code, error.message, error.fields]


def outcome_of(message: list[Any]) -> Answer | CreditsError:
    """Return the answer or the error of a message.

    Raises:
        NotUnderstood: the other host did not understand the command, or answered what this version does not know.
    """
    _, name, *rest = message
    kind = _ANSWERS.get(name)
    try:
        return kind(*rest) if kind is not None else _error(str(name), *rest)
    except (TypeError, KeyError) as error:
        msg = f"unknown answer {name!r:.40}: {error}"
        raise NotUnderstood(msg) from error


def _error(code: str, text: str, fields: dict[str, Any]) -> CreditsError:
    kind = next((one for one in _subclasses(CreditsError) if one.code == code), None)
    if kind is None:
        raise NotUnderstood(text if code == _NOT_UNDERSTOOD else f"unknown error {code!r:.40}: {text}")
    if issubclass(kind, InsufficientCredits | AccountInDebt):
        return kind(fields["account_id"], needed=fields["needed"], available=fields["available"])
    return kind(text, **fields)


def _subclasses(kind: type[CreditsError]) -> Iterator[type[CreditsError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _subclasses(child)


def _plain(value: Any) -> Any:
    match value:
        case Usage():
            fields = [*(getattr(value, kind) for kind in USAGE_KINDS), dict(value.tool_calls)]
            # As every version knows it, where it can be said so; a host that knows five kinds alone refuses more.
            return fields if any(fields[_PLAIN_KINDS:]) else fields[:_PLAIN_KINDS]
        case LotTerms():
            return [value.priority, value.expires_at_ms]
        case _:
            return value
