"""An upstream that speaks OpenAI's three calls with known usage, and does what a test tells it to."""

import asyncio
import json
from contextlib import asynccontextmanager

from aiohttp import web

WORDS = [f"word{number} " for number in range(20)]
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 20,
    "total_tokens": 32,
    "prompt_tokens_details": {"cached_tokens": 4},
}
KEY = "sk-upstream-0123456789"


class Upstream:
    """`script` replaces the events of the next streams (None breaks off), `status` and `error` the next answers.

    While `hangs`, and for a message "hang" always, a stream says three words and then nothing, the rest nothing at all.
    """

    def __init__(self):
        self.requests = []
        self.script = None
        self.status = 200
        self.error = {"error": {"message": "overloaded", "type": "server_error", "code": "busy"}}
        self.headers = {}
        self.hangs = False
        self.usage = USAGE
        self.left = asyncio.Event()  # a client has gone before the end

    @property
    def bodies(self):
        return [body for _, _, body in self.requests]

    async def answer(self, request):
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.path, dict(request.headers), body))
        if self.status != 200:
            return web.json_response(self.error, status=self.status, headers=self.headers)
        try:
            if body and body.get("stream"):
                return await self.stream(request, body)
            if self.hangs_at(body):
                await asyncio.sleep(3_600)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return web.json_response(self.whole(request.path, body), headers=self.headers)

    def whole(self, path, body):
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": "toy", "object": "model", "created": 1, "owned_by": "test"}]}
        if path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            usage = {"prompt_tokens": 7, "total_tokens": 7}
            return {"object": "list", "data": data, "model": body["model"], "usage": usage}
        if path == "/v1/responses":
            return response_of(body, "completed")
        choices = [
            {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(WORDS)}}
            for index in range(body.get("n") or 1)
        ]
        frame = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return frame | {"choices": choices} | ({"usage": self.usage} if self.usage else {})

    async def stream(self, request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **self.headers})
        await response.prepare(request)
        for event in self.script or self.events(request.path, body):
            if event is None:
                request.transport.abort()
                return response
            data = event if isinstance(event, str) else json.dumps(event)
            kind = event.get("type") if isinstance(event, dict) else None
            named = f"event: {kind}\n" if kind else ""
            await response.write(f"{named}data: {data}\n\n".encode())
        if self.hangs_at(body):
            await asyncio.sleep(3_600)
        return response

    def hangs_at(self, body):
        return self.hangs or bool(body and body.get("messages") and body["messages"][-1]["content"] == "hang")

    def events(self, path, body):
        if path == "/v1/responses":
            yield {"type": "response.created", "response": response_of(body, "in_progress")}
            for word in WORDS:
                yield {"type": "response.output_text.delta", "delta": word, "item_id": "m", "output_index": 0}
            yield {"type": "response.completed", "response": response_of(body, "completed")}
            return
        hangs = self.hangs_at(body)
        for word in WORDS[: 3 if hangs else None]:
            yield chunk(word)
        if hangs:
            return
        yield {**frame(), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}
        if self.usage and (body.get("stream_options") or {}).get("include_usage"):
            yield {**frame(), "choices": [], "usage": self.usage}
        yield "[DONE]"


def frame():
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "toy"}


def chunk(text):
    return {**frame(), "choices": [{"index": 0, "delta": {"content": text}}], "usage": None}


def response_of(body, status):
    part = {"type": "output_text", "text": "".join(WORDS), "annotations": []}
    item = {"type": "message", "id": "m", "role": "assistant", "status": status, "content": [part]}
    done = status == "completed"
    searches = [search(kind) for kind in ("search", "open_page", "search") if body.get("tools")]
    usage = {"input_tokens": 12, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 4}, "total_tokens": 32}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "status": status,
        "output": [*searches, item] if done else [],
        "usage": usage if done else None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def search(kind):
    action = {"type": kind} | ({"query": "moon"} if kind == "search" else {"url": "https://moon.example"})
    return {"type": "web_search_call", "id": f"ws_{kind}", "status": "completed", "action": action}


@asynccontextmanager
async def running_upstream():
    """Run one; yields it and its base URL."""
    upstream = Upstream()
    app = web.Application()
    app.router.add_route("*", "/v1/{rest:.*}", upstream.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield upstream, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
