"""OpenAI's API as a host that passes it on sees it: what a request can cost, what goes upstream, what comes back.

Requests are read strictly: a field is passed on only if what it can cost is counted, in the prompt, in the output's
limit, or nowhere. One that chooses another model, a faster tier, a paid tool or something that is stored under the
upstream's key would make calls that cost more than they are charged, or show one account what is another's. Tools that
the upstream runs are passed on only where the host names them: it knows whether it has a price for their calls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Self, TypeAlias

from hookspecs import AIRequest, Refusal, Usage

from ..errors import InvalidValue
from ..pricing.hosted_tools import DEFAULT_TOOL_CALLS, price_name
from ..pricing.usage import usage_from_openai
from ..web import refusal_response
from .base import Payer, StreamingCall, request_of, usage_or_none

Body: TypeAlias = Mapping[str, Any]

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
EMBEDDINGS: Final = "/v1/embeddings"
MAX_CHOICES: Final = 128
DO_NOT_RETRY: Final[Mapping[str, str]] = {"x-should-retry": "false"}
"""A header that OpenAI's own clients obey: the same request would end the same way."""

_SHARED: Final = (
    "model user stream stream_options temperature top_p top_logprobs tools tool_choice parallel_tool_calls "
    "safety_identifier prompt_cache_key store"
)
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    CHAT: frozenset(
        f"{_SHARED} messages n max_tokens max_completion_tokens stop seed logprobs logit_bias frequency_penalty "
        "presence_penalty response_format reasoning_effort verbosity functions function_call "
        "top_k min_p repetition_penalty".split()
    ),
    RESPONSES: frozenset(
        f"{_SHARED} input instructions max_output_tokens max_tool_calls text reasoning truncation include".split()
    ),
    EMBEDDINGS: frozenset("model user input dimensions encoding_format".split()),
}
ENDPOINTS: Final = tuple(_FIELDS)
"""Paths of the calls that can be metered."""

_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_OWN_TOOLS: Final = ("function", "custom")
_SPOKEN: Final = frozenset(("content", "refusal", "reasoning", "reasoning_content", "text", "name", "arguments"))
_LAST_EVENTS: Final = frozenset(("response.completed", "response.incomplete"))
_FAILURES: Final = frozenset(("error", "response.failed"))
_STANDARD_MEMBERS: Final = frozenset("type title status code detail success".split())
_STATUSES: Final = {"unknown_model": 404, "invalid_value": 400, "unidentified": 401}


def request_of_body(
    path: str,
    body: Body,
    payer: Payer | None,
    *,
    provider: str | None = None,
    request_id: str | None = None,
    min_output_tokens: int | None = None,
    hosted_tools: Collection[str] = (),
    most_tool_calls: int = DEFAULT_TOOL_CALLS,
) -> AIRequest:
    """Return the request that a body to one of :data:`ENDPOINTS` makes; several choices count as one output.

    ``min_output_tokens`` is for how short an answer it shall still be made, as in :class:`AIRequest`. ``hosted_tools``
    are those of the upstream's own tools that are served, in Responses alone, by the names of their prices
    (``web_search``). A request makes ``most_tool_calls`` of them, fewer if it says so: the limit is to be sent.

    Raises:
        InvalidValue: a field is wrong, or its cost is not known here; ``fields["field"]`` names it.
        RequestRefused: nobody pays.
    """
    for name in body.keys() - _FIELDS[path]:
        msg = f"{name:.100} is not served here: what it costs is not known."
        raise InvalidValue(msg, field=name)
    _require(isinstance(body.get("model"), str), "model", "the name of a model")
    _require(isinstance(body.get("stream"), bool | None), "stream", "true or false")
    tools = [*_list(body, "tools"), *_list(body, "functions")]
    hosted = [tool for tool in tools if tool.get("type", "function") not in _OWN_TOOLS]
    served = hosted_tools if path == RESPONSES else ()
    _require(all(_is_served(tool, served) for tool in hosted), "tools", " or ".join(["functions of your own", *served]))
    most = _limit(body, "max_tool_calls") or most_tool_calls
    # What shapes the answer is part of the prompt, too.
    tools += [body[name] for name in ("response_format", "text") if isinstance(body.get(name), dict)]
    request = request_of(
        payer,
        model=body["model"],
        provider=provider,
        messages=_prompt(path, body),
        tools=tools,
        max_output_tokens=1 if path == EMBEDDINGS else _output_limit(body),
        min_output_tokens=min_output_tokens,
        max_tool_calls=min(most, most_tool_calls) if hosted else None,
        stream=body.get("stream") is True,
    )
    return replace(request, request_id=request_id)


