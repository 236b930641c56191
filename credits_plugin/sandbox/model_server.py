"""A stand-in for a model provider on loopback, speaking OpenAI's Chat Completions protocol over HTTP.

It is no language model: its answers are made of what it was sent, and say so. Everything around the answers is real:
validation, error envelope, streaming, limits, token counts and a prompt cache that shows up in the usage.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from credits_plugin.pricing.tokens import count_text_tokens

DEFAULT_MODEL: Final = "local-small"
MAX_BODY_BYTES: Final = 2 * 1024 * 1024
SHUTDOWN_S: Final = 0.5

_COUNTED_AS: Final = "gpt-4o"  # whose vocabulary (o200k) measures every text here
_COUNTED_AT_ONCE: Final = 8_000  # characters: at most 32,000 bytes, which the counter still counts exactly
_TOKENS_PER_MESSAGE: Final = 3  # the frame of a chat message, and of the answer's start, as OpenAI documents them
_CACHED_FROM_TOKENS: Final = 1_024
_CACHE_STEP_TOKENS: Final = 128
_CACHED_PREFIXES: Final = 4_096
_MOST_REPETITIONS: Final = 1_000
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True, slots=True)
class ModelServerSettings:
    """What a model server serves: model names, the pause before each streamed word, and a key to ask for, if any."""

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    word_delay_s: float = 0.02
    api_key: str | None = field(default=None, repr=False)


class ModelServer:
    """A running model server on 127.0.0.1: ``async with ModelServer() as server: … server.url …``. Port 0 is any."""

    def __init__(self, settings: ModelServerSettings | None = None, *, port: int = 0) -> None:
        self.settings = settings or ModelServerSettings()
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; raises OSError when the port is taken."""
        # A stream in progress ends with the server: nobody waits for the rest of a stand-in's answer.
        runner = web.AppRunner(
            create_app(self.settings), access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def close(self) -> None:
        """Stop listening; safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """Base address as OpenAI's clients want it, ``http://127.0.0.1:PORT/v1``."""
        if self._runner is None:
            msg = "the model server is not running: use `async with ModelServer()` or await start() first"
            raise RuntimeError(msg)
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def create_app(settings: ModelServerSettings) -> web.Application:
    """Build the server as an aiohttp application."""
    endpoints = _Endpoints(settings)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_envelope])
    app.router.add_get("/v1/models", endpoints.list_models)
    app.router.add_get("/v1/models/{model}", endpoints.show_model)
    app.router.add_post("/v1/chat/completions", endpoints.complete)
    return app


class ApiError(Exception):
    """An error in OpenAI's envelope. ``param`` names the field at fault."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def response(self) -> web.Response:
        """Return the HTTP answer."""
        error = {"message": str(self), "type": "invalid_request_error", "param": self.param, "code": self.code}
        return web.json_response({"error": error}, status=self.status)


@web.middleware
async def _envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPException as error:
        return ApiError(error.status, f"{error.reason} ({request.method} {request.path})").response()


@dataclass(frozen=True, slots=True)
class Completion:
    """A valid request of ``POST /v1/chat/completions``, as far as it matters here."""

    model: str
    messages: tuple[Mapping[str, Any], ...]
    max_tokens: int | None
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in the pieces that are streamed, and whether the limit cut it."""

    pieces: tuple[str, ...]
    cut: bool

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)

    @property
    def finish_reason(self) -> str:
        """Why it ended, in OpenAI's words."""
        return "length" if self.cut else "stop"


