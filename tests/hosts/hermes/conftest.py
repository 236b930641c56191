"""A home for hermes, which reads where it is as soon as it is imported."""

from __future__ import annotations

import os
import tempfile

HOME = tempfile.TemporaryDirectory(prefix="hermes-")
os.environ["HERMES_HOME"] = os.environ["HOME"] = HOME.name
