"""The manifest of an archive: every part with its SHA-256 and sums, in one JSON file that is replaced whole.

Each part's digest covers its entry and the digest before it, so the last one stands for the archive: whoever keeps it
can tell later that no part was changed, left out or put in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...errors import InvalidValue
from ...ledger.auditing.starts import ChainStart
from ..durable import sync_path
from .parts import PARTIAL, is_part
from .walk import PartSums

MANIFEST: Final = "manifest.json"
_FORMAT: Final = "credits archive 1"


@dataclass(frozen=True, slots=True)
class Part:
    """A part as the manifest describes it; ``before_ms`` is the time that its run was asked to archive up to."""

    file: str
    sha256: str
    size_bytes: int
    before_ms: int
    sums: PartSums


@dataclass(slots=True)
class Manifest:
    """An archive's parts in the order in which they were written. ``digest`` covers all of them."""

    folder: Path
    parts: list[Part]
    digest: str = ""

    def path(self, part: Part) -> Path:
        """Return where a part's file is."""
        return self.folder / part.file

    def strangers(self) -> list[str]:
        """Return the names of files that look like parts and are not in the manifest."""
        known = {part.file for part in self.parts}
        return sorted(path.name for path in self.folder.iterdir() if is_part(path.name) and path.name not in known)

    def save(self) -> None:
        """Write the manifest anew, whole and synced; computes its digest."""
        entries, self.digest = [], ""
        for part in self.parts:
            entry = _entry(part)
            self.digest = _digest(self.digest, entry)
            entries.append({**entry, "digest": self.digest})
        path = self.folder / MANIFEST
        partial = path.with_name(path.name + PARTIAL)
        partial.write_text(json.dumps({"format": _FORMAT, "digest": self.digest, "parts": entries}, indent=1) + "\n")
        sync_path(partial)
        partial.replace(path)
        sync_path(self.folder)


def load_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest; an empty one where there is none.

    Raises:
        InvalidValue: it is not as it was written.
    """
    path = folder / MANIFEST
    if not path.exists():
        return Manifest(folder, [])
    try:
        values = json.loads(path.read_bytes())
        parts, digest = [], ""
        for entry in values["parts"]:
            digest = _digest(digest, {name: value for name, value in entry.items() if name != "digest"})
            if entry["digest"] != digest:
                msg = f"the entry of {entry['file']} was changed, or one before it left out or put in"
                raise ValueError(msg)
            parts.append(_part(entry))
        if (values["format"], values["digest"]) != (_FORMAT, digest):
            msg = "its format or its digest is another"
            raise ValueError(msg)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} is not the manifest of an archive as it was written: {error}"
        raise InvalidValue(msg) from error
    return Manifest(folder, parts, digest)


def _digest(before: str, entry: dict[str, Any]) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{before}\n{canonical}".encode()).hexdigest()


def _entry(part: Part) -> dict[str, Any]:
    sums = part.sums
    codes = {
        str(code): {"transfers": count, "amount": sums.amounts[code]} for code, count in sorted(sums.transfers.items())
    }
    return {
        "file": part.file,
        "sha256": part.sha256,
        "bytes": part.size_bytes,
        "before_ms": part.before_ms,
        "rows": sums.rows,
        "accounts": sums.accounts,
        "opening": sums.opening,
        "closing": sums.closing,
        "codes": codes,
        "first_account": sums.first_account,
        "last_account": sums.last_account,
        "end": {
            "seq": sums.end.seq,
            "transfer_id": sums.end.last_id,
            "hash": sums.end.last_hash.hex(),
            "balance": sums.end.balance,
        },
    }


def _part(entry: dict[str, Any]) -> Part:
    end = entry["end"]
    sums = PartSums(
        entry["rows"],
        entry["accounts"],
        entry["opening"],
        entry["closing"],
        entry["first_account"],
        entry["last_account"],
        ChainStart(end["seq"], end["transfer_id"], bytes.fromhex(end["hash"]), end["balance"]),
        Counter({int(code): both["transfers"] for code, both in entry["codes"].items()}),
        Counter({int(code): both["amount"] for code, both in entry["codes"].items()}),
    )
    name = entry["file"]
    if not is_part(name) or "/" in name:
        msg = f"{name!r} is no name of a part"
        raise ValueError(msg)
    return Part(name, entry["sha256"], entry["bytes"], entry["before_ms"], sums)