class _Endpoints:
    def __init__(self, settings: ModelServerSettings) -> None:
        self._settings = settings
        self._started_at = int(time.time())
        self._prompt_cache = _PromptCache()

    async def list_models(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        return web.json_response({"object": "list", "data": [self._model(name) for name in self._settings.models]})

    async def show_model(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        self._require_model(request.match_info["model"])
        return web.json_response(self._model(request.match_info["model"]))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self._authenticate(request)
        completion = _parse(await _read_json(request))
        self._require_model(completion.model)
        answer = _limit(compose_answer(completion.messages, completion.model), completion.max_tokens)
        usage = self._usage(completion, answer)
        frame = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": completion.model}
        if completion.stream:
            chunks = _chunks(frame, answer, usage if completion.include_usage else None)
            return await self._stream(request, chunks)
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return web.json_response({**frame, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _stream(self, request: web.Request, chunks: Iterator[dict[str, Any]]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        with suppress(ConnectionError):  # the client has gone; there is nobody to tell
            await response.prepare(request)
            for chunk in chunks:
                if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                    await asyncio.sleep(self._settings.word_delay_s)
                await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    def _usage(self, completion: Completion, answer: Answer) -> dict[str, Any]:
        prompt, cached = self._prompt_cache.count(completion.model, completion.messages)
        output = count_tokens(answer.text)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started_at, "owned_by": "credits-sandbox"}

    def _require_model(self, name: str) -> None:
        if name not in self._settings.models:
            msg = f"The model {name!r:.100} does not exist; served are {', '.join(self._settings.models)}."
            raise ApiError(404, msg, param="model", code="model_not_found")

    def _authenticate(self, request: web.Request) -> None:
        wanted = self._settings.api_key
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if wanted is not None and not hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode()):
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


async def _read_json(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request; it must be an object.")
    return body


def _parse(body: Mapping[str, Any]) -> Completion:
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "You must provide a model parameter.", param="model")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "'messages' must be an array of at least one message.", param="messages")
    for position, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            roles = ", ".join(sorted(_ROLES))
            raise ApiError(400, f"Each message needs a role out of {roles}.", param=f"messages[{position}].role")
    if body.get("n", 1) not in (None, 1):
        raise ApiError(400, "This server makes one choice per request: 'n' must be 1.", param="n")
    options = body.get("stream_options")
    return Completion(
        model=model,
        messages=tuple(messages),
        max_tokens=_parse_limit(body),
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _parse_limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if limit is not None:
            if type(limit) is not int or limit < 1:
                raise ApiError(400, f"Invalid {name!r}: must be a whole number above 0.", param=name)
            return limit
    return None


def _chunks(frame: Mapping[str, Any], answer: Answer, usage: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    def chunk(delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        # With include_usage, every chunk has the member and only the last one a figure.
        return {**frame, "object": "chat.completion.chunk", "choices": [choice], **({"usage": None} if usage else {})}

    yield chunk({"role": "assistant", "content": ""})
    for piece in answer.pieces:
        yield chunk({"content": piece})
    yield chunk({}, answer.finish_reason)
    if usage:
        yield {**frame, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def count_tokens(text: str) -> int:
    """Return the tokens of ``text`` in the o200k vocabulary; 8,000 characters are counted at a time."""
    starts = range(0, len(text), _COUNTED_AT_ONCE)
    return sum(count_text_tokens(text[start : start + _COUNTED_AT_ONCE], _COUNTED_AS) for start in starts)


class _PromptCache:
    """Remembers prompts by digest: a repeated beginning of 1,024 tokens or more counts as cached, as with OpenAI."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def count(self, model: str, messages: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Return the prompt's tokens, and how many of them a former prompt began with."""
        digest, tokens, cached = blake2b(model.encode(errors="replace"), digest_size=16), _TOKENS_PER_MESSAGE, 0
        for message in messages:
            digest.update(json.dumps(message, sort_keys=True).encode())
            tokens += _TOKENS_PER_MESSAGE + count_tokens(str(message["role"])) + count_tokens(_text_of(message))
            if self._seen(digest.digest()) and tokens >= _CACHED_FROM_TOKENS:
                cached = tokens - tokens % _CACHE_STEP_TOKENS
        return tokens, cached

    def _seen(self, prefix: bytes) -> bool:
        seen = prefix in self._known
        self._known[prefix] = None
        self._known.move_to_end(prefix)
        if len(self._known) > _CACHED_PREFIXES:
            self._known.popitem(last=False)
        return seen


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _limit(text: str, max_tokens: int | None) -> Answer:
    """Cut an answer into words, and off where the next word would exceed the limit."""
    pieces: list[str] = []
    left = max_tokens
    for piece in re.findall(r"\s?\S{1,24}|\s", text):
        if left is not None:
            left -= count_tokens(piece)  # a word takes at least as many tokens alone as within its text
            if left < 0:
                return Answer(tuple(pieces), cut=True)
        pieces.append(piece)
    return Answer(tuple(pieces), cut=False)


def compose_answer(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    """Return what the stand-in says to the last user message: it repeats, counts, summarises or describes it."""
    turns = [_text_of(message).strip() for message in messages if message["role"] == "user"]
    said = turns[-1] if turns else ""
    if match := re.match(r"(?is)(?:repeat|echo)\b\s*(?:(\d{1,4})\s+times\s*)?[:,]?\s*(.+)", said):
        times = min(int(match[1] or 1), _MOST_REPETITIONS)
        return " ".join([match[2]] * times)
    if re.match(r"(?i)(?:please\s+)?count\b", said):
        return _count(re.sub(r"(?i)^(?:please\s+)?count\b[^:]*:\s*", "", said))
    if re.match(r"(?i)(?:please\s+)?summari[sz]e\b", said):
        return _summarise(re.sub(r"(?i)^(?:please\s+)?summari[sz]e\b[^:]*:\s*", "", said))
    introduction = f"I am {model}: a local stand-in, not a language model. My answers are made of what you send me."
    if re.search(r"(?i)\b(who|what) are you\b|\bhelp\b|^\W*(hi|hello|hey)\b", said) or not said:
        return f"{introduction} Ask me to count, summarise or repeat something, or send any text to have it described."
    return f"{introduction}\n\n{_describe(said, turn=len(turns))}"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['\u2019]\w+)*", text)


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in re.split(r"(?<=[.!?…])\s+|\n+", text) if sentence.strip()]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _count(text: str) -> str:
    counts = [(len(_words(text)), "word"), (len(_sentences(text)), "sentence"), (len(text), "character")]
    parts = ", ".join(_plural(count, noun) for count, noun in counts)
    return f"That is {parts} and {_plural(count_tokens(text), 'token')}."


def _summarise(text: str) -> str:
    common = [word for word, _ in Counter(word.lower() for word in _words(text) if len(word) > 4).most_common(5)]
    about = f" Its most frequent longer words: {', '.join(common)}." if common else ""
    first = (_sentences(text) or ["nothing"])[0]
    return f"In short, it begins with: “{first:.300}”{about}"


def _describe(text: str, *, turn: int) -> str:
    longest = max(_words(text), key=len, default="none")
    question = " You asked a question, and I cannot know the answer." if text.endswith("?") else ""
    return (
        f"You wrote “{text:.300}”. {_count(text)} The longest word is “{longest:.60}”.{question} "
        f"This is message {turn} of our conversation."
    )
