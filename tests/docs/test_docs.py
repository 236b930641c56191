"""The documents are true: their code runs, their links lead somewhere, their tables name what exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from credits_plugin import Settings
from credits_plugin.payments.events import HANDLED_TYPES
from credits_plugin.payments.packages import parse_packages
from credits_plugin.pricing.price_book import PriceBook
from credits_plugin.settings import _ENVIRONMENT, DEFAULT_PACKAGES, PRICE_SETTINGS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])


def blocks(language: str) -> list:
    found = []
    for path in DOCUMENTS:
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)):
            found.append(pytest.param(code, id=f"{path.name}-{number}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_documents_runs(code: str, tmp_path: Path):
    """In a process of its own, with an empty folder as its working directory."""
    ask = "print(asyncio.run(answer('anna', [{'role': 'user', 'content': 'hi'}])))"
    end = f"\nimport asyncio\nif 'answer' in globals(): {ask}\n"
    done = subprocess.run(
        [sys.executable, "-c", code + end], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    if "before_ai_request" in code:
        assert "/credits" in done.stdout  # a user without credits is told where to buy them


@pytest.mark.parametrize("code", blocks("toml"))
def test_toml_in_the_documents_is_accepted(code: str):
    table = tomllib.loads(code)
    assert parse_packages(table.get("packages", DEFAULT_PACKAGES))
    price_part = {name: table[name] for name in PRICE_SETTINGS if name in table}
    book = PriceBook.from_settings(Settings(**price_part))
    assert "acme/*" not in table.get("prices", {}) or book.price_for("acme/x", at_ms=0)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_inside_the_project_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_environment_variable_is_documented_with_its_default():
    rows = {
        row[0]: row[1:]
        for row in re.findall(
            r"^\| `(\w+)` \| (\S+) \| (\S+) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE
        )
    }
    assert rows.keys() == _ENVIRONMENT.keys()
    defaults = {field.name: field.default for field in fields(Settings)}
    for variable, (name, shown) in rows.items():
        attribute = _ENVIRONMENT[variable]
        if "secret" not in attribute:
            assert name == f"`{attribute}`"
            if defaults[attribute] is not None:
                assert (
                    shown.strip("`") == f"{defaults[attribute]:g}"
                    if isinstance(defaults[attribute], float)
                    else str(defaults[attribute])
                )


def test_the_map_in_architecture_names_every_part():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in (ROOT / "credits_plugin").iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert path.name in text, f"{path.name} is not on the map"


def test_nothing_committed_names_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = re.compile(r"/wor" + r"k/|\.libr" + r"ary|bash_jo" + r"bs|pypi-mo" + r"re")
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".css", ".html", ".js", ".tcss", ""} and path.is_file():
            assert not forbidden.search(path.read_text(errors="replace")), name


def test_the_documented_webhook_events_are_those_that_are_handled():
    listed = re.search(r"```text\n(checkout\.session.*?)```", (ROOT / "docs/payments.md").read_text(), re.DOTALL)
    assert sorted(listed[1].split()) == sorted(HANDLED_TYPES)


@pytest.mark.parametrize(
    ("measured", "planned", "costed", "which"),
    [
        ("one SQLite file, one process", "one SQLite host", "one SQLite host", 0),
        ("one PostgreSQL, one host", "one PostgreSQL, one host", "PostgreSQL, standby, one host for the writer", 1),
    ],
)
def test_the_sizing_is_reckoned_from_the_run_that_the_benchmarks_page_shows(
    measured: str, planned: str, costed: str, which: int
):
    """Planned at half the pairs of a million busy accounts, in whole hundreds."""
    scaling, benchmarks = ROOT / "docs/scaling.md", (ROOT / "docs/benchmarks.md").read_text()
    row = next(line for line in scaling.read_text().splitlines() if line.startswith(f"| {measured} |"))
    busy = int(row.split("|")[-2].replace(",", ""))
    rows = [line for line in benchmarks.splitlines() if line.startswith("| pairs/s, all accounts |")]
    assert rows[which].endswith(f"| {busy:,} |")
    half = busy // 200 * 100
    lines = [line for line in scaling.read_text().splitlines() if line.startswith((f"| {planned} |", f"| {costed} |"))]
    per_day = half * 86_400 / 3 / 1e6
    assert any(f"| {half:,} | {per_day:.0f} million |" in line for line in lines)
    assert any(f"| {half:,}/s |" in line for line in lines)
