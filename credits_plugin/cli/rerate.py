"""``credits prices rerate``: a period's requests at the price book as it is now; --apply corrects the difference."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from ..database import Database, Reads, open_database, require_current_schema
from ..errors import InvalidValue
from ..ledger.ids import IdMaker
from ..ledger.writer import LedgerWriter
from ..money import format_credits
from ..pricing.patterns import parse_pattern
from ..pricing.price_book import PriceBook
from ..rerating import Posting, Scope, Tally, rerate
from ..settings import load_settings, with_prices_of
from .options import add_database, database_url, login_name, time_ms


def add_parser(parts: Any) -> None:
    """Add the part to those of `credits prices`."""
    command = parts.add_parser("rerate", help="what a period's requests cost at today's prices; --apply corrects it")
    command.add_argument("--model", required=True, metavar="PATTERN", help="a price's name, or its beginning and *")
    command.add_argument("--from", dest="since", required=True, metavar="TIME", help="holds placed from then on")
    command.add_argument("--to", dest="until", required=True, metavar="TIME", help="and before then")
    command.add_argument("--account", help="of this account alone")
    command.add_argument("--price-file", metavar="FILE", help="with the prices that this file states, in their place")
    command.add_argument("--keep-markup", action="store_true", help="at the markup that was charged")
    command.add_argument("--apply", action="store_true", help="post the corrections; without it nothing is written")
    command.add_argument("--allow-debt", action="store_true", help="also take what is not there")
    command.add_argument("--reason", help="why, for the record; needed to apply")
    command.set_defaults(run=_rerate)
    add_database(command)


def _rerate(options: argparse.Namespace) -> int:
    """Return 0 where nothing is left to correct, 1 where something is; errors end as 2."""
    scope = Scope(
        parse_pattern(options.model, "--model", what="model name"),
        from_ms=time_ms(options.since, "--from"),
        to_ms=time_ms(options.until, "--to"),
        account_id=options.account,
        keeps_markup=options.keep_markup,
    )
    if scope.from_ms >= scope.to_ms or (options.apply and not (options.reason or "").strip()):
        msg = "--from must be before --to, and --apply needs a --reason"
        raise InvalidValue(msg)
    settings = load_settings()
    book = PriceBook.from_settings(with_prices_of(settings, options.price_file) if options.price_file else settings)
    database = open_database(database_url(options))
    require_current_schema(database)
    with contextlib.ExitStack() as stack:
        reads = stack.enter_context(contextlib.closing(Reads(database, threads=1)))
        posting = _posting(stack, database, options) if options.apply else None
        total = rerate(reads, book, scope, on_account=_print_account, posting=posting)
    return _print_total(total, posting)


def _posting(stack: contextlib.ExitStack, database: Database, options: argparse.Namespace) -> Posting:
    new_id = IdMaker()
    writer = stack.enter_context(contextlib.closing(LedgerWriter(database, new_id=new_id)))
    writer.start()
    return Posting(writer, new_id(), f"cli:{login_name()}", options.reason.strip(), allows_debt=options.allow_debt)


def _print_account(name: str, tally: Tally) -> None:
    if tally.difference or tally.skipped:
        print(f"{name}: {_figures(tally)}")


def _figures(tally: Tally) -> str:
    charged, due, difference = map(format_credits, (tally.charged, tally.due, tally.difference))
    parts = [f"{tally.requests:,} requests were charged {charged} credits, cost {due}, difference {difference}"]
    if tally.posted:
        verb = "taken" if tally.posted > 0 else "given back"
        parts.append(f"{format_credits(abs(tally.posted))} {verb}")
    if tally.short:
        parts.append(f"{format_credits(tally.short)} not taken, for it is not there")
    if tally.archived:
        parts.append(f"{tally.archived:,} archived transfers were not looked at")
    if tally.unpriced:
        parts.append(f"{tally.unpriced:,} requests have no price now")
    if tally.unexplained:
        parts.append(f"{tally.unexplained:,} requests were charged more than their own price says")
    return "; ".join(parts)


def _print_total(total: Tally, posting: Posting | None) -> int:
    print(f"all: {_figures(total)}")
    left = total.difference - total.posted
    if posting is None and left:
        print("nothing was changed; --apply corrects it")
    elif posting is not None and total.posted:
        print(f"corrected; the transfers refer to rerate:{posting.rerating_id}")
    return int(left != 0)