def upstream_body(
    path: str,
    body: Body,
    *,
    max_output_tokens: int,
    max_tool_calls: int | None = None,
    limit_field: str = "max_tokens",
) -> dict[str, Any]:
    """Return what to send on: with the limits that the hold covers, usage in streams, and nothing stored.

    ``limit_field`` is the upstream's name for the limit of a chat's output, of each of its choices.

    Raises:
        InvalidValue: the limit does not suffice for so many choices.
    """
    sent = {name: value for name, value in body.items() if name not in (*_LIMITS, "store")}
    if path == CHAT:
        sent[limit_field] = max_output_tokens // _choices(body)
        _require(sent[limit_field] > 0, "n", f"at most {max_output_tokens}, as many as tokens can be paid")
        if body.get("stream") is True:
            sent["stream_options"] = {**_object(body.get("stream_options")), "include_usage": True}
    if path == RESPONSES:
        sent |= {"max_output_tokens": max_output_tokens, "store": False}
        if max_tool_calls is not None:
            sent["max_tool_calls"] = max_tool_calls
    return sent


def request_id_of(headers: Mapping[str, str], path: str, raw: bytes) -> str | None:
    """Return the id that a client gave a request in ``Idempotency-Key`` or ``X-Request-Id``; it fits no other body."""
    named = headers.get("Idempotency-Key") or headers.get("X-Request-Id")
    if not named:
        return None
    return hashlib.sha256(b"\0".join((named.encode(errors="surrogateescape"), path.encode(), raw))).hexdigest()


