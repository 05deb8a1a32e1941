"""Chromium without a screen, steered through its debugging pipe: JSON, each message ended by a zero byte."""

import atexit
import base64
import contextlib
import functools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import pytest

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
_SECONDS = 60
_KEYS = {"Tab": {"windowsVirtualKeyCode": 9}, "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"}}
_until_the_end = contextlib.ExitStack()
atexit.register(_until_the_end.close)


def find_browser():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """A page in the browser."""

    def __init__(self, to_browser, from_browser):
        self._to, self._from, self._buffer, self._number, self._session = to_browser, from_browser, b"", 0, None
        self.messages = []
        self._attach(self.call("Target.createTarget", url="about:blank")["targetId"])

    def _attach(self, target):
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    @contextlib.contextmanager
    def other(self, address):
        """The tab of an address that a page has opened, steered meanwhile in place of this one; it is closed."""
        own, self._session = self._session, None
        end = time.monotonic() + _SECONDS
        found = []
        while not found:
            assert time.monotonic() < end, f"no tab has {address}"
            targets = self.call("Target.getTargets")["targetInfos"]
            found = [target["targetId"] for target in targets if target["url"] == address]
        try:
            self._attach(found[0])
            yield self
        finally:
            self._session = None
            self.call("Target.closeTarget", targetId=found[0])
            self._session = own

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            # what a developer would see in red
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.messages.append(answer["params"])

    def _next(self):
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], _SECONDS)[0], "the browser does not answer"
            self._buffer += os.read(self._from, 2**20)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def value(self, expression):
        """Of JavaScript."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression):
        end = time.monotonic() + _SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.wait_for(f"location.href == {json.dumps(address)} && document.readyState == 'complete'")

    def choose(self, selector, paths):
        """Files in a file field, as a user chooses them."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **_KEYS[key])

    def picture(self, path, width=1000):
        """A picture of the whole page."""
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def opened(browser):
    """A page of a browser of its own, with a profile that is removed."""
    (from_us, to_browser), (from_browser, to_us) = os.pipe(), os.pipe()

    def as_the_browser_wants_them():
        # it reads from 3 and writes to 4; first out of the way of each other
        os.dup2(os.dup(from_us), 20)
        os.dup2(os.dup(to_us), 21)
        os.dup2(20, 3)
        os.dup2(21, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [browser, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            close_fds=False,
            preexec_fn=as_the_browser_wants_them,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        try:
            yield Page(to_browser, from_browser)
        finally:
            os.close(to_browser)
            process.terminate()
            process.wait(30)
            os.close(from_browser)


@functools.lru_cache(maxsize=None)
def shared_page():
    """A page for all tests of a session, which are skipped if there is no browser."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium is installed: the page is not tried in a browser")
    return _until_the_end.enter_context(opened(found))
