"""A LangChain agent with prepaid credits: ``python examples/langchain_agent.py "Hello"``.

Which provider answers, and whose credits are used: see example_credits.py.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

from example_credits import example_credits
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

from credits_plugin.adapters import Payer
from credits_plugin.adapters.langchain import CreditsMiddleware


@dataclass(frozen=True, slots=True)
class Session:
    """What the host knows of the run: who has signed in."""

    user: str


def payer_of(runtime: Any) -> Payer | None:
    """Name who pays: the user of the host's own session, never what a message says."""
    return Payer(runtime.context.user) if runtime.context is not None else None


async def main(prompt: str) -> None:
    """Ask once, and once more as a stream."""
    async with example_credits("ada") as (service, provider):
        model = ChatOpenAI(model=provider.model, base_url=provider.url, api_key=lambda: provider.key)
        agent = create_agent(
            model,
            context_schema=Session,
            middleware=[CreditsMiddleware(service, payer_of)],  # credits: holds and settles each model call; stays last
        )
        asked = {"messages": [{"role": "user", "content": prompt}]}
        state = await agent.ainvoke(asked, context=Session("ada"))
        print(state["messages"][-1].text)
        async for chunk, _metadata in agent.astream(asked, context=Session("ada"), stream_mode="messages"):
            print(chunk.text, end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is a prepaid credit?"))
