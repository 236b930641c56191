"""What an endpoint accepts: each parameter is parsed, checked and refused in Stripe's words; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from credits_plugin.sandbox.currencies import CURRENCIES
from credits_plugin.sandbox.errors import (
    StripeError,
    parameter_missing,
    parameter_unknown,
    unsupported_parameter,
    unsupported_value,
)

Parser = Callable[[Any, str], Any]
"""Takes the raw value (a string or a nested object) and the parameter's full name; raises StripeError."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. `clearable` ones may be sent empty, which unsets them (None)."""

    parse: Parser
    required: bool = False
    clearable: bool = False


Spec = Mapping[str, Param]


def read_params(raw: Mapping[str, Any], spec: Spec, *, prefix: str = "") -> dict[str, Any]:
    """Parse all parameters; absent ones stay absent. Unknown ones are refused before missing ones, as Stripe does."""
    for name in raw:
        if name not in spec:
            raise parameter_unknown(_full_name(prefix, name))
    values: dict[str, Any] = {}
    for name, param in spec.items():
        full_name = _full_name(prefix, name)
        if name in raw:
            values[name] = _read(raw[name], param, full_name)
        elif param.required:
            raise parameter_missing(full_name)
    return values


def _full_name(prefix: str, name: str) -> str:
    return f"{prefix}[{name}]" if prefix else name


def _read(raw: Any, param: Param, name: str) -> Any:
    if raw != "":
        return param.parse(raw, name)
    if param.clearable:
        return None
    raise StripeError(
        f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a field; however "
        f"'{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty value.",
        code="parameter_invalid_empty",
        param=name,
    )


def _string(raw: Any, name: str) -> str:
    if not isinstance(raw, str):
        raise StripeError(f"Invalid string: {raw}", param=name)
    return raw


def text(*, max_length: int = 5000, required: bool = False, clearable: bool = False) -> Param:
    """A string of up to `max_length` characters."""

    def parse(raw: Any, name: str) -> str:
        value = _string(raw, name)
        if len(value) > max_length:
            raise StripeError(f"Invalid string: {value[:20]}…; must be at most {max_length} characters", param=name)
        return value

    return Param(parse, required, clearable)


def integer(*, minimum: int | None = None, maximum: int | None = None, required: bool = False) -> Param:
    """A whole number, refused with `parameter_invalid_integer` when it is none or out of range."""

    def parse(raw: Any, name: str) -> int:
        value = _string(raw, name)
        if not re.fullmatch(r"-?[0-9]{1,15}", value):
            raise _invalid_integer(f"Invalid integer: {value}", name)
        number = int(value)
        if minimum is not None and number < minimum:
            raise _invalid_integer(f"This value must be greater than or equal to {minimum}.", name)
        if maximum is not None and number > maximum:
            raise _invalid_integer(
                f"This value must be less than or equal to {maximum} (it currently is '{number}').", name
            )
        return number

    return Param(parse, required)


def _invalid_integer(message: str, name: str) -> StripeError:
    return StripeError(message, code="parameter_invalid_integer", param=name)


def _parse_boolean(raw: Any, name: str) -> bool:
    value = _string(raw, name).lower()
    if value not in {"true", "false"}:
        raise StripeError(f"Invalid boolean: {value}", param=name)
    return value == "true"


def boolean() -> Param:
    """`true` or `false`."""
    return Param(_parse_boolean)


def must_be_false() -> Param:
    """A switch that Stripe has and the sandbox cannot turn on."""

    def parse(raw: Any, name: str) -> bool:
        if _parse_boolean(raw, name):
            raise unsupported_value(name, "true")
        return False

    return Param(parse)


def choice(*values: str, unsupported: tuple[str, ...] = (), required: bool = False, clearable: bool = False) -> Param:
    """One of Stripe's values; those the sandbox does not act on are refused by name."""
    known = (*values, *unsupported)

    def parse(raw: Any, name: str) -> str:
        value = _string(raw, name)
        if value in unsupported:
            raise unsupported_value(name, value)
        if value not in values:
            listed = f"{', '.join(known[:-1])}, or {known[-1]}" if len(known) > 1 else known[0]
            raise StripeError(f"Invalid {name}: must be one of {listed}", param=name)
        return value

    return Param(parse, required, clearable)


def currency(*, required: bool = False) -> Param:
    """A three-letter ISO code that Stripe charges in; returned in lower case."""

    def parse(raw: Any, name: str) -> str:
        value = _string(raw, name).lower()
        if value not in CURRENCIES:
            listed = ", ".join(sorted(CURRENCIES))
            raise StripeError(
                f"Invalid currency: {value}. Stripe currently supports these currencies: {listed}", param=name
            )
        return value

    return Param(parse, required)


