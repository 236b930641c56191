"""The judge itself: it lets Stripe's own recorded answers pass and finds what is wrong."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.resources import ROUTES
from credits_plugin.sandbox.resources.customers import create_customer
from credits_plugin.sandbox.store import Store

# Of the version after the published one.
ADDED = {("POST", "/v1/checkout/sessions"): {"allowed_payment_method_types"}}
REMOVED = {("POST", "/v1/checkout/sessions"): {"payment_method_types"}}


def pattern_of(path):
    return re.sub(r"{[^}]+}", "{}", path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_endpoint_knows_the_parameters_of_stripes_and_no_others(checker, route):
    """What the sandbox cannot do it refuses by name; `parameter_unknown` is for what Stripe does not know either."""
    path = next(path for path in checker.spec["paths"] if pattern_of(path) == pattern_of(route.path))
    operation = checker.spec["paths"][path][route.method.lower()]
    stripes = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"}
    form = operation.get("requestBody", {}).get("content", {}).get("application/x-www-form-urlencoded", {})
    stripes |= set(form.get("schema", {}).get("properties", {}))
    this = (route.method, route.path)
    assert set(route.spec) == stripes - REMOVED.get(this, set()) | ADDED.get(this, set())


@pytest.fixture
def customer():
    store = Store()
    call = Call(store=store, now=1_800_000_000, base_url="http://x", merchant_name="M", endpoint_ids=())
    with store.transaction():
        return create_customer(call, {"email": "a@example.com"})


def test_a_right_answer_passes(checker, customer):
    assert checker.problems_of_answer("GET", f"/v1/customers/{customer['id']}", 200, customer) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"created": "yesterday"}, "created"),
        ({"livemode": None}, "livemode"),
        ({"object": "person"}, "object"),
        ({"invoice_settings": {"footer": 5}}, "invoice_settings"),
        ({"surprise": 1}, "surprise"),
        ({"tax_exempt": "sometimes"}, "tax_exempt"),
    ],
)
def test_a_wrong_answer_is_found(checker, customer, change, word):
    problems = checker.problems_of_answer("POST", "/v1/customers", 200, customer | change)
    assert any(word in problem for problem in problems)


def test_a_wrong_answer_is_found_among_alternatives(checker, customer):
    problems = checker.problems_of_answer("GET", "/v1/customers/cus_x", 200, customer | {"livemode": None})
    assert any("livemode" in problem for problem in problems)


def test_a_missing_member_is_found(checker, customer):
    del customer["created"]
    assert checker.problems_of_answer("POST", "/v1/customers", 200, customer)


def test_a_wrong_snapshot_in_an_event_is_found(checker, customer):
    event = {
        "id": "evt_1", "object": "event", "api_version": None, "created": 1, "livemode": False, "pending_webhooks": 0,
        "request": None, "type": "customer.created", "data": {"object": customer},
    }  # fmt: skip
    assert checker.problems_of_answer("GET", "/v1/events/evt_1", 200, event) == []
    wrong = deepcopy(event)
    wrong["data"]["object"]["created"] = None
    assert checker.problems_of_answer("GET", "/v1/events/evt_1", 200, wrong)


def test_an_endpoint_that_stripe_does_not_have_is_found(checker):
    assert checker.problems_of_answer("GET", "/v1/wishes", 200, {}) == ["GET /v1/wishes is not an endpoint of Stripe"]


def test_an_error_without_its_type_is_found(checker):
    assert checker.problems_of_answer("GET", "/v1/customers", 400, {"error": {"message": "no"}})
    assert not checker.problems_of_answer(
        "GET", "/v1/customers", 400, {"error": {"message": "no", "type": "api_error"}}
    )
