"""A pydantic-ai agent with prepaid credits: ``python examples/pydantic_ai_agent.py "Hello"``.

Which provider answers, and whose credits are used: see example_credits.py.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from example_credits import example_credits
from pydantic_ai import Agent, RunContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from credits_plugin.adapters import Payer
from credits_plugin.adapters.pydantic_ai import MeteredRequests


@dataclass(frozen=True, slots=True)
class Session:
    """What the host knows of the run: who has signed in."""

    user: str


def payer_of(context: RunContext[Session] | None) -> Payer | None:
    """Name who pays: the user of the host's own session, never what a message says."""
    return Payer(context.deps.user) if context is not None else None


async def main(prompt: str) -> None:
    """Ask once, and once more as a stream."""
    async with example_credits("ada") as (service, provider):
        model = OpenAIChatModel(provider.model, provider=OpenAIProvider(base_url=provider.url, api_key=provider.key))
        agent = Agent(
            model,
            deps_type=Session,
            capabilities=[MeteredRequests(service, payer_of)],  # credits: holds and settles each model request
        )
        result = await agent.run(prompt, deps=Session("ada"))
        print(result.output)
        async with agent.run_stream(prompt, deps=Session("ada"), message_history=result.all_messages()) as stream:
            async for text in stream.stream_text(delta=True):
                print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is a prepaid credit?"))
