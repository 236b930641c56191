"""Stripe's form encoding: `a[b][0][c]=v` to nested objects and back to plain text; pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from credits_plugin.sandbox.errors import StripeError

MAX_FIELDS = 1000
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)\Z")
_PART = re.compile(r"\[([^\[\]]*)\]")


def decode_form(body: bytes) -> dict[str, Any]:
    """Decode a query string or form body; leaves are strings, arrays are objects with the keys "0", "1", ….

    `a[]=x&a[]=y` counts up. Raises StripeError (400) for bytes that are no UTF-8, malformed keys, or a name that is
    used both as a value and as an object.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:  # UnicodeDecodeError is one as well
        raise StripeError("Invalid request: the parameters are not valid UTF-8 form fields.") from error
    root: dict[str, Any] = {}
    for key, value in pairs:
        _insert(root, key, value)
    return root


def _insert(root: dict[str, Any], key: str, value: str) -> None:
    match = _KEY.match(key)
    if match is None:
        raise StripeError(f"Invalid request: malformed parameter name: {key}", param=key)
    *path, last = [match[1], *_PART.findall(match[2])]
    node = root
    for part in path:
        node = node.setdefault(part or str(len(node)), {})
        if not isinstance(node, dict):
            raise StripeError(f"Invalid object: {key}", param=key)
    last = last or str(len(node))
    if isinstance(node.get(last), dict):
        raise StripeError(f"Invalid object: {key}", param=key)
    node[last] = value
