"""Templates: what they can reach, and how text from outside is made safe to show."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..money import format_credits
from ..settings import Settings
from .amounts import time_json

STATIC: Final = Path(__file__).parent / "static"
_MINUS: Final = "\N{MINUS SIGN}"
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
# Characters that reorder what stands around them, so that a name could pose as another figure.
_REORDERING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


@dataclass(frozen=True, slots=True)
class Site:
    """Addresses that every page links to. They come from the settings alone, never from a request."""

    home: str
    purchase: str
    host_url: str
    stylesheet: str
    script: str
    icon: str


def site_of(settings: Settings) -> Site:
    """Return the addresses; files carry a digest, so that a new version is never shown with an old style sheet."""
    home = urlsplit(settings.purchase_url).path
    return Site(
        home=home,
        purchase=f"{home}/purchase",
        host_url=settings.frontend_url + "/",
        stylesheet=_file_url(home, "credits.css"),
        script=_file_url(home, "credits.js"),
        icon=_file_url(home, "credits.svg"),
    )


def _file_url(home: str, name: str) -> str:
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"{home}/static/{name}?v={digest}"


def visible(value: Any) -> Any:
    """Return text without control and reordering characters; each is shown as U+FFFD. Other values pass."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(_REPLACEMENT if _is_hidden(character) else character for character in value)


def _is_hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _REORDERING or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}


@lru_cache(1)
def environment() -> Environment:
    """Return the template environment: HTML-escaping, and with no undefined name passing as an empty one."""
    templates = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["time_tag"] = _time_tag
    return templates


def _time_tag(at_ms: int) -> Markup:
    shown = datetime.fromtimestamp(at_ms // 1000, UTC)
    return Markup('<time datetime="{}">{} {:%b %Y, %H:%M} UTC</time>').format(time_json(at_ms), shown.day, shown)


def render(template: str, *, site: Site, status: int = 200, **values: Any) -> web.Response:
    """Return a page."""
    html = environment().get_template(template).render(site=site, **values)
    return web.Response(text=html, status=status, content_type="text/html")


def signed_credits(microcredits: int) -> str:
    """Show a movement with its sign: ``+1,000`` or, with a real minus sign, ``-0.0425``."""
    return f"{_MINUS if microcredits < 0 else '+'}{format_credits(abs(microcredits))}"


def shown_credits(microcredits: int) -> str:
    """Show a balance: ``1,000``, below zero with a real minus sign."""
    return format_credits(microcredits).replace("-", _MINUS)
