"""`expand[]`: ids become objects, and includable lists appear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.store import Json, Store

MAX_DEPTH = 4

Loader = Callable[[Store, Json], Any]
"""Builds the value of a property that exists only when it is asked for."""

REFERENCES: dict[str, dict[str, str | None]] = {
    "balance_transaction": {"source": "*"},
    "charge": {
        "customer": "customer", "payment_intent": "payment_intent", "balance_transaction": "balance_transaction",
        "failure_balance_transaction": "balance_transaction", "application": None, "application_fee": None,
        "on_behalf_of": None, "review": None, "source_transfer": None, "transfer": None, "dispute": "dispute",
    },
    "checkout.session": {
        "customer": "customer", "payment_intent": "payment_intent", "invoice": None, "payment_link": None,
        "setup_intent": None, "subscription": None,
    },
    "customer": {
        "invoice_settings.default_payment_method": "payment_method", "default_source": None, "test_clock": None,
        "discount": None,
    },
    "dispute": {"charge": "charge", "payment_intent": "payment_intent"},
    "item": {"price": None},
    "payment_intent": {
        "customer": "customer", "latest_charge": "charge", "payment_method": "payment_method", "application": None,
        "on_behalf_of": None, "review": None,
    },
    "payment_method": {"customer": "customer"},
    "price": {"product": "product"},
    "product": {"default_price": "price", "tax_code": None},
    "refund": {
        "balance_transaction": "balance_transaction", "charge": "charge", "payment_intent": "payment_intent",
        "failure_balance_transaction": "balance_transaction", "source_transfer_reversal": None,
        "transfer_reversal": None,
    },
}  # fmt: skip
"""Expandable fields by object: the kind of their id, "*" for any, None where the sandbox never has an id there."""

INCLUDABLE: dict[tuple[str, str], Loader] = {}
"""Filled by the nouns: (object, field) → what builds it."""


def expand(store: Store, answer: Json, paths: list[str]) -> None:
    """Expand in place; raises StripeError (400) for what cannot be expanded."""
    for path in paths:
        parts = path.split(".")
        is_list = answer.get("object") == "list"
        if len(parts) - is_list > MAX_DEPTH:
            raise StripeError(
                f"You cannot expand more than {MAX_DEPTH} levels of a property. Property: {path}", param="expand"
            )
        if is_list and parts[0] != "data":
            raise _not_expandable(path, f" You may want to try expanding 'data.{path}' instead.")
        _Expansion(store, path).visit(answer, parts)


@dataclass(frozen=True, slots=True)
class _Expansion:
    """One path on its way through an answer; `owner` is the object around a node, `prefix` the node's place in it."""

    store: Store
    path: str

    def visit(self, node: Any, parts: list[str], *, owner: Json | None = None, prefix: str = "") -> None:
        if node is None or not parts:
            return
        if isinstance(node, list):
            for element in node:
                self.visit(element, parts)
            return
        if not isinstance(node, dict):
            raise _not_expandable(self.path)
        if "object" in node:
            owner, prefix = node, ""
        name, rest = parts[0], parts[1:]
        if owner is not None and owner.get("object") != "list":
            self._resolve(owner, node, name, f"{prefix}{name}")
        elif name != "data":
            raise _not_expandable(self.path)
        self.visit(node.get(name), rest, owner=owner, prefix=f"{prefix}{name}.")

    def _resolve(self, owner: Json, node: Json, name: str, full_name: str) -> None:
        references = REFERENCES.get(owner["object"], {})
        loader = INCLUDABLE.get((owner["object"], full_name))
        if loader is not None:
            node.setdefault(name, loader(self.store, owner))
        elif full_name in references:
            if isinstance(node.get(name), str):
                node[name] = self._load(references[full_name], node[name])
        elif not any(reference.startswith(f"{full_name}.") for reference in references):
            raise _not_expandable(self.path)

    def _load(self, kind: str | None, object_id: str) -> Any:
        kinds = ("charge", "refund", "dispute") if kind == "*" else (kind,)
        found = (self.store.get(candidate, object_id) for candidate in kinds if candidate)
        return next((obj for obj in found if obj is not None), object_id)


def _not_expandable(path: str, hint: str = "") -> StripeError:
    return StripeError(f"This property cannot be expanded ({path}).{hint}", param="expand")
