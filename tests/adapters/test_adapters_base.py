"""What adapters share, without any host; tests/hosts has them inside theirs."""

import pytest

from credits_plugin import Usage, usage_from_openai
from credits_plugin.adapters import Payer
from credits_plugin.adapters.base import guarded_iterator, guarded_stream, request_of, usage_of_totals, usage_or_none
from credits_plugin.metering import RequestRefused


class Provider:
    """A stream of words, which notes whether it was closed."""

    def __init__(self, *words):
        self.words = words
        self.is_closed = False

    def __iter__(self):
        return iter(self.words)

    async def __aiter__(self):
        for word in self.words:
            yield word

    def close(self):
        self.is_closed = True

    async def aclose(self):
        self.is_closed = True


def test_a_request_that_nobody_pays_for_is_refused():
    with pytest.raises(RequestRefused) as refused:
        request_of(None, model="toy", messages=[])
    assert refused.value.refusal.code == "unidentified"


def test_a_payer_s_run_stands_before_the_host_s():
    ask = {"model": "toy", "messages": [], "run_id": "host's"}
    assert request_of(Payer("ada"), **ask).run_id == "host's"
    request = request_of(Payer("ada", key_id="k", member_id="m", run_id="r"), **ask)
    assert (request.account_id, request.key_id, request.member_id, request.run_id) == ("ada", "k", "m", "r")


def test_a_stream_promises_that_its_hold_is_extended():
    assert request_of(Payer("ada"), model="toy", messages=[], stream=True).can_extend
    assert not request_of(Payer("ada"), model="toy", messages=[]).can_extend


@pytest.mark.parametrize(
    "raw",
    [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": "many", "completion_tokens": 1}],
)
def test_usage_that_says_nothing_is_none(raw):
    assert usage_or_none(raw, usage_from_openai) is None


def test_a_host_s_totals_become_disjoint_counts():
    usage = usage_of_totals(input_tokens=120, cache_read=64, cache_write=6, output_tokens=30, reasoning=10)
    assert usage == Usage(input=50, cache_read=64, cache_write=6, output=20, reasoning=10)


async def test_a_guarded_stream_counts_its_pieces_and_closes_its_source(service, granted):
    provider = Provider("one", " two")
    async with service.metered(request_of(Payer(granted), model="toy", messages=[], stream=True)) as call:
        pieces = guarded_stream(call, provider, text_of=str, usage_at_end=lambda: Usage(input=1, output=2))
        assert [piece async for piece in pieces] == ["one", " two"]
    assert provider.is_closed
    assert call.layer.usage == Usage(input=1, output=2)
    assert call.layer.outcome().streamed_text == "one two"


async def test_a_guarded_stream_that_is_left_closes_its_source_and_asks_for_no_usage(service, granted):
    provider = Provider("one", " two")
    async with service.metered(request_of(Payer(granted), model="toy", messages=[], stream=True)) as call:
        pieces = guarded_stream(call, provider, text_of=str, usage_at_end=pytest.fail)
        assert await anext(pieces) == "one"
        await pieces.aclose()
    assert provider.is_closed
    assert call.layer.outcome().streamed_text == "one"


def test_a_guarded_iterator_does_the_same(service, granted):
    provider = Provider("one", " two")
    with service.sync.metered(request_of(Payer(granted), model="toy", messages=[], stream=True)) as call:
        pieces = guarded_iterator(call, provider, text_of=str, usage_of=lambda piece: Usage(output=len(piece)))
        assert next(pieces) == "one"
        pieces.close()
    assert provider.is_closed
    assert call.layer.usage == Usage(output=3)
