"""An agent of openai-agents with prepaid credits: ``python examples/openai_agents_agent.py "Hello"``.

Which provider answers, and whose credits are used: see example_credits.py.
"""

from __future__ import annotations

import asyncio
import sys

from agents import Agent, OpenAIProvider, RunConfig, Runner
from example_credits import Provider, example_credits

from credits_plugin import Credits
from credits_plugin.adapters import Payer
from credits_plugin.adapters.openai_agents import MeteredProvider
from credits_plugin.metering import RequestRefused


def run_config(service: Credits, provider: Provider, user: str) -> RunConfig:
    """Configure one run: whoever has signed in to the host pays for it."""
    upstream = OpenAIProvider(base_url=provider.url, api_key=provider.key, use_responses=False)
    # credits: holds and settles each model call of the run, also those of agents that it hands over to
    metered = MeteredProvider(service, Payer(user), wrapped=upstream)
    return RunConfig(model_provider=metered, tracing_disabled=True)


async def main(prompt: str) -> None:
    """Ask once, and once more as a stream."""
    async with example_credits("ada") as (service, provider):
        agent = Agent(name="Assistant", instructions="Answer briefly.", model=provider.model)
        try:
            result = await Runner.run(agent, prompt, run_config=run_config(service, provider, "ada"))
            print(result.final_output)
            stream = Runner.run_streamed(agent, prompt, run_config=run_config(service, provider, "ada"))
            async for event in stream.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    print(event.data.delta, end="", flush=True)
            print()
        except RequestRefused as refused:
            print(refused.refusal.text)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is a prepaid credit?"))
