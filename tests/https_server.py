"""A loopback https server that answers as a script says, honestly or not."""

import re
import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST_S = 10.0


class Site:
    """What the server does, and what it was asked.

    `behave` maps a path to a function of the handler; `asked` lists (path, Range, If-Range).
    """

    def __init__(self, port):
        self.root = f"https://localhost:{port}"
        self.behave = {}
        self.asked = []

    def url(self, path):
        return f"{self.root}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0]
        site = self.server.site
        site.asked.append((path, self.headers.get("Range"), self.headers.get("If-Range")))
        site.behave.get(path, status(404))(self)
        self.close_connection = True

    def head(self, code, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def start(self):
        """The first byte that is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else 0

    def log_message(self, *_):
        pass


def status(code, **headers):
    return lambda h: h.head(code, Content_Length=0, **headers)


def raw(answer):
    return lambda h: h.wfile.write(answer)


def whole(content, etag=None, kind="application/octet-stream"):
    """A good server: ranges, tags."""

    def answer(h):
        start = h.start()
        tag = {"ETag": etag} if etag else {}
        asked = h.headers.get("If-Range")
        if start and (asked is None or asked == etag):
            if start >= len(content):
                h.head(416, Content_Length=0, Content_Range=f"bytes */{len(content)}")
                return
            covers = f"bytes {start}-{len(content) - 1}/{len(content)}"
            size = len(content) - start
            h.head(206, Content_Length=size, Content_Range=covers, **tag)
        else:
            start = 0
            h.head(200, Content_Length=len(content), Content_Type=kind, **tag)
        h.wfile.write(content[start:])

    return answer


def breaking(content, after, etag=None):
    """Sends `after` bytes of what it promises, from where it is asked to, then hangs up."""

    def answer(h):
        start = h.start()
        tag = {"ETag": etag} if etag else {}
        covers = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        h.head(
            206 if start else 200,
            Content_Length=len(content) - start,
            **tag,
            **(covers if start else {}),
        )
        h.wfile.write(content[start : start + after])

    return answer


def ignoring_ranges(content, sent=None):
    """Always the whole file; `sent` bytes of it at most."""

    def answer(h):
        h.head(200, Content_Length=len(content))
        h.wfile.write(content[:sent])

    return answer


def chunked(content):
    """Never says how long it is."""

    def answer(h):
        h.head(200, Transfer_Encoding="chunked")
        for at in range(0, len(content), 1000):
            piece = content[at : at + 1000]
            h.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        h.wfile.write(b"0\r\n\r\n")

    return answer


def endless(h):
    """Sends for as long as somebody reads, bounded."""
    h.head(200, Transfer_Encoding="chunked")
    end = time.monotonic() + MOST_S
    while time.monotonic() < end:
        h.wfile.write(b"%x\r\n%s\r\n" % (1000, bytes(1000)))


def stalling(content, after):
    """Sends `after` bytes, then keeps silent for a while."""

    def answer(h):
        h.head(200, Content_Length=len(content))
        h.wfile.write(content[:after])
        h.wfile.flush()
        h.server.gone.wait(MOST_S)

    return answer


def dripping(content):
    """A byte now and then, each within any time-out."""

    def answer(h):
        h.head(200, Content_Length=len(content))
        end = time.monotonic() + MOST_S
        for at in range(len(content)):
            if time.monotonic() > end or h.server.gone.wait(0.02):
                return
            h.wfile.write(content[at : at + 1])
            h.wfile.flush()

    return answer


def _drop_by_drop(h, before, drop):
    h.wfile.write(before)
    end = time.monotonic() + MOST_S
    while time.monotonic() < end and not h.server.gone.wait(0.1):
        h.wfile.write(drop)
        h.wfile.flush()


def dripping_header(h):
    """A header that never ends, each byte within any time-out."""
    _drop_by_drop(h, b"HTTP/1.1 200 OK\r\nX-Long: ", b"x")


def dripping_chunk(h):
    """A chunk whose length never ends, likewise."""
    _drop_by_drop(h, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=", b"x")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """Clients that hang up are the point of these tests."""


@contextmanager
def serving(certificate):
    """A site on a free port of this machine, for as long as the block lasts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server = _Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.gone = threading.Event()
    server.site = Site(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.gone.set()
        server.shutdown()
        server.server_close()
        thread.join(MOST_S)
