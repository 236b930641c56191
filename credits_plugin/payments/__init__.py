"""Our side of Stripe: packages, purchases, the webhook inbox and refunds. Imports no stripe; see ``gateway.py``."""
