"""The ledger: pure rules, one writer per process, a set-wise store, and a read side that never waits for it."""
