"""``python -m credits_plugin.bench.model_host [DELAY_MS]``: a model provider that costs next to nothing.

It answers every POST with the same chat completion, streamed or not, after a delay; prints its port, and runs until its
standard input ends. Its usage is that of ``gate.py``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

WORDS: Final = tuple(f"word{number} " for number in range(40))
USAGE: Final = {
    "prompt_tokens": 1_000,
    "completion_tokens": 250,
    "total_tokens": 1_250,
    "prompt_tokens_details": {"cached_tokens": 300},
}
_FRAME: Final = {"id": "chatcmpl-bench", "created": 1, "model": "gpt-4o"}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({**_FRAME, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _streamed() -> bytes:
    choices: list[list[dict[str, Any]]] = [[{"index": 0, "delta": {"content": word}}] for word in WORDS]
    choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    chunks = [{**_FRAME, "object": "chat.completion.chunk", "choices": choice, "usage": None} for choice in choices]
    chunks.append({**_FRAME, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    events = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events)


_WHOLE: Final = _whole()
_STREAMED: Final = _streamed()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            break
        await asyncio.sleep(delay_s)
        writer.write(_STREAMED if b'"stream": true' in body else _WHOLE)
    writer.close()


async def main(delay_ms: str = "0") -> None:
    """Serve."""
    delay_s = int(delay_ms) / 1_000
    async with await asyncio.start_server(
        lambda reader, writer: _answer(reader, writer, delay_s), "127.0.0.1", 0, backlog=1_024
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the measuring process reads it
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
