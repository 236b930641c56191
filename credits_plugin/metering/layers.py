"""What each layer of a host knows of one provider call, so that a call which two layers meter is charged once.

LangChain over LiteLLM meters twice what is one call. The layer that is entered first has the hold. A layer that is
entered inside it joins it where it cannot be another call: the same payer, the same price, the same text of the prompt,
nothing delivered or reported yet, and no other layer open in it. Everything else is a call of its own: a wrong guess in
that direction costs a second hold, in the other it would give a call away.

What joined layers report is never added up. The provider's usage is taken from the innermost layer that has it, the
streamed text from the layer that has most of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hookspecs import AIRequest, Hold, Outcome, OutcomeStatus, Usage

from ..errors import CreditsError
from ..pricing.price import Price
from .streamed import StreamedText
from .stretch import Stretch

PriceOf = Callable[[AIRequest], Price]

under_way: Final[ContextVar[Layer | None]] = ContextVar("credits_under_way", default=None)
"""The innermost open layer of this context. Threads that a host starts without its context do not see it."""
_joining: Final = threading.Lock()
_GONE: Final = (ConnectionResetError, BrokenPipeError)


@dataclass(slots=True, eq=False)
class Layer:
    """One layer's knowledge of a provider call. ``price_of`` belongs to its service: layers of two never join."""

    request: AIRequest
    price_of: PriceOf
    hold: Hold | None = None
    usage: Usage | None = None
    text: StreamedText = field(default_factory=StreamedText)
    stretch: Stretch | None = None
    is_unsent: bool = False
    client_is_gone: bool = False
    status: OutcomeStatus | None = None
    error: str | None = None
    outer: Layer | None = None
    inner: Layer | None = None
    is_settled: bool = False

    @property
    def root(self) -> Layer:
        """The layer that has the hold."""
        return self if self.outer is None else self.outer.root

    @property
    def is_open(self) -> bool:
        """Whether its block was entered and not left."""
        return self.status is None

    @property
    def has_answer(self) -> bool:
        """Whether an answer began to arrive here or in a layer that joined, or such a layer has ended well."""
        layers = list(self.inwards())
        ended_well = layers[-1].outer is not None and layers[-1].status is OutcomeStatus.COMPLETED
        return ended_well or any(layer.usage or layer.text for layer in layers)

    @property
    def has_usage(self) -> bool:
        """Whether the provider's own figure is known."""
        return any(layer.usage for layer in self.inwards())

    @property
    def is_over(self) -> bool:
        """Whether this layer and those that joined it were left."""
        return not any(layer.is_open for layer in self.inwards())

    def inwards(self) -> Iterator[Layer]:
        """Yield this layer and those that joined it, the nearest to the provider last."""
        layer: Layer | None = self
        while layer is not None:
            yield layer
            layer = layer.inner

    def join(self, *, within: Layer | None) -> bool:
        """Become part of ``within``, or else of the layer under way, if this is the same provider call.

        Naming the layer replaces comparing the prompts, for hosts whose layers shape them differently.
        """
        outer = within or under_way.get()
        if outer is None or not self._may_be_part_of(outer) or (within is None and not self._has_the_prompt_of(outer)):
            return False
        with _joining:
            # A layer that was left may be cut off from its call: what is reported there would be lost.
            if not outer.is_open or outer.inner is not None or outer.root.has_answer:
                return False
            outer.inner, self.outer = self, outer
        self.mark_sent()
        return True

    def mark_sent(self, *, sent: bool = True) -> None:
        """Note for all layers whether the last attempt was sent."""
        layer: Layer | None = self
        while layer is not None:
            layer.is_unsent = not sent
            layer = layer.outer

    def leave(self, kind: type[BaseException] | None) -> bool:
        """Note how the block was left; returns whether whoever leaves settles the hold.

        The layer with the hold does, unless no usage is known and another layer is still open: the answer goes on
        there, so the last one to leave settles.
        """
        with _joining:
            self.status, self.error = self._status_after(kind), kind.__name__ if kind else None
            root = self.root
            settles = not root.is_open and not root.is_settled and (root.has_usage or root.is_over)
            if settles:
                root.is_settled = True
            else:
                self._make_room()
            return settles

    def _make_room(self) -> None:
        """Let a retry join in the place of a layer that was left without an answer."""
        layer = self
        while layer.outer is not None and layer.is_over and not layer.has_answer:
            layer.outer.inner = None
            layer = layer.outer

    def outcome(self) -> Outcome:
        """Return what the layers together know, as seen by the one that settles."""
        layers = list(self.root.inwards())
        usage = next((layer.usage for layer in reversed(layers) if layer.usage), None)
        text = max((str(layer.text) for layer in layers), key=len)
        assert self.status is not None, "the call is still open"  # noqa: S101 - misuse, not input
        return Outcome(self.status, usage, text, self.error)

    def _may_be_part_of(self, outer: Layer) -> bool:
        mine, theirs = self.request, outer.request
        if outer.price_of != self.price_of or mine.account_id != theirs.account_id:
            return False
        # A layer may know less of who asks than the one around it, never something else.
        names = ("key_id", "member_id", "run_id")
        if any(getattr(mine, name) not in (None, getattr(theirs, name)) for name in names):
            return False
        try:
            return _unnamed(self.price_of(mine)) == _unnamed(self.price_of(theirs))
        except CreditsError:  # no price: refused as a call of its own
            return False

    def _has_the_prompt_of(self, outer: Layer) -> bool:
        mine = prompt_text(self.request.messages)
        return bool(mine) and mine == prompt_text(outer.request.messages)

    def _status_after(self, kind: type[BaseException] | None) -> OutcomeStatus:
        if self.is_unsent and not self.has_answer:
            return OutcomeStatus.FAILED_BEFORE_SEND
        if kind is None and not self.client_is_gone:
            return OutcomeStatus.COMPLETED
        # Writing to a client that has gone raises these. Were it a failure, hanging up would make every stream free.
        gone = self.client_is_gone or (kind is not None and issubclass(kind, _GONE) and self.has_answer)
        stopped = kind is not None and not issubclass(kind, Exception)
        return OutcomeStatus.ABORTED if gone or stopped else OutcomeStatus.FAILED_AFTER_SEND


def _unnamed(price: Price) -> Price:
    return replace(price, provider="", model="")  # two layers may name one model in two ways


def prompt_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """Return all text of a prompt in the OpenAI chat format, whichever way its parts are written."""
    return "\n".join(text for message in messages if isinstance(message, Mapping) for text in _texts(message))


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    for part in content if isinstance(content, list | tuple) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text
