"""Real recorded requests get the same status, and every member that Stripe's answer had, from the sandbox."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

RECORDINGS = Path(__file__).parents[2].parent / "shared" / "stripe" / "recordings"
FILES = sorted(RECORDINGS.glob("*.json"))

# What does not apply yet, with the reason: the first pattern that matches "METHOD path?query body" counts.
OUT_OF_SCOPE = [
    (r"\w+ /v1/plans/", "plans are the old form of recurring prices; the sandbox has no subscriptions yet"),
    (r"\w+ /v1/subscriptions", "no subscriptions yet"),
    (r"\w+ /v1/subscription_items", "no subscriptions yet"),
    (r"\w+ /v1/setup_intents", "no setup intents yet"),
    (r"\w+ /v1/invoices", "no invoices yet"),
    (r"\w+ /v1/invoiceitems", "no invoices yet"),
    (r"\w+ /v1/invoice_payments", "no invoices yet"),
    (r"\w+ /v1/credit_notes", "no invoices yet"),
    (
        r"POST /v1/payment_methods .*type=",
        "local methods are not sold with, and bank accounts have to be Stripe's test accounts",
    ),
]
FOREIGN_INTENT = "the payment intent or charge was made by a subscription or an invoice"
FOREIGN_METHOD = "its payment method is a local one"

_ID = re.compile(r"\b((?:cus|pm|pi|ch|re|txn|in|sub)_[A-Za-z0-9]{8,})\b")


def _pairs() -> list[dict[str, Any]]:
    return [pair | {"file": file.name} for file in FILES for pair in json.loads(file.read_text())]


def _reason(pair: dict[str, Any]) -> str | None:
    if pair["status"] == 401:
        return None
    line = f"{pair['method']} {pair['path']} {pair['request_body']}"
    return next((reason for pattern, reason in OUT_OF_SCOPE if re.match(pattern, line)), None)


class Replay:
    """Plays one recording; `ids` maps recorded ids to the sandbox's own."""

    def __init__(self, sandbox, http) -> None:
        self.sandbox, self.http = sandbox, http
        self.ids: dict[str, str] = {}
        self.untestable: set[str] = set()
        self.outcomes: Counter[str] = Counter()

    async def play(self, pair: dict[str, Any]) -> None:
        reason = _reason(pair) or await self._missing(pair)
        self.outcomes[reason or "replayed"] += 1
        if reason is not None:
            self.untestable |= set(_ID.findall(json.dumps(pair["response"]))) - set(self.ids)
            return
        status, body = await self.send(pair["method"], pair["path"], pair["request_body"], valid=pair["status"] != 401)
        where = f"{pair['method']} {pair['path']} {pair['request_body']}: {body}"
        assert status == pair["status"], where
        self._compare(pair["response"], body, where)
        self._learn(pair["response"], body)

    async def send(self, method: str, path: str, body: str = "", *, valid: bool = True) -> tuple[int, dict[str, Any]]:
        translate = lambda text: _ID.sub(lambda found: self.ids.get(found[1], found[1]), text)  # noqa: E731
        headers = {"Authorization": f"Bearer {'sk_test_sandbox' if valid else 'sk_test_wrong'}"}
        if method == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urlencode(parse_qsl(translate(body), keep_blank_values=True))
        url = self.sandbox.url + translate(path)
        async with self.http.request(method, url, data=body or None, headers=headers) as response:
            return response.status, await response.json()

    async def _missing(self, pair: dict[str, Any]) -> str | None:
        """Make what existed before the recording began; says why where that is impossible."""
        if pair["status"] in {401, 404}:
            return None
        customer = None
        for recorded in dict.fromkeys(_ID.findall(f"{pair['path']} {pair['request_body']}")):
            kind = recorded.partition("_")[0]
            if recorded in self.ids:
                customer = recorded if kind == "cus" else customer
            elif recorded.startswith("pm_card_"):
                continue
            elif recorded in self.untestable or kind not in {"cus", "pm"}:
                return FOREIGN_METHOD if kind == "pm" else FOREIGN_INTENT
            elif kind == "cus":
                customer = await self._make_customer(recorded, pair["response"])
            else:
                _, made = await self.send("POST", "/v1/payment_methods/pm_card_visa/attach", f"customer={customer}")
                self.ids[recorded] = made["id"]
        return None

    async def _make_customer(self, recorded: str, like: dict[str, Any]) -> str:
        known = {name: like[name] for name in ("name", "email") if isinstance(like.get(name), str)}
        _, made = await self.send("POST", "/v1/customers", urlencode(known))
        self.ids[recorded] = made["id"]
        return recorded

    def _compare(self, recorded: Any, ours: Any, where: str) -> None:
        """Each member of the recorded object, and of the objects inside it, is there."""
        if isinstance(recorded, dict) and isinstance(ours, dict):
            if recorded.get("object") == "list":
                assert ours.get("object") == "list", where
                return
            missing = set(recorded) - set(ours)
            # Below the objects there are hashes whose members depend on the account (its payment methods).
            assert not missing or not {"object", "error"} & set(recorded), f"{sorted(missing)} in {where}"
            for name in set(recorded) & set(ours):
                self._compare(recorded[name], ours[name], where)

    def _learn(self, recorded: Any, ours: Any) -> None:
        if isinstance(recorded, dict) and isinstance(ours, dict):
            for name in set(recorded) & set(ours):
                self._learn(recorded[name], ours[name])
        elif isinstance(recorded, str) and isinstance(ours, str) and _ID.fullmatch(recorded):
            self.ids.setdefault(recorded, ours)


