"""An OpenAI-compatible provider with known usage, in a thread of its own, so that blocking hosts can call it too.

Every answer is the same ten words and says 120 prompt tokens, 64 of them cached, and 30 completion tokens. A stream
says so at its end, and where it is asked for continuous usage in every chunk, as vLLM does.
"""

from __future__ import annotations

import asyncio
import json
import threading
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

WORDS: Final = "one two three four five six seven eight nine ten".split()
ANSWER: Final = " ".join(WORDS)
USAGE: Final = {
    "prompt_tokens": 120,
    "completion_tokens": 30,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


class Behaviour(StrEnum):
    """What the provider does with the next requests."""

    ANSWER = "answer"
    FAIL = "fail"
    """500 before anything was said."""
    BREAK = "break"
    """A stream that breaks off after three words; without a stream the connection is closed."""
    LATE = "late"
    """The usual answer, which begins when another behaviour is set."""
    HANG = "hang"
    """A stream that says three words and then nothing more; without a stream, nothing at all."""
    NO_USAGE = "no_usage"
    """An answer without usage."""
    CUT_OFF = "cut_off"
    """An answer that reached its limit before its first word; its usage is the usual one."""
    CALL_TOOL = "call_tool"
    """A call of the first tool that is offered; once a tool has answered, the usual answer."""


class StubProvider:
    """``with StubProvider() as provider: … provider.url …``; ``calls`` are the decoded bodies that reached it."""

    def __init__(self) -> None:
        self.behaviour = Behaviour.ANSWER
        self.calls: list[dict[str, Any]] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete_text)
        app.router.add_get("/v1/models", _list_models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append(body)
        while self.behaviour is Behaviour.LATE:
            await asyncio.sleep(0.01)
        if self.behaviour is Behaviour.FAIL:
            return web.json_response({"error": {"message": "out of order", "type": "server_error"}}, status=500)
        if body.get("stream"):
            return await self._stream(request, body)
        if self.behaviour is Behaviour.HANG:
            await asyncio.sleep(3_600)
        if self.behaviour is Behaviour.BREAK and request.transport is not None:
            request.transport.abort()
        message, reason = self._say(body)
        answer = _frame(body, "chat.completion", {"index": 0, "message": message, "finish_reason": reason})
        if self.behaviour is not Behaviour.NO_USAGE:
            answer["usage"] = USAGE
        return web.json_response(answer)

    def _say(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        if self.behaviour is Behaviour.CUT_OFF:
            return {"role": "assistant", "content": ""}, "length"
        tools, said = body.get("tools"), body["messages"]
        if self.behaviour is not Behaviour.CALL_TOOL or not tools or any(message["role"] == "tool" for message in said):
            return {"role": "assistant", "content": ANSWER}, "stop"
        function = {"name": tools[0]["function"]["name"], "arguments": json.dumps({"input": "Hello"})}
        call = {"id": "call_1", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"

    async def _complete_text(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append(body)
        answer = _frame(body, "text_completion", {"index": 0, "text": ANSWER, "finish_reason": "stop"})
        if not body.get("stream"):
            return web.json_response(answer | {"usage": USAGE})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await _send(response, answer)
        if (body.get("stream_options") or {}).get("include_usage"):
            await _send(response, _frame(body, "text_completion") | {"usage": USAGE})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        options = body.get("stream_options") or {}
        message, reason = self._say(body)
        for index, word in enumerate((message["content"] or "").split()):
            if index == 3 and self.behaviour is Behaviour.HANG:
                await asyncio.sleep(3_600)
            if index == 3 and self.behaviour is Behaviour.BREAK and request.transport is not None:
                request.transport.abort()
                return response
            delta = {"role": "assistant", "content": word if index == 0 else f" {word}"}
            so_far = USAGE | {"completion_tokens": index} if options.get("continuous_usage_stats") else None
            frame = _frame(body, "chat.completion.chunk", {"index": 0, "delta": delta})
            await _send(response, frame | {"usage": so_far})
        for call in message.get("tool_calls", ()):
            for character in call["function"]["arguments"]:
                piece = call | {"index": 0, "function": call["function"] | {"arguments": character}}
                delta = {"role": "assistant", "tool_calls": [piece]}
                await _send(response, _frame(body, "chat.completion.chunk", {"index": 0, "delta": delta}))
        end = {"index": 0, "delta": {}, "finish_reason": reason}
        await _send(response, _frame(body, "chat.completion.chunk", end))
        if self.behaviour is not Behaviour.NO_USAGE and options.get("include_usage"):
            await _send(response, _frame(body, "chat.completion.chunk") | {"usage": USAGE})
        await response.write(b"data: [DONE]\n\n")
        return response


def _frame(body: dict[str, Any], kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body.get("model"), "choices": list(choices)}


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


async def _list_models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "toy", "object": "model", "owned_by": "stub"}]})
