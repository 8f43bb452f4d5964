"""An agent: its key, and how httpx shows that it holds it (RFC 9449)."""

from collections.abc import Generator

import httpx

from guard.identity import HolderKey


class DPoP(httpx.Auth):
    """A fresh proof for each request. Where the server demands a nonce the request goes out once more, and never a third time."""

    def __init__(self, token: str, key: HolderKey) -> None:
        self.token, self.key = token, key
        self.nonce: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield self._signed(request)
        demanded = response.status_code == 401 and 'error="use_dpop_nonce"' in response.headers.get("www-authenticate", "")
        self.nonce = response.headers.get("dpop-nonce", self.nonce)
        if demanded:
            response = yield self._signed(request)
            self.nonce = response.headers.get("dpop-nonce", self.nonce)

    def _signed(self, request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = f"DPoP {self.token}"
        request.headers["dpop"] = self.key.dpop(request.method, str(request.url), presented=self.token, nonce=self.nonce)
        return request
