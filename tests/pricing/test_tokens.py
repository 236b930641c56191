"""Token counts of texts: exact where the vocabulary is public, a bound elsewhere, and never slow."""

# ruff: noqa: RUF001 - the samples are in the scripts they are about

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credits_plugin.pricing import price, tokens
from credits_plugin.pricing.tokens import (
    MAX_SCANNED_CHARACTERS,
    MAX_TOKENISED_BYTES,
    TokenCounter,
    bound_tokens,
    count_text_tokens,
    family_of,
    load_bindings,
    warm_up,
)

ENCODINGS = ("o200k_base", "cl100k_base", "voyage3_base")
PROSE = {
    "English": "The quick brown fox jumps over the lazy dog. Money is never lost, doubled, forged or overdrawn.",
    "German": "Der schnelle braune Fuchs springt über den faulen Hund. Geld geht niemals verloren.",
    "Turkish": "Hızlı kahverengi tilki tembel köpeğin üzerinden atlar. Para asla kaybolmaz ya da iki kez sayılmaz.",
    "Vietnamese": "Con cáo nâu nhanh nhẹn nhảy qua con chó lười biếng. Tiền không bao giờ bị mất.",
    "Russian": "Быстрая бурая лиса перепрыгивает через ленивую собаку. Деньги никогда не теряются.",
    "Greek": "Η γρήγορη καφέ αλεπού πηδά πάνω από το τεμπέλικο σκυλί. Τα χρήματα δεν χάνονται ποτέ.",
    "Hebrew": "השועל החום המהיר קופץ מעל הכלב העצלן. הכסף לעולם אינו הולך לאיבוד.",
    "Arabic": "الثعلب البني السريع يقفز فوق الكلب الكسول. المال لا يضيع أبدا.",
    "Hindi": "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। पैसा कभी नहीं खोता।",
    "Thai": "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ เงินไม่เคยสูญหาย",
    "Burmese": "လျင်မြန်သော အညိုရောင် မြေခွေးသည် ပျင်းရိသော ခွေးကို ခုန်ကျော်သည်။",
    "Amharic": "ፈጣኑ ቡናማ ቀበሮ ሰነፉን ውሻ ዘለለ። ገንዘብ በጭራሽ አይጠፋም።",
    "Chinese": "敏捷的棕色狐狸跳过了懒狗。资金绝不会丢失、重复、伪造或透支。",
    "Japanese": "素早い茶色の狐がのろまな犬を飛び越える。お金が失われることは決してありません。",
    "Korean": "빠른 갈색 여우가 게으른 개를 뛰어넘는다. 돈은 절대 사라지지 않습니다.",
}


def drawn_from(alphabet, seed: int = 7, length: int = 4_000) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice(alphabet) for _ in range(length))


def code_points(*ranges: range) -> list[str]:
    return [chr(point) for span in ranges for point in span]


SAMPLES = {name: text * 20 for name, text in PROSE.items()} | {
    "code": Path(price.__file__).read_text(encoding="utf-8"),
    "json": json.dumps([{"id": n, "name": "Ada", "tags": ["x", None], "share": n / 7} for n in range(100)]),
    "random lower case": drawn_from(string.ascii_lowercase),
    "random rare letters": drawn_from("qxzjvkw"),
    "random rare words": drawn_from("qxzjvkw   "),
    "random upper case": drawn_from(string.ascii_uppercase),
    "base64": drawn_from(string.ascii_letters + string.digits + "+/"),
    "hex": drawn_from("0123456789abcdef"),
    "digits": drawn_from(string.digits),
    "punctuation": drawn_from(string.punctuation),
    "printable": drawn_from(string.printable),
    "control characters": drawn_from(code_points(range(32))),
    "single letters": "a b " * 1_000,
    "spaced letters": "q  x  " * 1_000,
    "spaces": " " * 4_000,
    "emoji": drawn_from(code_points(range(0x1F300, 0x1F650))),
    "family emoji": "👨‍👩‍👧‍👦🏳️‍🌈" * 200,
    "rare ideographs": drawn_from(code_points(range(0x20000, 0x2A6D6))),
    "private use": drawn_from(code_points(range(0xE000, 0xF8FF))),
    "Cherokee": drawn_from(code_points(range(0x13A0, 0x13F5))),
    "Latin-1": drawn_from(code_points(range(0xA0, 0x100))),
    "any code point": drawn_from(code_points(range(0x80, 0xD800, 7), range(0xE000, 0x110000, 97))),
    "decoded random bytes": random.Random(5).randbytes(8_000).decode("utf-8", "replace"),
    "special tokens": "<|endoftext|><|im_start|>" * 100,
}


def tokens_of(text: str, encoding: str) -> int:
    return load_bindings("bpe_openai").tokenizer_for_encoding(encoding).count(text)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_vocabulary_makes_more_tokens_of_a_sample_than_the_bound(encoding):
    tokenizer = load_bindings("bpe_openai").tokenizer_for_encoding(encoding)
    for name, text in SAMPLES.items():
        assert tokenizer.count(text) <= bound_tokens(text.encode()), name


def test_the_bound_is_no_more_than_three_times_too_high_for_english():
    text = SAMPLES["English"]
    assert bound_tokens(text.encode()) < 3 * tokens_of(text, "cl100k_base")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda data: data.decode("utf-8", "replace"))))
