"""Token counts of texts: exact where the vocabulary is public, a bound elsewhere, and never slow."""

from __future__ import annotations

import string
import subprocess
import sys
import time

import calibrate
import pytest
from calibrate import FAMILIES, VOCABULARIES, crafted, promised, ratios
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import WRITTEN, drawn_from

from credits_plugin.pricing import tokens, weights
from credits_plugin.pricing.families import family_of
from credits_plugin.pricing.tokens import (
    MAX_SCANNED_CHARACTERS,
    MAX_TOKENISED_BYTES,
    TokenCounter,
    count_text_tokens,
    load_bindings,
    warm_up,
)
from credits_plugin.pricing.weights import bound_tokens

ENCODINGS = ("o200k_base", "cl100k_base", "voyage3_base")
ENGLISH = WRITTEN["English"]
HINDI = next(text for name, text in promised().items() if "Hindi" in name)


def tokens_of(text: str, encoding: str) -> int:
    return load_bindings("bpe_openai").tokenizer_for_encoding(encoding).count(text)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_openais_vocabularies_make_no_more_tokens_of_a_sample_than_the_bound_by_bytes(encoding):
    for name, text in (promised() | crafted()).items():
        if encoding != "voyage3_base" or not name.startswith("crafted"):  # it composes characters, which may grow
            assert tokens_of(text, encoding) <= bound_tokens(text.encode()), name


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_no_vocabulary_makes_more_tokens_of_a_sample_than_its_familys_bound_nor_than_the_bound_of_any(vocabulary):
    for bound in (VOCABULARIES[vocabulary].weights, weights.ANY):
        short = {name: ratio for name, ratio in ratios([vocabulary], bound).items() if ratio < 1}
        assert not short


def test_no_vocabulary_makes_more_tokens_of_a_sample_than_the_bound_of_what_was_not_counted():
    record = calibrate.recorded()["tokens"]
    for name, text in promised().items():
        most = max(of_vocabulary[name] for of_vocabulary in record.values())
        assert most <= weights.ANY.unread(text.encode()), name


def test_the_recorded_counts_are_of_the_samples_of_today():
    texts = promised() | crafted()
    assert calibrate.recorded()["samples"] == {name: calibrate.digest(text) for name, text in texts.items()}
    assert set(calibrate.recorded()["tokens"]) == set(VOCABULARIES)


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_the_recorded_counts_of_a_vocabulary_that_is_installed_are_what_it_makes_today(encoding):
    record = calibrate.recorded()["tokens"][encoding.removesuffix("_base")]
    assert record == {name: tokens_of(text, encoding) for name, text in (promised() | crafted()).items()}


def test_qwens_own_vocabulary_makes_the_same_tokens_as_the_one_that_counts_it():
    record = calibrate.recorded()["tokens"]["Qwen 2 to 3"]
    texts = promised() | crafted()
    del texts["written: special tokens"]  # read as such by the recorded one; nobody may send them as text
    assert {name: record[name] for name in texts} == {
        name: count_text_tokens(text, "qwen3-32b") for name, text in texts.items()
    }


def test_the_published_errors_are_what_the_command_prints():
    page = (calibrate.RECORD.parents[2] / "docs" / "estimates.md").read_text(encoding="utf-8")
    for table in calibrate.tables().split("\n\n"):
        assert table in page, "run: python tests/pricing/calibrate.py table"


@pytest.mark.parametrize(
    ("family", "most"), [("Llama 3, 4", 1.2), ("DeepSeek", 1.3), ("Gemini, Gemma", 1.4), ("any", 1.6)]
)
def test_the_bound_of_english_is_near_the_worst_vocabulary_of_a_family(family, most):
    of_it = [name for name, vocabulary in VOCABULARIES.items() if FAMILIES[family] in (vocabulary.weights, weights.ANY)]
    assert 1 <= ratios(of_it, FAMILIES[family])["written: English"] < most


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda data: data.decode("utf-8", "replace"))))
def test_no_generated_text_has_more_tokens_than_the_bound_by_bytes(text):
    data = text.encode("utf-8", "surrogatepass")
    assert count_text_tokens(text, "gpt-4o") <= bound_tokens(data)
    assert count_text_tokens(text, "gpt-4") <= min(bound_tokens(data), count_text_tokens(text, "llama-3.1-8b"))


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
        ("groq/qwen/qwen3-32b", "voyage3_base"),
        ("Qwen/Qwen2.5-72B-Instruct", "voyage3_base"),
    ],
)
def test_the_vocabulary_that_counts_exactly_follows_from_the_name(model, encoding):
    assert (family_of(model).encoding, family_of(model).weights) == (encoding, None)


