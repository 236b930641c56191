"""Microsoft's Agents SDK on aiohttp: turns are refused by a message, before the agent's logic runs.

The agent calls its model itself; meter it there, with :func:`.aiohttp_host.current_payer`. The SDK's JWT middleware
answers what is not from a channel, Stripe's webhook too, with 401: :func:`.aiohttp_host.plug_in` keeps it off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from microsoft_agents.activity import ActivityTypes
from microsoft_agents.hosting.core import TurnContext

from ..bootstrap import Credits
from .aiohttp_host import paying, refusal_of_turn
from .base import UNIDENTIFIED, Identify, Payer

_CHOSEN_BY_CLIENTS: Final = frozenset(("directline", "webchat"))
_BOUND_TO_TOKEN: Final = "dl_"  # noqa: S105 - a prefix of user ids


def payer_by_channel(context: TurnContext) -> Payer | None:
    """Name the sender of an activity, ``CHANNEL:ID``, if a channel has vouched for it by a JWT.

    Ids are unique within their channel. Direct Line and Web Chat let a page choose its user's id, unless the token is
    bound to one; such ids begin with ``dl_`` (Microsoft, "Direct Line enhanced authentication"). Others pay nothing.
    """
    activity, identity = context.activity, context.identity
    sender = activity.from_property.id if activity.from_property is not None else None
    if identity is None or identity.allow_anonymous or not identity.claims or not sender or not activity.channel_id:
        return None
    channel = str(activity.channel_id)
    if channel in _CHOSEN_BY_CLIENTS and not sender.startswith(_BOUND_TO_TOKEN):
        return None
    return Payer(f"{channel}:{sender}")


class CreditsMiddleware:
    """``adapter.use(CreditsMiddleware(service, model="gpt-4o"))``: refuses messages that nobody can pay.

    A refused sender is told why, and where credits are bought, and the agent's logic does not run. Inside it,
    :func:`.aiohttp_host.current_payer` names who pays; other activities than messages have nobody who does.
    """

    def __init__(
        self,
        credits: Credits,
        *,
        model: str,
        provider: str | None = None,
        identify: Identify[TurnContext] = payer_by_channel,
    ) -> None:
        self._credits = credits
        self._model = model
        self._provider = provider
        self._identify = identify

    async def on_turn(self, context: TurnContext, logic: Callable[[TurnContext], Awaitable[None]]) -> None:
        """Let a turn begin, or answer it."""
        if context.activity.type != ActivityTypes.message:
            await logic(context)
            return
        payer = self._identify(context)
        if payer is None:
            await context.send_activity(UNIDENTIFIED.text)
            return
        refusal = await refusal_of_turn(self._credits, payer, model=self._model, provider=self._provider)
        if refusal is not None:
            await context.send_activity(refusal.text)
            return
        with paying(payer):
            await logic(context)