def read_object(raw: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(raw)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - what was read is wrong, not what was passed
    return value


def usage_of(answer: Body) -> Usage | None:
    """Return the usage of an answer, of a chunk of a chat, or of the last event of a response, where it has one."""
    whole = answer if answer.get("usage") else _object(answer.get("response"))
    raw, output = _object(whole.get("usage")), whole.get("output")
    said = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    # An embedding has no output, and says nothing of it.
    told = {"completion_tokens": 0, **raw} if "prompt_tokens" in raw else raw
    return usage_or_none(told, partial(usage_from_openai, output=said))


def text_of(answer: Body) -> str:
    """Return the text that an answer, a chunk or an event brings: what was said, thought, and asked of tools."""
    delta = answer.get("delta")
    if isinstance(delta, str):
        return delta
    return "".join(_spoken(answer.get("choices"))) or "".join(_spoken(answer.get("output")))


class ApiError(Exception):
    """An answer in OpenAI's envelope: its status, its JSON and further headers."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, dict(headers or {})

    @classmethod
    def of(cls, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Self:
        """Make one; ``more`` are further members of the error."""
        kind = "server_error" if status >= 500 else "payment_required" if status == 402 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": code, **more}
        return cls(status, json.dumps({"error": error}).encode(), headers)

    @classmethod
    def refusing(cls, refusal: Refusal) -> Self:
        """Make that of a refused request: 402 with what is needed and available, and where credits are bought."""
        response = refusal_response(refusal)
        problem = json.loads(response.text or "{}")
        more = {name: value for name, value in problem.items() if name not in _STANDARD_MEMBERS}
        headers = {name: response.headers[name] for name in ("Retry-After",) if name in response.headers}
        status = _STATUSES.get(refusal.code, response.status)
        if status < 500:
            headers = dict(DO_NOT_RETRY)
        return cls.of(status, refusal.code, refusal.text, headers=headers, **more)

    @classmethod
    def invalid(cls, error: InvalidValue) -> Self:
        """Make that of a wrong field."""
        return cls.of(400, error.code, error.message, param=error.fields.get("field"))


class StreamReader:
    """Reads a streamed answer as it comes, meters it, and says what of it the client gets.

    ``is_over`` says that the upstream's last event came or that the credits ended, ``failure`` is the error that it
    reported instead. ``data: [DONE]`` is left out, so that it can be sent after the settlement. A chat's usage is shown
    to clients that asked for it.
    """

    def __init__(self, path: str, body: Body) -> None:
        self._is_chat = path == CHAT
        self._shows_usage = not self._is_chat or _object(body.get("stream_options")).get("include_usage") is True
        self._last: Body = {}
        self._rest = b""
        self._text = ""
        self._usage: Usage | None = None
        self.is_over = False
        self.failure: bytes | None = None

    async def read(self, piece: bytes, call: StreamingCall) -> bytes:
        """Read what the network brought, count its text, report its usage, and return what the client gets of it."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        out: list[bytes] = []
        for line in lines:
            if self.is_over or self.failure is not None:
                break
            self._text = ""
            out.append(self._read(line))
            if self._text and not await call.deliver(self._text):
                out.append(self._out_of_credits())
                self.is_over = True
        if self._usage is not None:
            call.report(self._usage)
        return b"".join(out)

    def last_event(self) -> bytes:
        """Return what ends a good answer."""
        return b"data: [DONE]\n\n" if self._is_chat else b""

    def _out_of_credits(self) -> bytes:
        # As if the limit were reached, where the protocol lets us say so.
        if not self._is_chat:
            body = ApiError.of(402, "insufficient_credits", "Your credits are used up.").body
            return b"data: " + body + b"\n\n"
        indices = [_object(choice).get("index", 0) for choice in self._last.get("choices") or ()]
        ends = [{"index": index, "delta": {}, "finish_reason": "length"} for index in indices]
        return b"data: " + json.dumps({**self._last, "choices": ends, "usage": None}).encode() + b"\n\n"

    def _read(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line + b"\n" if line.startswith(b"event:") else b""
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            self.is_over = True
            return b""
        try:
            chunk = read_object(data)
        except ValueError:
            self.failure = ApiError.of(502, "upstream_failed", "The upstream's answer cannot be read.").body
            return b""
        self._usage = usage_of(chunk) or self._usage
        self._text = text_of(chunk)
        if chunk.get("error") or chunk.get("type") in _FAILURES:
            self.failure = data
            return b""
        self.is_over = chunk.get("type") in _LAST_EVENTS
        self._last = chunk if chunk.get("choices") else self._last
        return self._shown(chunk, data)

    def _shown(self, chunk: Body, data: bytes) -> bytes:
        if not self._shows_usage and "usage" in chunk:
            if chunk["usage"] and not chunk.get("choices"):
                return b""
            data = json.dumps({name: value for name, value in chunk.items() if name != "usage"}).encode()
        return b"data: " + data + b"\n\n"


def _prompt(path: str, body: Body) -> Sequence[Body]:
    if path == CHAT:
        return _list(body, "messages")
    given = body.get("input")
    if path == RESPONSES and isinstance(given, list):
        items = _list(body, "input")
        _require(all(item.get("type") != "item_reference" for item in items), "input", "items, none by reference")
    else:
        _require(isinstance(given, str | list), "input", "a text or a list")
        items = [{"role": "user", "content": given}]
    return [*items, {"role": "system", "content": body.get("instructions") or ""}]


def _output_limit(body: Body) -> int | None:
    choices = _choices(body)
    limits = (_limit(body, name) for name in _LIMITS)
    return next((choices * limit for limit in limits if limit is not None), None)


def _limit(body: Body, name: str) -> int | None:
    limit = body.get(name)
    _require(limit is None or (type(limit) is int and limit > 0), name, "a whole number above 0")
    return limit


def _is_served(tool: Body, served: Collection[str]) -> bool:
    return isinstance(tool["type"], str) and price_name(tool["type"]) in served


def _choices(body: Body) -> int:
    choices = 1 if body.get("n") is None else body["n"]
    _require(type(choices) is int and 0 < choices <= MAX_CHOICES, "n", f"a whole number from 1 to {MAX_CHOICES}")
    return int(choices)


def _list(body: Body, name: str) -> list[Body]:
    value = body.get(name) or []
    _require(isinstance(value, list) and all(isinstance(item, dict) for item in value), name, "a list of objects")
    return list(value)


def _require(holds: bool, name: str, wanted: str) -> None:
    if not holds:
        msg = f"{name} must be {wanted}."
        raise InvalidValue(msg, field=name)


def _object(value: object) -> Body:
    return value if isinstance(value, dict) else {}


def _spoken(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, str) and name in _SPOKEN:
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _spoken(item, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "reasoning_details":  # says again what ``reasoning`` says
                yield from _spoken(item, key)