@pytest.mark.parametrize(
    ("model", "bound"),
    [
        ("claude-3-5-sonnet-20241022", weights.CLAUDE),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", weights.CLAUDE),
        ("claude-sonnet-4-20250514", weights.CLAUDE),
        ("claude-sonnet-4-5-20250929", weights.CLAUDE),
        ("claude-opus-4-6", weights.CLAUDE),
        ("anthropic/claude-sonnet-4.5", weights.CLAUDE),
        ("vertex/claude-opus-4@20250514", weights.CLAUDE),
        ("claude-4-sonnet", weights.CLAUDE),
        ("claude-opus-4-7", weights.CLAUDE_4_7),
        ("anthropic/claude-opus-4.8", weights.CLAUDE_4_7),
        ("claude-sonnet-5", weights.CLAUDE_4_7),
        ("claude-opus-4-10", weights.CLAUDE_4_7),
        ("claude-next", weights.CLAUDE_4_7),
        ("gemini-2.5-pro", weights.GEMINI),
        ("google/gemini-3-flash-preview", weights.GEMINI),
        ("gemma-3-27b-it", weights.GEMINI),
        ("gemini-4", weights.ANY),
        ("meta-llama/Llama-3.3-70B-Instruct", weights.LLAMA),
        ("us.meta.llama4-scout-17b-instruct-v1:0", weights.LLAMA),
        ("llama-2-70b", weights.ANY),
        ("deepseek-chat", weights.DEEPSEEK),
        ("deepseek-r1-distill-llama-70b", weights.ANY),
        ("mistral-large-latest", weights.MISTRAL),
        ("qwen3.5-plus", weights.ANY),
        ("qwen-max", weights.ANY),
        ("claude-2.1", weights.ANY),
        ("acme/gpt-4o-clone", weights.ANY),
        ("gpt-9", weights.ANY),
        ("o1x", weights.ANY),
        ("", weights.ANY),
        ("gpt-4o" * 1_000, weights.ANY),
    ],
)
def test_a_model_whose_vocabulary_we_have_not_gets_its_familys_bound_or_that_of_any(model, bound):
    assert family_of(model).weights is bound


def test_a_text_of_a_family_without_vocabulary_gets_the_bound_made_from_the_yardstick():
    bound = weights.CLAUDE.bound(ENGLISH.encode(), tokens_of(ENGLISH, "cl100k_base"))
    assert count_text_tokens(ENGLISH, "claude-sonnet-4-5") == bound


@pytest.mark.parametrize(
    ("text", "tokens", "bound"),
    [
        ("", 0, 0),
        ("word", 1, 3),  # 1.85 + 1, rounded up
        ("1234", 2, 7),  # 2 x 1.85 + 4 x 0.36 + 1
        ("ABC", 1, 5),  # 1.85 + 3 x 0.61 + 1
        ("===", 1, 5),  # 1.85 + 3 x 0.12 + 2 equal to the one before x 0.82 + 1
        ("= = =", 3, 9),  # the same, spaces left out
        (" " * 17, 1, 4),  # 1.85 + 2 runs x 0.41 + 1
        ("é", 1, 3),  # 1.85 + 2 x 0.03 + 1
        ("\n\t", 1, 4),  # 1.85 + 2 x 0.18 + 1
    ],
)
def test_the_bound_is_the_documented_sum(text, tokens, bound):
    assert weights.ANY.bound(text.encode(), tokens) == bound


def test_a_text_above_the_limit_is_counted_in_pieces_that_were_affordable_and_one_below_is_exact():
    below = ENGLISH * (MAX_TOKENISED_BYTES // len(ENGLISH))
    assert count_text_tokens(below, "gpt-4o") == tokens_of(below, "o200k_base")
    above = drawn_from(string.ascii_lowercase + " ", 99, 5 * MAX_TOKENISED_BYTES)
    exact = tokens_of(above, "o200k_base")
    counts = [count_text_tokens(above, "gpt-4o") for _ in range(7)]
    assert counts[0] > counts[1] > counts[3] > counts[5] == counts[6] >= exact
    assert counts[6] <= exact + 3 * 20
    assert counts[0] <= bound_tokens(above.encode()) + 2 * 20


@pytest.mark.parametrize(
    ("model", "text", "exact"),
    [
        ("gpt-4o", "hello", True),
        ("qwen3-32b", ENGLISH, True),
        ("gpt-4o", "x" * (MAX_TOKENISED_BYTES + 1), False),
        ("gpt-4o", "\ud800", False),
        ("claude-sonnet-4-5", "hello", False),
    ],
)
def test_a_counter_says_whether_it_counted_exactly(model, text, exact):
    counter = TokenCounter(family_of(model))
    counter.count(text)
    assert counter.is_exact is exact


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
    text = HINDI
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
    assert count_text_tokens(text, "claude-sonnet-4-5") < 4 * MAX_SCANNED_CHARACTERS
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
