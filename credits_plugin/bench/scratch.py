"""The database that ``--url`` names: whether a benchmark may write into it, and what one leaves there."""

from __future__ import annotations

from ..database import open_database, prepare_schema
from ..errors import InvalidValue
from ..models import Account
from .ledger import ACCOUNT_PREFIX


def require_scratch(url: str, *, accept_accounts: bool) -> None:
    """Migrate an empty database; refuse one that is not a benchmark's alone, unless ``accept_accounts``.

    Raises:
        InvalidValue: it holds other accounts.
        DatabaseError: it is not of this version; nothing was changed.
    """
    database = open_database(url)
    prepare_schema(database)
    with database.primary.connection_context():
        others = Account.select(Account.external_id).where(~Account.external_id.startswith(ACCOUNT_PREFIX))
        found = others.limit(1).tuples().execute(database.primary)
        other = next(iter(found), None)
    if other is not None and not accept_accounts:
        msg = (
            f"{database.name} holds accounts that are no benchmark's, such as {other[0]!r}. A benchmark grants its own "
            "accounts credits and spends them, and transfers are never removed: name an empty database, or add --yes"
        )
        raise InvalidValue(msg)


def what_is_left(url: str) -> str:
    """Say what benchmarks have left in the database."""
    database = open_database(url)
    sql = f"SELECT count(*), coalesce(sum(seq), 0) FROM account WHERE external_id LIKE '{ACCOUNT_PREFIX}%'"
    with database.primary.connection_context():
        accounts, transfers = database.primary.connection().execute(sql).fetchone()
    return (
        f"left in {database.name}: {accounts:,} accounts named {ACCOUNT_PREFIX}0 and so on, with {transfers:,} "
        "transfers; drop the database when you need it no more"
    )
