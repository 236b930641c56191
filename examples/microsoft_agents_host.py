"""An agent on Microsoft's Agents SDK with prepaid credits: ``python examples/microsoft_agents_host.py "Hello"``.

Sends one activity to itself, as a channel would; without words it serves until Ctrl-C. Which provider answers, and
whose credits are used: see example_credits.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web
from example_credits import Provider, example_credits
from microsoft_agents.hosting.aiohttp import CloudAdapter, jwt_authorization_middleware, start_agent_process
from microsoft_agents.hosting.core import ActivityHandler, TurnContext
from microsoft_agents.hosting.core.authorization import AgentAuthConfiguration, AnonymousTokenProvider

from credits_plugin import Credits, RequestRefused
from credits_plugin.adapters import Payer
from credits_plugin.adapters.aiohttp_host import current_payer, plug_in
from credits_plugin.adapters.base import request_of
from credits_plugin.adapters.microsoft_agents import CreditsMiddleware
from credits_plugin.adapters.openai_api import text_of, usage_of


class LocalConnections:
    """Stands for ``MsalConnectionManager`` of microsoft-agents-authentication-msal, which needs an app in Entra."""

    def get_connection(self, _name: str | None) -> AnonymousTokenProvider:
        """Return a provider of no tokens."""
        return AnonymousTokenProvider()

    def get_default_connection(self) -> AnonymousTokenProvider:
        """Return a provider of no tokens."""
        return AnonymousTokenProvider()

    def get_token_provider(self, _identity: Any, _service_url: str) -> AnonymousTokenProvider:
        """Return a provider of no tokens."""
        return AnonymousTokenProvider()

    def get_default_connection_configuration(self) -> AgentAuthConfiguration:
        """Let everybody in, as the SDK does for the Emulator."""
        return AgentAuthConfiguration(anonymous_allowed=True)


class Agent(ActivityHandler):  # type: ignore[misc]  # not installed where types are checked
    """Answers each message by a model."""

    def __init__(self, service: Credits, provider: Provider) -> None:
        self._service = service
        self._provider = provider

    async def on_message_activity(self, turn_context: TurnContext) -> None:
        """Answer."""
        try:
            await turn_context.send_activity(await self._ask(turn_context.activity.text))
        except RequestRefused as refused:
            await turn_context.send_activity(refused.refusal.text)

    async def _ask(self, text: str) -> str:
        model, messages = self._provider.model, [{"role": "user", "content": text}]
        request = request_of(current_payer(), model=model, messages=messages, max_output_tokens=500)
        async with self._service.metered(request) as call, aiohttp.ClientSession() as http:  # credits: hold and settle
            body = {"model": model, "messages": messages, "max_tokens": call.hold.estimate.max_output_tokens}
            headers = {"Authorization": f"Bearer {self._provider.key}"}
            async with http.post(f"{self._provider.url}/chat/completions", json=body, headers=headers) as response:
                response.raise_for_status()
                answer = await response.json()
            call.add_streamed_text(text_of(answer))
            if usage := usage_of(answer):
                call.report(usage)
        return text_of(answer)


def build_app(service: Credits, provider: Provider) -> web.Application:
    """Build the host as the SDK's samples do, with credits."""
    connections = LocalConnections()
    adapter, agent = CloudAdapter(connection_manager=connections), Agent(service, provider)
    # No channel vouches for anybody on this machine, so everybody is ada. Behind a channel leave ``identify`` out.
    adapter.use(CreditsMiddleware(service, model=provider.model, identify=lambda _context: Payer("ada")))

    async def messages(request: web.Request) -> web.StreamResponse:
        return await start_agent_process(request, agent, adapter) or web.Response(status=202)

    app = web.Application(middlewares=[jwt_authorization_middleware])
    app["agent_configuration"] = connections.get_default_connection_configuration()
    app.router.add_post("/api/messages", messages)
    plug_in(app, service, identify=lambda _request: None)  # credits: pages and webhook; name who has signed in here
    return app


async def main(prompt: str) -> None:
    """Serve, and send one activity if there is a prompt."""
    async with example_credits("ada") as (service, provider):
        runner = web.AppRunner(build_app(service, provider), handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "0"))).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/messages"
        if prompt:
            print(await send(url, prompt))
        else:
            print(f"serving {url}", flush=True)
            await asyncio.Event().wait()
    await runner.cleanup()  # after the charges were printed: the service ends with the application


async def send(url: str, text: str) -> str:
    """Send a message as a channel does that expects its replies in the answer."""
    activity = {
        "type": "message",
        "text": text,
        "channelId": "emulator",
        "serviceUrl": "http://127.0.0.1",
        "deliveryMode": "expectReplies",
        "from": {"id": "somebody"},
        "recipient": {"id": "agent"},
        "conversation": {"id": "conversation-1"},
    }
    async with aiohttp.ClientSession() as http, http.post(url, json=activity) as response:
        replies = (await response.json())["activities"]
        return "\n".join(str(reply["text"]) for reply in replies)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(" ".join(sys.argv[1:])))
