"""Errors as clients see them: stable codes, the right status, nothing that was not meant for them."""

from __future__ import annotations

import json

import pytest

from credits_plugin import errors
from credits_plugin.ledger.ids import now_ms
from credits_plugin.web import refusal_response
from credits_plugin.web.amounts import time_json
from credits_plugin.web.problems import problem_of
from hookspecs import Refusal

URL = "https://chat.example.com/credits"


def test_missing_credits_answer_402_with_the_figures_and_the_way_out():
    error = errors.InsufficientCredits("ada", needed=1_500_001, available=250_000)
    problem = problem_of(error, purchase_url=URL)
    assert problem.to_json() == {
        "type": "urn:credits-plugin:problem:insufficient_credits",
        "title": "Payment Required",
        "status": 402,
        "code": "insufficient_credits",
        "detail": "This needs 1.51 credits, and 0.25 are available.",
        "success": False,
        "needed": {"microcredits": 1_500_001, "credits": "1.500001"},
        "available": {"microcredits": 250_000, "credits": "0.25"},
        "purchase_url": URL,
    }


def test_debt_answers_402_with_a_negative_figure():
    problem = problem_of(errors.AccountInDebt("ada", needed=5, available=-1_230_000), purchase_url=URL)
    assert (problem.status, problem.code) == (402, "account_in_debt")
    assert problem.extra["available"] == {"microcredits": -1_230_000, "credits": "-1.23"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidValue("x"), 400),
        (errors.ForgedEvent("x"), 400),
        (errors.NotFound("x"), 404),
        (errors.UnknownModel("x"), 422),
        (errors.Overloaded("x"), 503),
        (errors.OutcomeUnknown("x"), 503),
        (errors.DatabaseError("x"), 503),
        (errors.DatabaseTooNew("x"), 503),
        (errors.RefundRefused("x"), 409),
        (errors.HoldEnded("x"), 409),
        (errors.GatewayError("x"), 502),
        (errors.GatewayOutcomeUnknown("x"), 503),
        (errors.ConfigurationError("x"), 500),
        (errors.CreditsError("x"), 500),
    ],
)
def test_each_error_has_its_status_and_keeps_its_code(error: errors.CreditsError, status: int):
    problem = problem_of(error, purchase_url=URL)
    assert (problem.status, problem.code) == (status, error.code)
    assert ("Retry-After" in problem.headers) is (status == 503)


def test_every_error_class_can_be_told():
    classes = [errors.CreditsError]
    for one in classes:
        classes += one.__subclasses__()
    assert {one.code for one in classes} >= {"insufficient_credits", "forged_event", "unauthenticated"}
    for one in classes:
        assert problem_of(_instance(one), purchase_url=URL).to_json()["code"] == one.code


def budget_exceeded(**changes: object) -> errors.BudgetExceeded:
    fields = {"kind": "key", "name": "k1", "period": "day", "limit": 10_000_000, "period_ends_at_ms": None}
    return errors.BudgetExceeded(
        "key 'k1' may spend no more", needed=2_000_000, available=1_000_000, **{**fields, **changes}
    )


def test_a_spent_budget_answers_402_with_the_cap_and_when_to_come_back():
    ends = now_ms() + 90_000
    problem = problem_of(budget_exceeded(period_ends_at_ms=ends), purchase_url=URL)
    assert (problem.status, problem.code) == (402, "budget_exceeded")
    assert problem.extra["budget"] == {
        "kind": "key",
        "name": "k1",
        "period": "day",
        "limit": {"microcredits": 10_000_000, "credits": "10"},
        "ends_at": time_json(ends),
        "paused": False,
    }
    assert problem.extra["purchase_url"] is None
    assert 88 <= int(problem.headers["Retry-After"]) <= 90
    assert problem.detail == "Key 'k1' may spend no more."


@pytest.mark.parametrize("changes", [{}, {"period_ends_at_ms": 2**41, "paused": True}])
def test_a_budget_that_time_does_not_fill_names_no_time(changes: dict[str, object]):
    problem = problem_of(budget_exceeded(**changes), purchase_url=URL)
    assert "Retry-After" not in problem.headers
    assert problem.extra["budget"]["paused"] is bool(changes)


def test_a_refusal_because_nobody_pays_is_a_401():
    answer = refusal_response(Refusal("unidentified", "Sign in."))
    assert (answer.status, json.loads(answer.text or "")["code"]) == (401, "unidentified")


def test_a_refusal_hands_on_its_retry_token():
    answer = refusal_response(Refusal("insufficient_credits", "No.", 2, 1, URL, retry_token="abc.def"))
    assert json.loads(answer.text or "")["retry_token"] == "abc.def"


def _instance(kind: type[errors.CreditsError]) -> errors.CreditsError:
    if issubclass(kind, errors.InsufficientCredits | errors.AccountInDebt):
        return kind("ada", needed=1, available=0)
    if issubclass(kind, errors.BudgetExceeded):
        return budget_exceeded()
    error = kind.__new__(kind)
    errors.CreditsError.__init__(error, "something")
    error.retryable = False
    return error


def test_fields_of_an_error_stay_inside():
    error = errors.NotFound("there is none", account_id="ada", secret="whsec_1")
    assert "whsec" not in json.dumps(problem_of(error, purchase_url=URL).to_json())


@pytest.mark.parametrize(
    ("code", "status"),
    [("insufficient_credits", 402), ("account_in_debt", 402), ("unknown_model", 422), ("gate_failed", 503)],
)
def test_a_refusal_becomes_the_hosts_answer(code: str, status: int):
    answer = refusal_response(Refusal(code, "No.", 2_000_000, 1_000_000, URL))
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    body = json.loads(answer.text or "")
    assert body["code"] == code
    assert body.get("purchase_url") == (URL if status == 402 else None)
