"""A real browser, driven over the DevTools protocol with nothing but aiohttp."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from aiohttp import ClientSession, WSMsgType

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Tab:
    """One tab of a browser of its own. ``complaints`` are errors in its console, refused resources among them."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session_id: str | None = None

    async def __aenter__(self) -> Self:
        self._profile = tempfile.mkdtemp(prefix="credits-chromium-")
        self._process = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            *_FLAGS,
            f"--user-data-dir={self._profile}",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._http = ClientSession()
        self._socket = await self._http.ws_connect(await self._address(), max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session_id = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._session_id = None
        await self.send("Browser.close")
        self._reader.cancel()
        await self._http.close()
        try:
            await asyncio.wait_for(self._process.communicate(), 10)
        except TimeoutError:
            self._process.send_signal(signal.SIGKILL)
            await self._process.communicate()
        shutil.rmtree(self._profile, ignore_errors=True)

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session_id is not None:
            message["sessionId"] = self._session_id
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        return await asyncio.wait_for(self._answers[number], 20)

    async def look_like(self, width: int, height: int, *, dark: bool = False, script: bool = True) -> None:
        """Take the size and the preferences of a reader's device."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.send("Emulation.setEmulatedMedia", features=scheme)
        await self.send("Emulation.setScriptExecutionDisabled", value=not script)

    async def open(self, url: str) -> None:
        """Go to an address and wait until the page is there."""
        await self.send("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page; None from a page that is in transit."""
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("value")

    async def wait_for(self, expression: str) -> None:
        """Wait until an expression is true; a page in transit answers nothing."""
        async with asyncio.timeout(15):
            while await self.ask(expression) is not True:
                await asyncio.sleep(0.05)

    async def picture(self, path: Path) -> None:
        """Write a picture of the whole page."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def _address(self) -> str:
        async with asyncio.timeout(20):
            async for line in self._process.stderr:
                if line.startswith(b"DevTools listening on "):
                    return line.decode().split()[-1]
        raise RuntimeError("the browser did not start")

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            document = message.json()
            if "id" in document:
                self._answers.pop(document["id"]).set_result(document.get("result", {}))
            elif document["method"] == "Log.entryAdded" and document["params"]["entry"]["level"] == "error":
                self.complaints.append(document["params"]["entry"]["text"])
            elif document["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(document["params"]["exceptionDetails"]))