def url(*, required: bool = False, clearable: bool = False) -> Param:
    """An absolute http(s) address."""

    def parse(raw: Any, name: str) -> str:
        value = _string(raw, name)
        try:
            parts = urlsplit(value)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"[\s\x00-\x1f]", value):
            raise StripeError("Not a valid URL", code="url_invalid", param=name)
        return value

    return Param(parse, required, clearable)


def email(*, clearable: bool = False) -> Param:
    """An e-mail address of up to 800 characters; checked for shape only."""

    def parse(raw: Any, name: str) -> str:
        value = _string(raw, name)
        if not is_email(value):
            raise StripeError(f"Invalid email address: {value}", code="email_invalid", param=name)
        return value

    return Param(parse, clearable=clearable)


def is_email(value: str) -> bool:
    """Whether this has the shape of an address."""
    return len(value) <= 800 and re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", value) is not None


def hash_of(spec: Spec, *, required: bool = False, clearable: bool = False) -> Param:
    """A nested object."""

    def parse(raw: Any, name: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise StripeError("Invalid object", param=name)
        return read_params(raw, spec, prefix=name)

    return Param(parse, required, clearable)


def list_of(item: Param, *, maximum: int = 100, required: bool = False, clearable: bool = False) -> Param:
    """An array; indices may be given or left empty."""

    def parse(raw: Any, name: str) -> list[Any]:
        if not isinstance(raw, dict) or not all(key.isascii() and key.isdigit() for key in raw):
            raise StripeError("Invalid array", param=name)
        if len(raw) > maximum:
            raise StripeError(f"Array too long: at most {maximum} elements are allowed.", param=name)
        return [_read(raw[key], item, f"{name}[{key}]") for key in sorted(raw, key=int)]

    return Param(parse, required, clearable)


def metadata() -> Param:
    """Up to 50 pairs of text; an empty value removes its key, an empty object removes all (None)."""

    def parse(raw: Any, name: str) -> dict[str, str]:
        if not isinstance(raw, dict):
            raise StripeError("Invalid object", param=name)
        if len(raw) > 50:
            raise StripeError("You can have up to 50 metadata keys.", param=name)
        for key, value in raw.items():
            _check_metadata(key, _string(value, f"{name}[{key}]"), name)
        return dict(raw)

    return Param(parse, clearable=True)


def _check_metadata(key: str, value: str, name: str) -> None:
    for what, content, limit in (("keys", key, 40), ("values", value, 500)):
        if len(content) > limit:
            raise StripeError(
                f"Metadata {what} can have up to {limit} characters, but you passed in a value that is {len(content)} "
                f"characters. Invalid value: {content[:40]}…",
                param=name,
            )


def merge_metadata(old: Mapping[str, str], new: Mapping[str, str] | None) -> dict[str, str]:
    """Stripe's rule for updates: pairs are added or replaced, empty values remove, None removes all."""
    if new is None:
        return {}
    return {key: value for key, value in {**old, **new}.items() if value != ""}


def created_filter() -> Param:
    """`created=TIME` or `created[gt|gte|lt|lte]=TIME`, parsed to a predicate on seconds."""
    bounds = hash_of({operator: integer() for operator in ("gt", "gte", "lt", "lte")})

    def parse(raw: Any, name: str) -> Callable[[int], bool]:
        if isinstance(raw, str):
            exact: int = integer().parse(raw, name)
            return lambda created: created == exact
        wanted: dict[str, int] = bounds.parse(raw, name)
        return lambda created: all(_COMPARE[operator](created, bound) for operator, bound in wanted.items())

    return Param(parse)


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda created, bound: created > bound,
    "gte": lambda created, bound: created >= bound,
    "lt": lambda created, bound: created < bound,
    "lte": lambda created, bound: created <= bound,
}


def unsupported(*names: str) -> dict[str, Param]:
    """Parameters that exist in this API version and that the sandbox refuses by name."""

    def refuse(_raw: Any, name: str) -> Any:
        raise unsupported_parameter(name)

    return {name: Param(refuse, clearable=False) for name in names}


EXPAND = {"expand": list_of(text())}
PAGING = {"limit": integer(minimum=1, maximum=100), "starting_after": text(), "ending_before": text()}
ADDRESS = hash_of(
    {name: text(clearable=True) for name in ("city", "country", "line1", "line2", "postal_code", "state")},
    clearable=True,
)
SHIPPING = hash_of(
    {"address": ADDRESS, "name": text(), "phone": text(), "carrier": text(), "tracking_number": text()}, clearable=True
)
