"""Moving a ledger: to another database, into a backup, and back. Nothing is believed moved before it is proven."""
