"""Requests to hubs: redirects, errors in words, and another try where that may help."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from omni.errors import ModelFileError

_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change
_LONGEST_WAIT = 60.0  # seconds

T = TypeVar("T")


class HubAnswerError(ModelFileError):
    """The hub answered, and the answer is no."""


class _PassingError(ModelFileError):
    """A failure that may pass. `wait`: seconds that the server asks for."""

    def __init__(self, message: str, wait: float = 0.0, answered: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.answered = answered


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https alone, and shows the token to nobody but the host that it is for."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        target, origin = urllib.parse.urlsplit(newurl), urllib.parse.urlsplit(req.full_url)
        if target.scheme not in ("http", "https"):
            raise HubAnswerError(f"{req.full_url}: redirects to {newurl}")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (target.scheme, target.netloc) != (origin.scheme, origin.netloc):
            request.remove_header("Authorization")
        return request


class Client:
    """Makes requests. `retries`: tries after a failure; the wait before the first, in seconds, doubles."""

    def __init__(self, timeout: float, retries: int, retry_seconds: float) -> None:
        self._timeout = timeout
        self._retries = retries
        self._retry_seconds = retry_seconds
        self._opener = urllib.request.build_opener(_Redirects)

    def get(self, url: str, headers: Mapping[str, str], what: str) -> bytes:
        """The whole answer to a request. `what` names it in errors."""

        def read() -> bytes:
            with self.open(url, headers, what) as response:
                return bytes(response.read())

        return self.keep_trying(read, what)

    def open(self, url: str, headers: Mapping[str, str], what: str) -> http.client.HTTPResponse:
        """The beginning of an answer. Raises HubAnswerError for a refusal, ModelFileError otherwise."""
        request = urllib.request.Request(url, headers={"User-Agent": "omni", **headers})
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error, what, "Authorization" in headers) from error
        return response

    def keep_trying(self, attempt: Callable[[], T], what: str, progress: Callable[[], int] = lambda: 0) -> T:
        """Calls until it succeeds, refuses, or has failed too often. `progress`: what must grow meanwhile."""
        failures, reached = 0, progress()
        while True:
            try:
                return attempt()
            except HubAnswerError:
                raise
            except _PassingError as error:
                problem = error
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, ModelFileError):
                    raise
                reason = getattr(error, "reason", None) or error
                problem = _PassingError(f"{what}: {reason or type(error).__name__}")
            if progress() > reached:
                failures, reached = 0, progress()
            if failures >= self._retries or problem.wait > _LONGEST_WAIT:
                raise (HubAnswerError if problem.answered else ModelFileError)(str(problem)) from problem
            time.sleep(max(problem.wait, min(self._retry_seconds * 2**failures, _LONGEST_WAIT)))
            failures += 1


def _refusal(error: urllib.error.HTTPError, what: str, with_token: bool) -> ModelFileError:
    code, reason = error.code, error.headers.get("X-Error-Message") or error.reason
    if code in _PASSING:
        after = error.headers.get("Retry-After", "")
        wait = float(after) if after.isdecimal() else 0.0
        why = "too many requests" if code == 429 else str(reason)
        advice = f"; the server asks to wait {wait:.0f} s" if wait else ""
        return _PassingError(f"{what}: the hub answers {code}, {why}{advice}", wait, answered=code == 429)
    kind = error.headers.get("X-Error-Code", "")
    token = "your token does not open it" if with_token else "give a token (--hf-token, HF_TOKEN)"
    if kind == "GatedRepo" or code == 403:
        text = f"access must be granted ({reason}); ask for it on the model's page, and {token}"
    elif kind == "RevisionNotFound":
        text = "there is no such revision"
    elif code == 401:
        text = f"it does not exist, or it is private and {token}"
    elif code == 404:
        text = "it does not exist"
    else:
        text = str(reason)
    return HubAnswerError(f"{what}: the hub answers {code}: {text}")
