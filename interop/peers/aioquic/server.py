"""aioquic as a server by the contract of quic-interop-runner: hq-interop and h3."""

import asyncio
import os
import signal
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from aioquic.tls import CipherSuite

SUPPORTED = {"handshake", "transfer", "chacha20", "retry", "resumption", "zerortt", "http3", "multiconnect"}
TESTCASE = os.environ["TESTCASE"]
HTTP3 = TESTCASE == "http3"


def content(path):
    name = os.path.join(os.environ["WWW"], os.path.basename(path))
    with open(name, "rb") as file:
        return file.read()


class Server(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = None
        self.requests = {}

    def quic_event_received(self, event):
        if HTTP3:
            self.http = self.http or H3Connection(self._quic)
            for event in self.http.handle_event(event):
                if isinstance(event, HeadersReceived):
                    self.page(event)
        elif isinstance(event, StreamDataReceived):
            self.file(event)

    def page(self, event):
        try:
            body, status = content(dict(event.headers)[b":path"].decode()), b"200"
        except OSError:
            body, status = b"", b"404"
        self.http.send_headers(event.stream_id, [(b":status", status)], end_stream=not body)
        if body:
            self.http.send_data(event.stream_id, body, end_stream=True)
        self.transmit()

    def file(self, event):
        request = self.requests.pop(event.stream_id, b"") + event.data
        if not event.end_stream:
            self.requests[event.stream_id] = request
            return
        try:
            body = content(request.split()[1].decode())
        except (OSError, IndexError):
            body = b""
        self._quic.send_stream_data(event.stream_id, body, end_stream=True)
        self.transmit()


class Tickets:
    """Session tickets, each good once."""

    def __init__(self):
        self.kept = {}

    def add(self, ticket):
        self.kept[ticket.ticket] = ticket

    def pop(self, label):
        return self.kept.pop(label, None)


async def main():
    settings = QuicConfiguration(is_client=False, alpn_protocols=["h3" if HTTP3 else "hq-interop"])
    certs = os.environ["CERTS"]
    settings.load_cert_chain(os.path.join(certs, "cert.pem"), os.path.join(certs, "priv.key"))
    settings.idle_timeout = 30
    if os.environ.get("SSLKEYLOGFILE"):
        settings.secrets_log_file = open(os.environ["SSLKEYLOGFILE"], "a")
    if TESTCASE == "chacha20":
        settings.cipher_suites = [CipherSuite.CHACHA20_POLY1305_SHA256]
    tickets = Tickets()
    await serve(
        "::",
        int(os.environ.get("PORT", "443")),
        configuration=settings,
        create_protocol=Server,
        session_ticket_fetcher=tickets.pop,
        session_ticket_handler=tickets.add,
        retry=TESTCASE == "retry",
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if TESTCASE not in SUPPORTED:
    sys.exit(127)
asyncio.run(main())