def test_no_generated_text_has_more_tokens_than_the_bound(text):
    assert count_text_tokens(text, "gpt-4o") <= bound_tokens(text.encode("utf-8", "surrogatepass"))
    assert count_text_tokens(text, "gpt-4") <= bound_tokens(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("text", "model", "count"),
    [
        # The counts that OpenAI's cookbook shows for its vocabularies.
        ("tiktoken is great!", "gpt-4", 6),
        ("tiktoken is great!", "gpt-4o", 6),
        ("antidisestablishmentarianism", "gpt-4", 6),
        ("お誕生日おめでとう", "gpt-4", 9),
        ("お誕生日おめでとう", "gpt-4o", 8),
        ("", "gpt-4o", 0),
    ],
)
def test_openai_models_count_exactly(text, model, count):
    assert count_text_tokens(text, model) == count


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("GPT-4.1-nano", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-5.4-mini", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("openai/gpt-5", "o200k_base"),
        ("openai:gpt-5", "o200k_base"),
        ("openrouter/openai/gpt-4o:extended", "o200k_base"),
        ("azure/gpt-4o", "o200k_base"),
        ("ft:gpt-4o-mini:acme::abc", "o200k_base"),
        ("groq/openai/gpt-oss-120b", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("claude-sonnet-4-5", None),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", None),
        ("gemini-2.5-pro", None),
        ("acme/gpt-4o-clone", None),
        ("gpt-9", None),
        ("o1x", None),
        ("", None),
        ("gpt-4o" * 1_000, None),
    ],
)
def test_the_vocabulary_follows_from_the_name(model, encoding):
    assert family_of(model).encoding == encoding


def test_a_text_of_another_family_gets_the_bound():
    text = SAMPLES["English"]
    assert count_text_tokens(text, "claude-sonnet-4-5") == bound_tokens(text.encode())


def test_a_text_above_the_limit_gets_the_bound_and_one_below_is_exact():
    below = SAMPLES["English"][:1_000] * (MAX_TOKENISED_BYTES // 1_000)
    above = below + "x" * 1_000
    assert count_text_tokens(below, "gpt-4o") == tokens_of(below, "o200k_base")
    assert count_text_tokens(above, "gpt-4o") == bound_tokens(above.encode())


def test_a_long_conversation_becomes_exact_call_by_call_because_texts_are_remembered():
    texts = [drawn_from(string.ascii_lowercase + " ", seed, 10_000) for seed in range(8)]
    exact = sum(tokens_of(text, "o200k_base") for text in texts)

    def count_all() -> int:
        counter = TokenCounter(family_of("gpt-4o"))
        return sum(counter.count(text) for text in texts)

    totals = [count_all() for _ in range(4)]
    assert totals[0] > totals[1] > totals[2] == totals[3] == exact


def test_remembered_texts_are_bounded_and_no_text_is_kept(monkeypatch):
    monkeypatch.setattr(tokens, "_CACHED_COUNTS", 10)
    for seed in range(30):
        count_text_tokens(drawn_from("ab ", seed, 600), "gpt-4o")
        assert len(tokens._counts) <= 10
    assert all(len(digest) == 16 for _, digest in tokens._counts)


def test_the_same_text_is_counted_per_vocabulary():
    text = SAMPLES["Hindi"]
    assert count_text_tokens(text, "gpt-4o") == tokens_of(text, "o200k_base")
    assert count_text_tokens(text, "gpt-4") == tokens_of(text, "cl100k_base")
    assert count_text_tokens(text, "gpt-4o") != count_text_tokens(text, "gpt-4")


def test_a_lone_surrogate_is_counted_by_the_bound():
    assert count_text_tokens("ok \ud800", "gpt-4o") == bound_tokens("ok \ud800".encode("utf-8", "surrogatepass")) > 0


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5"])
@pytest.mark.parametrize(("character", "width"), [("a", 1), ("é", 4), ("字", 4)])
def test_a_text_of_a_hundred_million_characters_is_bounded_without_reading_it(model, character, width):
    warm_up(model)
    text = character * 10**8
    started = time.perf_counter()
    assert count_text_tokens(text, model) == width * 10**8
    assert time.perf_counter() - started < 0.05


def test_a_text_that_is_just_scanned_takes_milliseconds():
    text = "字" * MAX_SCANNED_CHARACTERS
    started = time.perf_counter()
    assert count_text_tokens(text, "claude-sonnet-4-5") == 3 * MAX_SCANNED_CHARACTERS + 1
    assert time.perf_counter() - started < 0.5


def test_a_package_without_native_module_means_bounds_and_no_crash():
    assert load_bindings("json") is None
    assert load_bindings("no_such_package") is None


@pytest.mark.parametrize("order", ["tokens first", "package first"])
def test_a_host_that_imports_the_package_shares_our_native_module(order):
    ours = "from credits_plugin.pricing.tokens import count_text_tokens as c; assert c('hello', 'gpt-4o') == 1"
    theirs = "import bpe_openai; assert len(bpe_openai.get_encoding('o200k_base').encode('hello')) == 1"
    steps = [ours, theirs] if order == "tokens first" else [theirs, ours]
    subprocess.run([sys.executable, "-c", "\n".join(steps)], check=True, timeout=60)
