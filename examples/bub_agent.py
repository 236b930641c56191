"""bub with prepaid credits, as a channel of its own: ``python examples/bub_agent.py ann "Hello"``.

The channel names the user, as Telegram's or your own would; the credits plugin asks who pays for a turn and meters
every model call of it. Without OPENAI_BASE_URL a local stand-in for a provider answers, which says that it is one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack

from bub.channels.message import ChannelMessage
from bub.framework import BubFramework

from credits_plugin import build, load_settings
from credits_plugin.adapters import Payer
from credits_plugin.adapters import bub as credits_bub
from credits_plugin.sandbox.model_server import ModelServer


def identify(turn: credits_bub.Turn) -> Payer | None:
    """Name who pays: the sender that the channel has authenticated, never what a message says."""
    sender = getattr(turn.message, "chat_id", None)
    return Payer(sender) if sender else None


async def main(user: str, text: str) -> None:
    """Send one message through bub's framework, which loads the installed credits plugin by itself."""
    async with AsyncExitStack() as stack:
        url = os.environ.get("OPENAI_BASE_URL") or (await stack.enter_async_context(ModelServer())).url
        model = os.environ.get("OPENAI_MODEL", "local-small")
        os.environ |= {"BUB_MODEL": f"openai:{model}", "BUB_API_BASE": url, "BUB_MAX_TOKENS": "500"}
        os.environ.setdefault("BUB_API_KEY", os.environ.get("OPENAI_API_KEY", "none"))
        service = build(load_settings())
        await service.start()
        stack.push_async_callback(service.close)
        credits_bub.plugin.configure(service, identify)
        framework = BubFramework()
        framework.load_hooks()
        await stack.enter_async_context(framework.running())
        message = ChannelMessage(session_id=f"example:{user}", channel="example", chat_id=user, content=text)
        print((await framework.process_inbound(message, stream_output=True)).model_output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
