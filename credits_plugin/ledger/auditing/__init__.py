"""What `credits audit` is made of: snapshots by account range, the chain's walk, the checks, and exported heads."""