needs_recordings = pytest.mark.skipif(
    not FILES, reason="Stripe's recordings (../shared/stripe/recordings) are not here"
)


@needs_recordings
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem.removeprefix("test_"))
async def test_recorded_answers_are_matched(file, start_sandbox, http):
    replay = Replay(await start_sandbox(), http)
    for pair in json.loads(file.read_text()):
        await replay.play(pair)
    assert replay.outcomes


@needs_recordings
async def test_most_recorded_pairs_are_replayed_and_the_rest_has_a_reason(start_sandbox, http):
    total: Counter[str] = Counter()
    sandbox = await start_sandbox()
    for file in FILES:
        replay = Replay(sandbox, http)
        for pair in json.loads(file.read_text()):
            await replay.play(pair)
        total += replay.outcomes
    assert sum(total.values()) == len(_pairs())
    said = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text().replace("\n", " ")
    assert f"Of {len(_pairs())} recorded requests" in said
    assert f", {total['replayed']} are replayed" in said
    assert all(
        any(re.match(pattern, f"{p['method']} {p['path']} {p['request_body']}") for p in _pairs())
        for pattern, _ in OUT_OF_SCOPE
    )


@needs_recordings
@pytest.mark.parametrize(
    "pair",
    [pair for pair in _pairs() if pair["status"] >= 400 and _reason(pair) is None],
    ids=lambda pair: f"{pair['status']}-{urlsplit(pair['path']).path}-{pair['file'][5:40]}",
)
async def test_recorded_errors_have_the_same_code_type_and_words(pair, start_sandbox, http):
    replay = Replay(await start_sandbox(), http)
    for earlier in json.loads((RECORDINGS / pair["file"]).read_text()):
        if earlier["path"] == pair["path"] and earlier["request_body"] == pair["request_body"]:
            break
        await replay.play(earlier)
    await replay._missing(pair)
    status, body = await replay.send(pair["method"], pair["path"], pair["request_body"], valid=pair["status"] != 401)
    recorded, ours = pair["response"]["error"], body["error"]
    assert status == pair["status"]
    compared = ("type", "code", "decline_code", "param", "doc_url") + (("message",) if pair["status"] != 401 else ())
    assert {name: ours.get(name) for name in compared} == {name: recorded.get(name) for name in compared}
