"""bub with prepaid credits, as a channel of its own: ``python examples/bub_agent.py "Hello"``.

The channel names the user, as Telegram's or your own would; the credits plugin asks who pays for a turn and meters
every model call of it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory

from bub.channels.message import ChannelMessage
from bub.framework import BubFramework
from example_credits import example_credits

from credits_plugin.adapters import Payer
from credits_plugin.adapters import bub as credits_bub


def identify(turn: credits_bub.Turn) -> Payer | None:
    """Name who pays: the sender that the channel has authenticated, never what a message says."""
    sender = getattr(turn.message, "chat_id", None)
    return Payer(sender) if sender else None


async def main(prompt: str) -> None:
    """Send one message through bub's framework, which loads the installed credits plugin by itself."""
    async with example_credits("ada") as (service, provider), AsyncExitStack() as stack:
        home = stack.enter_context(TemporaryDirectory())
        os.environ |= {"BUB_HOME": home, "BUB_MODEL": f"openai:{provider.model}", "BUB_MAX_TOKENS": "500"}
        os.environ |= {"BUB_API_BASE": provider.url, "BUB_API_KEY": provider.key}
        credits_bub.plugin.configure(service, identify)  # credits: from here on every model call is metered
        framework = BubFramework()
        framework.load_hooks()
        await stack.enter_async_context(framework.running())
        message = ChannelMessage(session_id="example:ada", channel="example", chat_id="ada", content=prompt)
        print((await framework.process_inbound(message, stream_output=True)).model_output)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is a prepaid credit?"))
