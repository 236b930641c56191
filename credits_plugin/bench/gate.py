"""What the whole gate costs an AI request in CPU time: hooks, estimate, price, hold and settle, in the host's process.

It is the process's CPU time (the event loop's thread, the writer's and the checkpoints') per request, less that of the
same loop without the plugin. Waiting for the disk costs a request time, but the host nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pydoc_data import topics
from typing import Any, Final

import pluggy

from hookspecs import PROJECT_NAME, AIRequest, CreditsSpecs, Hold, HookCaller, Outcome, OutcomeStatus, Usage

from ..bootstrap import Credits, build
from ..plugin import CreditsPlugin
from ..settings import Settings
from .environment import Bench, Scale
from .ledger import account_name, grant_fortunes, require_clean
from .report import Bar, at_most, bar
from .rounds import Measure, Rounds, interleave

MODEL: Final = "gpt-4o"
PROMPT_CHARACTERS: Final = 4_000
_NEW_CHARACTERS: Final = 400
_USERS: Final = 1_000
_OUTCOME: Final = Outcome(OutcomeStatus.COMPLETED, Usage(input=700, cache_read=300, output=250))
_TEXT: Final = "\n".join(text for text in topics.topics.values() if isinstance(text, str))
"""English prose with a little code: half a million characters of Python's own language reference."""

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Way:
    """A kind of prompt at a number of requests under way at the same time."""

    name: str
    concurrency: int
    prompts: Callable[[], Iterator[Messages]]


def measure_gate(bench: Bench) -> list[Bar]:
    """Measure a typical chat at several concurrencies, and prompts wholly seen or wholly new at 64."""
    credits = build(Settings(database_url=bench.sqlite()))
    try:
        hooks = _plugged_in(credits)
        names = [account_name(number) for number in range(min(bench.scale.accounts, _USERS))]
        asyncio.run(grant_fortunes(credits.writer, names))
        rounds = _run(hooks, names, bench.scale)
        require_clean(credits.database)
    finally:
        credits.close_sync()
    return _bars(rounds)


def chat_prompts() -> Iterator[Messages]:
    """Yield a conversation of 4,000 characters: all but the newest message, a tenth of it, was in earlier requests."""
    old = _TEXT[:PROMPT_CHARACTERS]
    system, question, answer = old[:1_200], old[1_200:2_000], old[2_000 : PROMPT_CHARACTERS - _NEW_CHARACTERS]
    for new in _new_texts(_NEW_CHARACTERS):
        yield [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": new},
        ]


def seen_prompts() -> Iterator[Messages]:
    """Yield one message of 4,000 characters, always the same."""
    messages = [{"role": "user", "content": _TEXT[:PROMPT_CHARACTERS]}]
    while True:
        yield messages


def new_prompts() -> Iterator[Messages]:
    """Yield messages of 4,000 characters that were never seen before."""
    for text in _new_texts(PROMPT_CHARACTERS):
        yield [{"role": "user", "content": text}]


def _new_texts(characters: int) -> Iterator[str]:
    for number in count(time.monotonic_ns()):
        start = number * 997 % (len(_TEXT) - characters)
        yield f"{number} {_TEXT[start : start + characters]}"[:characters]


_WAYS: Final = (
    Way("chat at 1", 1, chat_prompts),
    Way("chat at 64", 64, chat_prompts),
    Way("chat at 256", 256, chat_prompts),
    Way("seen at 64", 64, seen_prompts),
    Way("new at 64", 64, new_prompts),
)


def _plugged_in(credits: Credits) -> HookCaller:
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    manager.register(CreditsPlugin(credits))
    return HookCaller(manager)


def _run(hooks: HookCaller, names: Sequence[str], scale: Scale) -> Rounds:
    def measure(way: Way) -> Measure:
        requests = scale.gate_requests if way.concurrency > 1 else scale.gate_requests // 4

        def run() -> dict[str, float]:
            gated = asyncio.run(_cpu_s(way, names, requests=requests, hooks=hooks))
            bare = asyncio.run(_cpu_s(way, names, requests=requests, hooks=None))
            return {way.name: (gated - bare) / requests * 1_000_000}

        return run

    return interleave(scale.rounds, *map(measure, _WAYS))


async def _cpu_s(way: Way, names: Sequence[str], *, requests: int, hooks: HookCaller | None) -> float:
    """Return the process's CPU time for ``requests`` requests; the prompts are made before."""
    prompts = way.prompts()
    pending = [
        AIRequest(names[number % len(names)], MODEL, next(prompts), max_output_tokens=1_000)
        for number in range(requests)
    ]

    async def serve() -> None:
        while pending:
            request = pending.pop()
            if hooks is None:
                await asyncio.sleep(0)
                continue
            hold = await hooks.before_ai_request(request)
            if not isinstance(hold, Hold):
                raise AssertionError(hold)  # noqa: TRY004 - a refusal is no wrong type
            await hooks.after_ai_request(request, hold, _OUTCOME)

    started = time.process_time()
    await asyncio.gather(*(serve() for _ in range(way.concurrency)))
    return time.process_time() - started


def _bars(rounds: Rounds) -> list[Bar]:
    what = f"{PROMPT_CHARACTERS:,}-character"
    return [
        bar(f"Gate: CPU a request, 64 at once, {what} chat", rounds.median("chat at 64"), "µs", at_most(120)),
        bar(f"Gate: CPU a request, one at a time, {what} chat", rounds.median("chat at 1"), "µs"),
        bar(f"Gate: CPU a request, 256 at once, {what} chat", rounds.median("chat at 256"), "µs"),
        bar(f"Gate: CPU a request, 64 at once, {what} prompt seen before", rounds.median("seen at 64"), "µs"),
        bar(f"Gate: CPU a request, 64 at once, {what} prompt never seen", rounds.median("new at 64"), "µs"),
    ]
