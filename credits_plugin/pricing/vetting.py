"""New price data against the data that came with the installed package: what is too different is held back.

The comparison is with the installed data alone, never with what was fetched before, so that every host of one version
comes to the same prices from the same data, whenever it started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from .catalogue import Terms, every_price
from .price import KINDS, Price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

_PLAIN: Final = Terms(credits_per_usd=1_000, markup_bps=0)
_Spread: TypeAlias = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A model whose new price is not used, and why. Its installed price goes on."""

    provider: str
    model: str
    reason: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Vetted:
    """Data to use, and what of the new data is not in it."""

    providers: list[Provider]
    held_back: tuple[HeldBack, ...]


def vet(new: list[Provider], installed: list[Provider], *, max_factor: int) -> Vetted:
    """Keep the installed price of each model that is gone, costs nothing any more or over ``max_factor`` times as much.

    Less than that part of it counts as much. A model is what a provider's data finds under an installed model's id, so
    that one which now answers to another's name is noticed too. New models are taken as they are. Which provider a
    bare name leads to stays as installed: new providers come last.
    """
    theirs = {provider.id: provider for provider in new}
    held_back: list[HeldBack] = []
    kept = []
    for ours in installed:
        if ours.id in theirs:
            kept.append(_vet_provider(theirs.pop(ours.id), ours, held_back, new, installed, max_factor=max_factor))
        else:
            held_back.append(HeldBack(ours.id, "*", "the provider is gone"))
            kept.append(ours)
    return Vetted([*kept, *theirs.values()], tuple(held_back))


def _vet_provider(
    theirs: Provider,
    ours: Provider,
    held_back: list[HeldBack],
    new: list[Provider],
    installed: list[Provider],
    *,
    max_factor: int,
) -> Provider:
    models = list(theirs.models)
    for name in dict.fromkeys(model.id for model in ours.models):
        old = ours.find_model(name.lower(), all_providers=installed)
        if old is None:
            continue
        now = theirs.find_model(name.lower(), all_providers=new)
        reason = _objection((theirs, now), (ours, old), max_factor=max_factor) if now is not None else "it is gone"
        if reason:
            held_back.append(HeldBack(ours.id, name, reason))
            _put_back(models, old, now)
    return replace(theirs, models=models, model_match=ours.model_match, provider_match=ours.provider_match)


def _put_back(models: list[ModelInfo], old: ModelInfo, now: ModelInfo | None) -> None:
    """Let the old model answer to its names again: in the new one's place, or before what answers to them now."""
    if now is not None and now.id == old.id:
        models[:] = [old if model is now else model for model in models]
    if all(model is not old for model in models):
        models.insert(0 if now is not None else len(models), old)


def _objection(now: tuple[Provider, ModelInfo], old: tuple[Provider, ModelInfo], *, max_factor: int) -> str | None:
    """Say what of a model's new prices is too different from all that it costs by the installed data."""
    if now[1] == old[1]:
        return None
    before = _spread(every_price(old, _PLAIN))
    if not any(high for _, high in before.values()):
        return None  # free, so nobody was served at that price
    after = _spread(every_price(now, _PLAIN))
    for what, (low, high) in before.items():
        lowest, highest = after.get(what, (0, 0))
        if lowest == 0 < low:
            return f"{what} would cost nothing"
        if lowest * max_factor < low or highest > high * max_factor:
            return f"{what} would cost {_usd(lowest, highest)} USD, it costs {_usd(low, high)}"
    return None


def _spread(prices: list[Price]) -> _Spread:
    """Return the lowest and the highest rate of each kind, at whatever time and length of prompt."""
    rates = [rates for price in prices for rates in (price.rates, *(tier.rates for tier in price.tiers))]
    spread = {kind: _ends([one.each[place] for one in rates]) for place, kind in enumerate(KINDS)}
    spread["per_request"] = _ends([price.request_rate for price in prices])
    tools = {tool for price in prices for tool, _ in price.tools}
    return spread | {tool: _ends([dict(price.tools).get(tool, 0) for price in prices]) for tool in tools}


def _ends(values: list[int]) -> tuple[int, int]:
    return min(values, default=0), max(values, default=0)


def _usd(low: int, high: int) -> str:
    """Show rates, microcredits at 1,000 credits per USD, as USD per million."""
    shown = [f"{rate / 1_000 / 1_000_000:.12g}" for rate in dict.fromkeys((low, high))]
    return " to ".join(shown)
