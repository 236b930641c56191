"""What the adapters share: who pays, a host's call as a request, its usage, and streams that end when credits do."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from hookspecs import AIRequest, Refusal, Usage

from ..bootstrap import Credits
from ..metering import Call, RequestRefused
from ..pricing.usage import usage_from_openai

logger = logging.getLogger(__name__)

T = TypeVar("T")
Context = TypeVar("Context")


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays for a call, by the host's own authentication; the fields are those of :class:`AIRequest`.

    ``run_id`` names the run where the host has no name of its own for it, or where a sub-agent shares its caller's.
    """

    account_id: str
    key_id: str | None = None
    member_id: str | None = None
    run_id: str | None = None


Identify: TypeAlias = Callable[[Context], Payer | None]
"""From what the host knows of a run to who pays for it. Never from the model's output or a client's body."""

UNIDENTIFIED: Final = Refusal("unidentified", "Nobody is named who pays for this request. Sign in and try again.")


def request_of(
    payer: Payer | None,
    *,
    model: str,
    provider: str | None = None,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    max_output_tokens: int | None = None,
    min_output_tokens: int | None = None,
    max_tool_calls: int | None = None,
    cache_control: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    stream: bool = False,
) -> AIRequest:
    """Return the request of one provider call; its hold is extended while it streams.

    ``min_output_tokens`` is for how short an answer it shall still be made, where credits for a longer one are missing.

    Raises:
        RequestRefused: nobody pays (code ``unidentified``).
    """
    if payer is None:
        raise RequestRefused(UNIDENTIFIED)
    return AIRequest(
        account_id=payer.account_id,
        key_id=payer.key_id,
        member_id=payer.member_id,
        run_id=payer.run_id or run_id,
        model=model,
        provider=provider,
        messages=messages,
        tools=tools,
        max_output_tokens=max_output_tokens,
        min_output_tokens=min_output_tokens,
        max_tool_calls=max_tool_calls,
        cache_control=cache_control,
        stream=stream,
        can_extend=stream,
    )


def out_of_credits(service: Credits) -> RequestRefused:
    """Return what to raise after a stream that used up the credits before it had said anything that can be shown."""
    message = "Your credits ran out before there was an answer. Buy credits to go on."
    return RequestRefused(Refusal("insufficient_credits", message, purchase_url=service.settings.purchase_url))


def usage_or_none(raw: Mapping[str, Any] | None, translate: Callable[[Mapping[str, Any]], Usage]) -> Usage | None:
    """Translate a provider's usage; None where it gave none, only zeros (an abandoned stream) or nonsense (logged)."""
    if not raw:
        return None
    try:
        usage = translate(raw)
    except ValueError as error:
        logger.warning("the usage that a provider reported cannot be read: %s", error)
        return None
    return usage if usage.total_tokens else None


def usage_of_totals(
    *,
    input_tokens: int,
    output_tokens: int,
    cache_read: int = 0,
    cache_write: int = 0,
    cache_write_1h: int = 0,
    reasoning: int = 0,
    tool_calls: Mapping[str, int] | None = None,
) -> Usage | None:
    """Return the disjoint usage of a host that counts cached tokens as input and reasoning as output; None if zero.

    ``cache_write_1h`` are those of ``cache_write`` that were written to an hour's cache.
    """

    def translated(raw: Mapping[str, Any]) -> Usage:
        usage = usage_from_openai(raw)
        lasting = min(cache_write_1h, usage.cache_write)
        written = usage.cache_write - lasting
        return replace(usage, cache_write=written, cache_write_1h=lasting, tool_calls=tool_calls or {})

    raw = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "input_tokens_details": {"cached_tokens": cache_read, "cache_write_tokens": cache_write},
        "output_tokens_details": {"reasoning_tokens": reasoning},
    }
    return usage_or_none(raw, translated)


class StreamingCall(Protocol):
    """What a stream needs of ``async with credits.metered(…) as call``."""

    def report(self, usage: Usage) -> None:
        """Report the provider's usage."""

    async def deliver(self, text: str) -> bool:
        """Count delivered text; False when there are no credits for more."""


class SyncStreamingCall(Protocol):
    """What a stream needs of ``with credits.sync.metered(…) as call``."""

    def report(self, usage: Usage) -> None:
        """Report the provider's usage."""

    def deliver(self, text: str) -> bool:
        """Count delivered text; False when there are no credits for more."""


def no_usage(*_piece: object) -> None:
    """Stand for the usage of a piece, or of a stream, that carries none."""


async def guarded_stream(
    call: StreamingCall,
    source: AsyncIterable[T],
    *,
    text_of: Callable[[T], str],
    usage_of: Callable[[T], Usage | None] = no_usage,
    usage_at_end: Callable[[], Usage | None] = no_usage,
) -> AsyncGenerator[T, None]:
    """Yield a provider's pieces and count them; ends after the piece that used up the credits. Closes the source.

    ``usage_of`` reads the usage of the whole call from a piece, ``usage_at_end`` is asked when the provider has said
    all: until then a host's sum of usage is a part, and would charge an abandoned stream too little. So it is also how
    a host learns which end it was. The call's own ``async with``, around this, settles. Use ``aclosing`` around this,
    so that an abandoned stream ends here and now.
    """
    async with AsyncExitStack() as stack:
        if (close := getattr(source, "aclose", None)) is not None:
            stack.push_async_callback(close)
        async for piece in source:
            _report(call, usage_of(piece))
            text = text_of(piece)
            go_on = not text or await call.deliver(text)
            yield piece
            if not go_on:
                return
        _report(call, usage_at_end())


def guarded_iterator(
    call: SyncStreamingCall,
    source: Iterable[T],
    *,
    text_of: Callable[[T], str],
    usage_of: Callable[[T], Usage | None] = no_usage,
    usage_at_end: Callable[[], Usage | None] = no_usage,
) -> Generator[T, None, None]:
    """Do what :func:`guarded_stream` does, in a host's worker thread."""
    with ExitStack() as stack:
        if (close := getattr(source, "close", None)) is not None:
            stack.callback(close)
        for piece in source:
            _report(call, usage_of(piece))
            text = text_of(piece)
            go_on = not text or call.deliver(text)
            yield piece
            if not go_on:
                return
        _report(call, usage_at_end())


def report_answer(call: Call, usage: Usage | None, text: str) -> None:
    """Report a whole answer: its usage, or where the provider gave none its text, which is then counted."""
    if usage is not None:
        call.report(usage)
    else:
        call.add_streamed_text(text)


def _report(call: StreamingCall | SyncStreamingCall, usage: Usage | None) -> None:
    if usage is not None:
        call.report(usage)
