"""The only door to the network: one GET over https, from a given byte on, distrusted.

Nothing here retries and nothing is written: `Broken` says that asking again may help, `Refused`
that this source will not do.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError, TimeoutError

from quantize import __version__
from quantize.zoo.watchdog import LateError, watched, within

log = logging.getLogger(__name__)

_CHUNK = 1 << 18
_MOST_REDIRECTS = 5
_STRONG = re.compile(r'"[!#-~]{0,200}"')
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class Refused(Exception):  # noqa: N818 - an answer, not a defect
    """This source does not give the file."""


class Broken(Exception):  # noqa: N818 - likewise
    """The connection failed; asking again may help.

    Args:
        reason: what happened.
        after_s: seconds that the server asked to wait.
    """

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        self.after_s = after_s
        super().__init__(reason)


class WrongRange(Broken):
    """The server answers another range than asked for: ask for the whole file."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        connect_s: seconds until it has to accept.
        answer_s: seconds until the head of its answer is there, from looking up its name on.
        read_s: seconds without a byte.
        slowest: bytes a second below which it counts as stalled.
        attempts: in a row that bring next to nothing.
        backoff_s: seconds before the second attempt; doubled each time.
        most_backoff_s: seconds between two attempts at most, whatever the server asks.
        lock_s: seconds for another process that fetches the same model.
    """

    connect_s: float = 10.0
    answer_s: float = 60.0
    read_s: float = 30.0
    slowest: int = 4096
    attempts: int = 4
    backoff_s: float = 1.0
    most_backoff_s: float = 30.0
    lock_s: float = 3600.0


@dataclass(frozen=True, eq=False)
class Answer:
    """A body that can be read.

    Attributes:
        start: where in the file it begins, in bytes.
        total: bytes of the whole file as the server says, or None.
        etag: a strong tag of the file, or None.
    """

    start: int
    total: int | None
    etag: str | None
    _response: urllib3.BaseHTTPResponse
    _patience: Patience

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes.

        Raises:
            Broken: it ends early, or hardly anything comes.
        """
        begun, received = time.monotonic(), 0
        silence = 2 * self._patience.read_s
        with _failures(), watched(self._response.shutdown, silence) as heard:
            while chunk := self._response.read1(_CHUNK, decode_content=False):
                heard()
                received += len(chunk)
                allowed = self._patience.read_s + received / self._patience.slowest
                if time.monotonic() - begun > allowed:
                    raise Broken("stalls")
                yield chunk


class Transport:
    """Asks servers with the system's certificates and proxies."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._certificates = ssl.create_default_context()

    @contextmanager
    def opened(self, url: str, start: int = 0, etag: str | None = None) -> Iterator[Answer]:
        """Ask for a file.

        Args:
            url: https.
            start: the byte to begin at; the server may begin at 0 all the same.
            etag: begin at `start` only if the file is still the one with this tag.

        Raises:
            Refused: the server does not give it.
            Broken: asking again may help; after a wrong range, from 0.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            check_https(url)
            with self._pool(url) as pool:
                response = self._get(pool, url, start, etag)
                try:
                    target = response.headers.get("Location")
                    if response.status in (301, 302, 303, 307, 308) and target:
                        url = urljoin(url, target)
                        continue
                    yield self._answer(response, start)
                    return
                finally:
                    response.close()
        raise Refused(f"redirects more than {_MOST_REDIRECTS} times")

    def _get(
        self, pool: urllib3.PoolManager, url: str, start: int, etag: str | None
    ) -> urllib3.BaseHTTPResponse:
        headers = {"User-Agent": f"quantize/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag:
                headers["If-Range"] = etag
        limit = urllib3.Timeout(connect=self.patience.connect_s, read=self.patience.read_s)

        def ask() -> urllib3.BaseHTTPResponse:
            return pool.request(
                "GET",
                url,
                headers=headers,
                timeout=limit,
                retries=False,
                redirect=False,
                preload_content=False,
            )

        with _failures():
            return within(self.patience.answer_s, ask, lambda late: late.close())

    def _answer(self, response: urllib3.BaseHTTPResponse, start: int) -> Answer:
        status, headers = response.status, response.headers
        if status in _AGAIN:
            raise Broken(f"answers {_phrase(status)}", _count(headers.get("Retry-After")) or 0)
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            raise WrongRange("has no such range")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise Refused(f"answers {_phrase(status)}")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused("sends it compressed, unasked")
        chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        total = None if chunked else _count(headers.get("Content-Length"))
        begin = 0
        if status == HTTPStatus.PARTIAL_CONTENT:
            seen = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
            if seen is None or int(seen[1]) != start:
                raise WrongRange("sends another range than asked for")
            begin, total = start, _count(seen[3])
        etag = headers.get("ETag", "")
        strong = etag if _STRONG.fullmatch(etag) else None
        return Answer(begin, total, strong, response, self.patience)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Connections by way of the proxy that the environment names, if it names one."""
        host = urlsplit(url).hostname or ""
        proxies = urllib.request.getproxies()
        proxy = proxies.get("https") or proxies.get("all")
        if not proxy or urllib.request.proxy_bypass(host):
            return urllib3.PoolManager(ssl_context=self._certificates)
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        parts = urlsplit(proxy)
        secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        known = urllib3.make_headers(proxy_basic_auth=secret) if parts.username else None
        with _failures():
            return urllib3.ProxyManager(proxy, proxy_headers=known, ssl_context=self._certificates)


def check_https(url: str) -> None:
    """Refuse what is not a plain https address.

    Raises:
        Refused: another protocol, no host, an impossible port, or a name and a password in it.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Refused("has characters that no address has")
    try:
        parts = urlsplit(url)
        host, named = parts.hostname, parts.username or parts.password
        parts.port  # noqa: B018 - looking at it checks it
    except ValueError as error:
        raise Refused("is no address") from error
    if parts.scheme != "https":
        raise Refused(f"leads to {parts.scheme or 'no protocol'}:, which is not https")
    if not host:
        raise Refused("is an address without a host")
    if named is not None:
        raise Refused("is an address with a name or a password in it")


@contextmanager
def _failures() -> Iterator[None]:
    """The library's errors as ours."""
    try:
        yield
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise Refused("has a certificate that is not trusted here") from error
        raise Broken("breaks off the encryption") from error
    except LateError as error:
        raise Broken("does not answer in time") from error
    except (HTTPError, OSError, ValueError) as error:
        log.info("%s: %s", type(error).__name__, error)
        raise Broken(_plain(error)) from error


def _plain(error: Exception) -> str:
    """The reason in words."""
    words = {
        "NameResolutionError": "cannot be found by its name",
        "NewConnectionError": "cannot be reached",
        "ProxyError": "cannot be reached by way of the proxy",
        "IncompleteRead": "breaks off",
        "ProtocolError": "breaks off",
    }
    late = "does not answer in time" if isinstance(error, TimeoutError) else "cannot be understood"
    return words.get(type(error).__name__, late)


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _count(text: str | None) -> int | None:
    """A number of bytes or seconds, if it is one."""
    plain = (text or "").strip()
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) <= 15 else None
