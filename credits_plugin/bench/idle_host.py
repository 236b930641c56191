"""A script: an aiohttp host that serves nothing, ``bare`` or with the plugin on the database that is named.

``core URL``: as if the extra ``postgres`` were not installed; ``extra URL``: with what is installed here. Prints its
resident memory in MB (10^6 bytes) once it is idle.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

from aiohttp import web

_SETTLING_S = 0.5  # until what starting up left to other threads is done


async def _main(kind: str, database_url: str = "") -> None:
    if kind == "core":
        for driver in ("psycopg", "psycopg2"):
            sys.modules[driver] = None  # type: ignore[assignment]  # the documented way to make an import fail
    app = web.Application()
    if database_url:
        _plug_in(app, database_url)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await asyncio.sleep(_SETTLING_S)
    gc.collect()
    print(_resident_bytes() / 1e6)  # noqa: T201 - the measuring process reads it
    await runner.cleanup()


def _plug_in(app: web.Application, database_url: str) -> None:
    import pluggy  # noqa: PLC0415 - the bare host must not load it

    from credits_plugin import (  # noqa: PLC0415 - see above
        PROJECT_NAME,
        CreditsPlugin,
        CreditsSpecs,
        HookCaller,
        Settings,
        build,
        mount,
    )

    settings = Settings(
        database_url=database_url,
        stripe_secret_key="sk_test_idle",  # noqa: S106 - a key to nothing
        stripe_webhook_secrets=("whsec_idle",),
    )
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    manager.register(CreditsPlugin(build(settings)))
    HookCaller(manager)
    mount(app, manager)


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1_024


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
