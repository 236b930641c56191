"""Stored events once more: what one would do now, without doing it, and then doing it.

An event's payload was verified when it came in, so it needs no signature again. What was done already is not done
twice: every effect is keyed by Stripe's ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from ..errors import CreditsError, NotFound
from ..ledger.work import Transaction
from ..models import AdminAction
from ..money import format_credits, format_money
from .events import Plan, plan_event
from .gateway import StripeEvent
from .inbox import Receipt, handle_again
from .queries import inbox_payload, payment
from .shop import Shop
from .states import InboxStatus

_NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that an event would change, in words: credits, money and states."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What an event would come to now. ``failed`` with the reason in ``detail`` where it could not be handled."""

    event_id: str
    type: str
    status: InboxStatus
    detail: str | None
    changes: tuple[Change, ...] = ()


async def preview_event(shop: Shop, event_id: str) -> Preview:
    """Run a stored event's unit of work and roll it back; nothing is written, not even to its own row.

    Raises:
        NotFound: there is no such event.
    """
    event = await stored_event(shop, event_id)
    try:
        plan = await plan_event(shop, event)
        await shop.writer.work([] if plan.account_id is None else [plan.account_id], _rehearse(event, plan))
    except _RolledBack as end:
        return end.preview
    except CreditsError as error:
        return Preview(event.id, event.type, InboxStatus.FAILED, f"{error.code}: {error}")


async def replay_event(shop: Shop, event_id: str, *, actor: str) -> Receipt:
    """Handle a stored event again, and record who asked for it.

    Raises:
        NotFound: there is no such event.
        CreditsError: it could not be handled now; its row says why.
    """
    event = await stored_event(shop, event_id)
    receipt = await handle_again(shop, event)

    def note(tx: Transaction) -> None:
        action = {
            "id": tx.new_id(),
            "at_ms": tx.at_ms,
            "actor": actor,
            "action": "replay",
            "subject": f"event {event.id}",
            "reason": event.type,
            "after": receipt.status,
        }
        AdminAction.insert(action).execute(tx.database)

    await shop.writer.work([], note)
    return receipt


async def stored_event(shop: Shop, event_id: str) -> StripeEvent:
    """Read an event from the inbox.

    Raises:
        NotFound: there is no such event.
    """
    payload = await shop.reads.run(lambda database: inbox_payload(database, event_id))
    if payload is None:
        msg = f"there is no event {event_id!r:.80} in the inbox; `credits events list` shows those there are"
        raise NotFound(msg)
    return shop.gateway.stored_event(payload)


class _RolledBack(Exception):
    """Carries a rehearsal's result out of the unit of work that it undoes."""

    def __init__(self, preview: Preview) -> None:
        super().__init__(preview.event_id)
        self.preview = preview


def _rehearse(event: StripeEvent, plan: Plan) -> Callable[[Transaction], NoReturn]:
    def run(tx: Transaction) -> NoReturn:
        before = _facts(tx, plan)
        verdict = plan.run(tx)
        after = _facts(tx, plan)
        changes = tuple(Change(what, before[what], after[what]) for what in after if before[what] != after[what])
        raise _RolledBack(Preview(event.id, event.type, verdict.status, verdict.detail, changes))

    return run


def _facts(tx: Transaction, plan: Plan) -> dict[str, str]:
    """Return what an event may change, as an operator reads it."""
    account = tx.account(plan.account_id) if plan.account_id is not None else None
    facts = {
        "balance": format_credits(account.balance if account else 0),
        "held": format_credits(account.held if account else 0),
    }
    ours = payment(tx.database, plan.payment_id) if plan.payment_id is not None else None
    if ours is None:
        return facts
    return facts | {
        "payment": str(ours.status),
        "refunded": format_money(ours.refunded_minor, ours.currency),
        "disputed": format_money(ours.disputed_minor, ours.currency),
        "taken back": format_credits(ours.clawed_back),
        "detail": ours.detail or _NOTHING,
    }
