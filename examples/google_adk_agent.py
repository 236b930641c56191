"""google-adk with prepaid credits: ``python examples/google_adk_agent.py "Hello"`` streams one answer.

The runner's user pays: your web framework authenticates it and passes it to ``run_async``. Use any of ADK's models
(Gemini, Claude, LiteLlm); the one below speaks to whatever is OpenAI-compatible.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
from example_credits import example_credits
from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from credits_plugin.adapters import Payer
from credits_plugin.adapters.google_adk import MeteredModels


class ChatModel(BaseLlm):
    """A model behind the Chat Completions protocol: text alone, always streamed."""

    url: str
    key: str

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield the pieces of the answer if they are wanted, then the whole."""
        payload = {
            "model": self.model,
            "messages": [
                {"role": content.role.replace("model", "assistant"), "content": text_of(content)}
                for content in llm_request.contents
            ],
            "max_tokens": llm_request.config.max_output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        text, usage, headers = "", None, {"Authorization": f"Bearer {self.key}"}
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.post(f"{self.url}/chat/completions", json=payload, headers=headers) as response,
        ):
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line.removeprefix(b"data: "))
                usage = usage_metadata(chunk["usage"]) if chunk.get("usage") else usage
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content") or ""
                    text += piece
                    if stream and piece:
                        yield LlmResponse(content=said(piece), partial=True)
        yield LlmResponse(content=said(text), partial=False, usage_metadata=usage)


def said(text: str) -> types.Content:
    """Return what the model said."""
    return types.Content(role="model", parts=[types.Part(text=text)])


def text_of(content: types.Content) -> str:
    """Return the text of a content."""
    return "".join(part.text or "" for part in content.parts or ())


def usage_metadata(usage: dict[str, Any]) -> types.GenerateContentResponseUsageMetadata:
    """Return usage in Gemini's format, as ADK wants it."""
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=usage["prompt_tokens"],
        cached_content_token_count=usage["prompt_tokens_details"]["cached_tokens"],
        candidates_token_count=usage["completion_tokens"],
        total_token_count=usage["total_tokens"],
    )


async def main(prompt: str) -> None:
    """Ask the agent once and print the answer as it comes."""
    async with example_credits("ada") as (service, provider):
        model = ChatModel(model=provider.model, url=provider.url, key=provider.key)
        plugin = MeteredModels(
            service, identify=lambda context: Payer(context.user_id)
        )  # credits: the runner's user pays
        runner = InMemoryRunner(agent=LlmAgent(name="helper", model=model), app_name="example", plugins=[plugin])
        session = await runner.session_service.create_session(app_name="example", user_id="ada")
        events = runner.run_async(
            user_id="ada",
            session_id=session.id,
            new_message=types.Content(role="user", parts=[types.Part(text=prompt)]),
            run_config=RunConfig(streaming_mode=StreamingMode.SSE),
        )
        async for event in events:
            if event.partial or event.error_code:
                print(text_of(event.content), end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is a prepaid credit?"))
