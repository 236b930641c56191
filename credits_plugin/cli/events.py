"""``credits events``: the inbox of Stripe's events; look, rehearse, repeat, and fetch what no webhook brought."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from ..errors import GatewayError, NotFound
from ..ledger.ids import now_ms
from ..payments.pull import Pulled, pull_events
from ..payments.queries import InboxLine, inbox_event, inbox_page, inbox_payload
from ..payments.replay import Preview, preview_event, replay_event
from ..payments.shop import Shop
from ..payments.states import InboxStatus
from .access import read, with_shop
from .options import add_database, login_name


def add_parser(commands: Any) -> None:
    """Add the command and its four parts."""
    events = commands.add_parser("events", help="Stripe's events as they came in: list, show, replay, pull")
    parts = events.add_subparsers(required=True, metavar="PART")

    listing = parts.add_parser("list", help="the latest first, one a line")
    listing.add_argument("--status", choices=list(InboxStatus), help="only these")
    listing.add_argument("--limit", type=int, default=50, help="how many (default 50)")
    listing.set_defaults(run=_list)

    show = parts.add_parser("show", help="what one event said, and what became of it")
    show.add_argument("event_id")
    show.set_defaults(run=_show)

    replay = parts.add_parser("replay", help="what a stored event would do now; --apply does it")
    replay.add_argument("event_id")
    replay.add_argument("--apply", action="store_true", help="do it; what was done before is not done twice")
    replay.set_defaults(run=_replay)

    pull = parts.add_parser("pull", help="fetch and handle what Stripe's own list has, for hosts without a webhook")
    pull.add_argument("--every", type=float, metavar="SECONDS", help="go on for ever, with a pause of so many seconds")
    pull.set_defaults(run=_pull)
    for part in (listing, show, replay, pull):
        add_database(part)


def _list(options: argparse.Namespace) -> int:
    status = InboxStatus(options.status) if options.status else None
    for line in read(options, lambda database: inbox_page(database, status=status, limit=options.limit)):
        print(f"{line.event_id}  {line.status:<11}  {line.type}  {line.detail or ''}".rstrip())
    return 0


def _show(options: argparse.Namespace) -> int:
    line, payload = read(
        options, lambda database: (inbox_event(database, options.event_id), inbox_payload(database, options.event_id))
    )
    if line is None:
        msg = f"there is no event {options.event_id!r:.80} in the inbox"
        raise NotFound(msg)
    _print_line(line)
    print(payload)
    return 0


def _print_line(line: InboxLine) -> None:
    print(f"{line.event_id} {line.type}: {line.status} after {line.attempts} attempts")
    print(f"object {line.object_id or '-'}, API version {line.api_version or '-'}, ", end="")
    print("live mode" if line.livemode else "test mode")
    if line.detail:
        print(f"detail: {line.detail}")


def _replay(options: argparse.Namespace) -> int:
    preview = with_shop(options, lambda shop: preview_event(shop, options.event_id))
    _print_preview(preview)
    if not options.apply:
        print("nothing was changed; --apply does it")
        return 0
    actor = f"cli:{login_name()}"
    receipt = with_shop(options, lambda shop: replay_event(shop, options.event_id, actor=actor))
    print(f"done: {receipt.status}{f': {receipt.detail}' if receipt.detail else ''}")
    return 0 if receipt.status in {InboxStatus.PROCESSED, InboxStatus.IGNORED} else 1


def _print_preview(preview: Preview) -> None:
    print(f"{preview.event_id} {preview.type}: would be {preview.status}", end="")
    print(f": {preview.detail}" if preview.detail else "")
    for change in preview.changes:
        print(f"  {change.what}: {change.before} -> {change.after}")
    if not preview.changes:
        print("  would change nothing")


def _pull(options: argparse.Namespace) -> int:
    if options.every:
        with_shop(options, lambda shop: _pull_for_ever(shop, pause_s=options.every))
    else:
        _print_pulled(with_shop(options, lambda shop: pull_events(shop, at_ms=now_ms())))
    return 0


async def _pull_for_ever(shop: Shop, *, pause_s: float) -> None:
    while True:
        try:
            _print_pulled(await pull_events(shop, at_ms=now_ms()))
        except GatewayError as error:
            if not error.retryable:
                raise
            print(f"credits: {error}", file=sys.stderr, flush=True)
        await asyncio.sleep(pause_s)


def _print_pulled(pulled: Pulled) -> None:
    print(
        f"{pulled.handled} events handled, {pulled.repeated} known, {pulled.failed} failed, "
        f"{pulled.recovered} that had failed handled now",
        flush=True,
    )
