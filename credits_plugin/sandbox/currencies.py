"""The currencies Stripe charges in, with their exponents and smallest charges; pure.

Source: https://docs.stripe.com/currencies (presentment currencies, zero- and three-decimal lists, minimum amounts).
"""

from __future__ import annotations

from credits_plugin.sandbox.errors import StripeError

CURRENCIES = frozenset(
    """
    aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf clp cny
    cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils inr isk jmd
    jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn nad
    ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd std szl
    thb tjs tnd top try ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xof xpf yer zar zmw
    """.split()
)
ZERO_DECIMAL = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf".split())
THREE_DECIMAL = frozenset("bhd jod kwd omr tnd".split())

_MINIMUM_MINOR = {
    "aed": 200, "bgn": 100, "czk": 1500, "dkk": 250, "gbp": 30, "hkd": 400, "huf": 17500, "jpy": 50, "mxn": 1000,
    "myr": 200, "nok": 300, "pln": 200, "ron": 200, "sek": 300, "thb": 1000,
}  # fmt: skip
_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "cad": "CA$", "aud": "A$", "nzd": "NZ$"}

MAXIMUM_MINOR = 99_999_999


def exponent(currency: str) -> int:
    """Decimals of one unit: 2, or 0 (JPY), or 3 (KWD)."""
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def minimum_minor(currency: str) -> int:
    """The smallest charge in minor units; 50 where Stripe publishes none."""
    return _MINIMUM_MINOR.get(currency, 50)


def check_step(amount_minor: int, currency: str, *, param: str) -> None:
    """Three-decimal currencies are charged in steps of ten; raises StripeError otherwise."""
    if currency in THREE_DECIMAL and amount_minor % 10:
        raise StripeError(
            f"Invalid amount: {currency.upper()} amounts must be evenly divisible by 10; round to the nearest ten.",
            code="parameter_invalid_integer",
            param=param,
        )


def format_money(amount_minor: int, currency: str) -> str:
    """`$12.50`, `¥500`, `KWD 1.250`: for people to read, with the currency's own exponent."""
    decimals = exponent(currency)
    whole, part = divmod(abs(amount_minor), 10**decimals)
    number = f"{whole:,}.{part:0{decimals}d}" if decimals else f"{whole:,}"
    symbol = _SYMBOLS.get(currency, f"{currency.upper()}\N{NO-BREAK SPACE}")
    return f"{'-' if amount_minor < 0 else ''}{symbol}{number}"
