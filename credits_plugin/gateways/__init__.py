"""The outside world: every call to Stripe and every verification of what claims to come from it."""
