"""Sizes of images, seconds of audio and pages of documents by their bytes, and what providers charge for them."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_data import encoded, gif, jpeg, png, wav, webp

from credits_plugin.pricing.families import family_of
from credits_plugin.pricing.media import (
    MAX_PAGES,
    MAX_READ_BYTES,
    Data,
    Size,
    audio_tokens,
    file_text,
    image_size,
    pdf_pages,
)

HEADS = {
    "png": png(640, 480),
    "gif": gif(640, 480),
    "jpeg": jpeg(640, 480),
    "jpeg with profiles": jpeg(640, 480, before=3),
    "webp lossy": webp(b"VP8", 640, 480),
    "webp lossless": webp(b"VP8L", 640, 480),
    "webp extended": webp(b"VP8X", 640, 480),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_size_of_an_image_is_read_from_its_header_however_it_is_carried(name):
    head = HEADS[name]
    for payload in (head, bytearray(head), encoded(head), f"data:image/{name};base64,{encoded(head)}"):
        assert image_size(payload) == (640, 480)


@pytest.mark.parametrize(
    "payload",
    ["", b"", "data:", "data:image/png;base64,", "https://x/y.png", "Ünicode", "\ud800", encoded(png(0, 480)),
     encoded(png(640, 480))[:20], "!" + encoded(png(640, 480)), "data:" + "x" * 10_000 + "," + encoded(png(1, 1)),
     encoded(jpeg(640, 480)[:8]), encoded(b"\xff\xd8" + b"\xff" * 1_000), encoded(b"<svg width='1' height='1'/>")],
    ids=lambda payload: repr(payload)[:24],
)  # fmt: skip
def test_a_header_that_cannot_be_read_has_no_size(payload):
    assert image_size(payload) is None


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=200)
    | st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda tail: encoded(b"\xff\xd8" + tail))
)
def test_no_payload_raises(payload):
    assert image_size(payload) is None or min(image_size(payload)) > 0
    assert audio_tokens(payload, "wav", 32) >= 0
    pdf_pages(payload)
    file_text(payload)


@given(st.binary(max_size=90), st.integers(0, 95), st.integers(0, 95))
def test_a_window_of_base64_is_what_decoding_all_of_it_has_there(data, at, count):
    assert (
        Data.of("data:x;base64," + encoded(data)).read(at, count)
        == data[at : at + count]
        == Data.of(data).read(at, count)
    )


def test_headers_of_a_hundred_megabytes_are_read_in_no_time():
    payload = "data:image/jpeg;base64," + encoded(jpeg(640, 480, before=50)) + "A" * 10**8
    started = time.perf_counter()
    assert image_size(payload) == (640, 480)
    assert pdf_pages(payload) is None
    assert file_text(payload) is None
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # OpenAI's own examples, and 128 x 64 pixels as charged.
        ("gpt-4o", (1_024, 1_024), "high", 765),
        ("gpt-4o", (2_048, 4_096), "high", 1_105),
        ("gpt-4o", (4_096, 8_192), "low", 85),
        ("gpt-4o", (128, 64), "auto", 255),
        ("gpt-4o-mini", (128, 64), None, 8_500),
        ("gpt-4.1", (1_024, 1_024), ["odd"], 765),
        ("gpt-5", (1_024, 1_024), "high", 630),
        ("o3", (1_024, 1_024), "high", 675),
        ("gpt-4.1-mini", (1_024, 1_024), "low", 1_659),
        ("gpt-4.1-mini", (1_800, 2_400), None, 2_489),
        ("o4-mini", (1_800, 2_400), None, 2_642),
        ("gpt-5.4", (1_600, 1_600), None, 3_000),
        ("gpt-5.4-mini", (10**6, 10**6), None, 24_600),
        # Anthropic's: 200 x 200 pixels are about 54 tokens by one rule, 64 by the other.
        ("claude-sonnet-4-5", (200, 200), None, 64),
        ("claude-sonnet-4-5", (1_092, 1_092), None, 1_590),
        ("claude-sonnet-4-5", (8_000, 8_000), None, 1_640),
        ("claude-opus-4-7", (1_920, 1_080), None, 2_765),
        ("claude-opus-4-7", (8_000, 8_000), None, 5_200),
        # Google's: a small image, and 960 x 540 pixels in six tiles.
        ("gemini-2.5-flash", (384, 384), None, 258),
        ("gemini-2.5-flash", (960, 540), None, 1_548),
        ("gemini-3-pro-preview", (384, 384), None, 2_240),
        ("grok-4", (1, 1), None, 16_384),
    ],
)
def test_an_image_costs_what_the_provider_documents(model, size, detail, tokens):
    assert family_of(model).image(Size(*size), detail) == tokens


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4o-mini", "gpt-4.1-nano", "gpt-5.4", "o1", "claude-opus-4-6", "claude-opus-4-8"]
)
def test_no_size_is_dearer_than_an_unknown_one(model):
    rule, chance = family_of(model).image, random.Random(1)
    sizes = [Size(chance.randrange(1, 9_000), chance.randrange(1, 9_000)) for _ in range(2_000)]
    assert max(rule(size, "high") for size in sizes) <= rule(None, None)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 1)])
def test_the_length_of_a_wav_follows_from_its_header(rate, channels):
    sound = encoded(wav(seconds=30, rate=rate, channels=channels))
    assert 30 * 32 <= audio_tokens(sound, "wav", 32) <= 30 * 32 + 2
    assert audio_tokens(sound, "mp3", 32) == audio_tokens(sound, "wav", 32)


def test_a_header_that_claims_more_bytes_a_second_than_its_samples_have_makes_no_audio_shorter():
    sound = bytearray(wav(seconds=30, rate=8_000))
    sound[28:32] = (10**9).to_bytes(4, "little")
    assert audio_tokens(bytes(sound), "wav", 32) >= 30 * 32


@pytest.mark.parametrize(
    ("head", "named", "bytes_per_s"),
    [(b"ID3", "mp3", 1_000), (b"\xff\xfb", "mp3", 1_000), (b"OggS", "mp3", 500), (b"RIFF", "wav", 500),
     (b"", "pcm16", 8_000), (b"", ["odd"], 500)],
)  # fmt: skip
def test_other_audio_has_the_lowest_bit_rate_that_its_data_can_have(head, named, bytes_per_s):
    data = head + b"\0" * (60 * bytes_per_s)
    assert 60 * 10 <= audio_tokens(data, named, 10) <= 61 * 10


def test_pages_are_counted_where_they_are_listed_and_taken_as_small_where_not():
    listed = b"%PDF-1.7 << /Type/Pages >>" + b"<</Type /Page/A 1>> << /Type\n/Page >>" * 5
    assert pdf_pages(encoded(listed)) == 10
    assert pdf_pages(b"%PDF-1.7" + b"\0" * 24_992) == 10
    assert pdf_pages(listed + b"\0" * MAX_READ_BYTES) == 401
    assert pdf_pages(b"%PDF-1.7" + b"\0" * 10**7) == MAX_PAGES
    assert pdf_pages(b"PK\3\4") is None


def test_a_file_is_text_only_as_a_whole():
    assert file_text(encoded("größer".encode())) == "größer"
    assert file_text(encoded(b"PK\3\4\0")) is None
    assert file_text(encoded(b"text \xff")) is None
    assert file_text("") is None
    assert file_text(b"a" * (MAX_READ_BYTES + 1)) is None
