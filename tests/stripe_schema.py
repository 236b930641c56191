"""Stripe's published schema as a judge, and a sandbox that brings every answer and every event of it before the judge.

Every suite that talks to a sandbox uses this one; without the document it checks nothing, and the tests of the judge
itself skip.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from credits_plugin.sandbox import Sandbox
from credits_plugin.sandbox.app import STATE
from credits_plugin.sandbox.objects import API_VERSION
from credits_plugin.sandbox.store import Change

SPEC = Path(__file__).parents[1].parent / "shared" / "stripe" / "spec3.json.gz"
DOCUMENT = "urn:stripe:spec"
COMPONENTS = f"{DOCUMENT}#/components/schemas/"

# Top-level members that the specification does not list (it is one API version behind, or never listed them), although
# Stripe's recorded answers or the official library have them.
KNOWN_BEYOND_SPEC = {
    "charge": {"destination", "dispute", "order", "source"},
    "checkout.session": {"allowed_payment_method_types"},
    "payment_intent": {"source"},
    "product": {"attributes", "type"},
}


@dataclass(frozen=True)
class Checker:
    """Stripe's OpenAPI document as a judge of answers and event snapshots."""

    spec: dict[str, Any]
    validator: Any

    def problems_of_answer(self, method: str, path: str, status: int, body: Any) -> list[str]:
        if status != 200:
            return self._problems(f"{COMPONENTS}error", body)
        schema = self._schema_of(method.lower(), path)
        if schema is None:
            return [f"{method} {path} is not an endpoint of Stripe"]
        return self._problems(schema, body) + self._event_problems(body)

    def problems_of_object(self, obj: dict[str, Any]) -> list[str]:
        name = f"deleted_{obj['object']}" if obj.get("deleted") else obj["object"]
        return self._problems(f"{COMPONENTS}{name}", obj)

    def _event_problems(self, body: Any) -> list[str]:
        events = body.get("data") or [] if body.get("object") == "list" else [body]
        return [
            f"{event['type']}: {problem}"
            for event in events
            if event.get("object") == "event"
            for problem in self.problems_of_object(event["data"]["object"])
        ]

    def _schema_of(self, method: str, path: str) -> str | None:
        for template, operations in self.spec["paths"].items():
            if method in operations and re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
                pointer = template.replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
                return f"{DOCUMENT}#/paths/{pointer}/{method}/responses/200/content/application~1json/schema"
        return None

    def _problems(self, reference: str, body: Any) -> list[str]:
        errors = self.validator.evolve(schema={"$ref": reference}).iter_errors(body)
        return [_described(error) for error in errors] + self._unknown_members(body)

    def _unknown_members(self, node: Any) -> list[str]:
        """Members of any object in an answer that neither the specification nor the list above knows."""
        if isinstance(node, list):
            return [problem for element in node for problem in self._unknown_members(element)]
        if not isinstance(node, dict):
            return []
        kind = node.get("object")
        if not isinstance(kind, str):  # `data` of an event, whose `object` is the snapshot
            return self._unknown_members(list(node.values()))
        known = self.spec["components"]["schemas"].get(f"deleted_{kind}" if node.get("deleted") else kind)
        extra = set(node) - set(known["properties"]) - KNOWN_BEYOND_SPEC.get(kind, set()) if known else set()
        return [f"{kind} has unknown {sorted(extra)}"] * bool(extra) + self._unknown_members(list(node.values()))


def _described(error: ValidationError) -> str:
    """The error, and for alternatives why none of them fits."""
    reasons = [f"{part.json_path}: {part.message[:200]}" for part in error.context or ()]
    return f"{error.json_path}: {error.message[:200]} {reasons or ''}"


def _nullable(keyword: str) -> Any:
    original = Draft202012Validator.VALIDATORS[keyword]

    def check(validator: Any, value: Any, instance: Any, schema: dict[str, Any]) -> Any:
        if instance is None and schema.get("nullable"):
            return ()
        return original(validator, value, instance, schema)

    return check


@functools.cache
def load_checker() -> Checker | None:
    """OpenAPI 3.0 differs from JSON Schema in `nullable`; expandable fields are `anyOf`s of a string and objects."""
    if not SPEC.exists():
        return None
    spec = json.loads(gzip.decompress(SPEC.read_bytes()))
    keywords = {keyword: _nullable(keyword) for keyword in ("type", "anyOf", "allOf", "oneOf", "enum")}
    registry = Registry().with_resource(DOCUMENT, DRAFT202012.create_resource(spec))
    return Checker(spec, validators.extend(Draft202012Validator, keywords)({}, registry=registry))


class CheckedSandbox(Sandbox):
    """Closing it fails if any answer or event was wrong; `problems` says how so far."""

    def application(self) -> web.Application:
        self.problems: list[str] = []
        app = super().application()
        app.on_response_prepare.append(self._check_answer)
        store = app[STATE].store
        store.on_commit(lambda changes: self._check_events([store.get(*change) for change in _new_events(changes)]))
        return app

    async def close(self) -> None:
        await super().close()
        found, self.problems = getattr(self, "problems", []), []
        assert not found, "\n".join(found[:20])

    async def _check_answer(self, request: web.Request, response: web.StreamResponse) -> None:
        checker = load_checker()
        private = request.path.startswith("/v1/payment_pages")  # which Stripe does not publish
        if checker is None or private or not request.path.startswith("/v1/") or not isinstance(response, web.Response):
            return
        body = json.loads(response.text or "null")
        for problem in checker.problems_of_answer(request.method, request.path, response.status, body):
            self.problems.append(f"{request.method} {request.path} {response.status}: {problem}")

    def _check_events(self, events: list[dict[str, Any] | None]) -> None:
        checker = load_checker()
        for event in filter(None, events if checker else []):
            if event["api_version"] == API_VERSION and not event["livemode"]:  # others are wrong on purpose
                problems = checker.problems_of_object(event) + checker.problems_of_object(event["data"]["object"])
                self.problems += [f"event {event['type']}: {problem}" for problem in problems]


def _new_events(changes: list[Change]) -> list[Change]:
    return [change for change in changes if change[0] == "event"]
