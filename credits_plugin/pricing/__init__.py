"""What an AI request costs: prices in memory, token bounds before the call, exact cost after it. No I/O."""
