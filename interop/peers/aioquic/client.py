"""aioquic as a client by the contract of quic-interop-runner: hq-interop and h3."""

import asyncio
import os
import sys
from urllib.parse import urlsplit

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated
from aioquic.tls import CipherSuite

SUPPORTED = {
    "handshake", "transfer", "chacha20", "keyupdate", "retry", "resumption", "zerortt", "http3", "multiconnect",
}
TESTCASE = os.environ["TESTCASE"]


class Files(QuicConnectionProtocol):
    """Downloads over HTTP/0.9: one stream for each."""

    async def fetch(self, url, host):
        reader, writer = await self.create_stream()
        writer.write(f"GET {url.path}\r\n".encode())
        writer.write_eof()
        return await reader.read()


class Pages(QuicConnectionProtocol):
    """Downloads over HTTP/3."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.waiting = {}

    async def fetch(self, url, host):
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_running_loop().create_future()
        self.waiting[stream] = (done, [])
        fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", host.encode()), (b":path", url.path.encode())]
        self.http.send_headers(stream, fields, end_stream=True)
        self.transmit()
        return await done

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            for done, _ in self.waiting.values():
                if not done.done():
                    done.set_exception(ConnectionError(event.reason_phrase))
        for event in self.http.handle_event(event):
            done, parts = self.waiting.get(getattr(event, "stream_id", None), (None, None))
            if isinstance(event, HeadersReceived) and done:
                status = dict(event.headers).get(b":status")
                if status != b"200":
                    done.set_exception(ValueError(f"status {status}"))
            if isinstance(event, DataReceived) and done:
                parts.append(event.data)
            if getattr(event, "stream_ended", False) and done and not done.done():
                done.set_result(b"".join(parts))


def configuration(ticket=None):
    http3 = TESTCASE == "http3"
    settings = QuicConfiguration(is_client=True, alpn_protocols=["h3" if http3 else "hq-interop"], session_ticket=ticket)
    settings.load_verify_locations(os.path.join(os.environ["CERTS"], "ca.pem"))
    settings.idle_timeout = 30
    if os.environ.get("SSLKEYLOGFILE"):
        settings.secrets_log_file = open(os.environ["SSLKEYLOGFILE"], "a")
    if TESTCASE == "transfer":
        settings.max_data = settings.max_stream_data = 128 * 1024
    if TESTCASE == "chacha20":
        settings.cipher_suites = [CipherSuite.CHACHA20_POLY1305_SHA256]
    return settings


async def download(urls, ticket=None, early=False):
    """Fetches all over one connection; answers with the last session ticket."""
    tickets = []
    url = urls[0]
    dial = connect(
        url.hostname,
        url.port or 443,
        configuration=configuration(ticket),
        create_protocol=Pages if TESTCASE == "http3" else Files,
        session_ticket_handler=tickets.append,
        wait_connected=not early,
    )
    async with dial as client:
        if TESTCASE == "keyupdate":
            await client.ping()
            client.request_key_update()
        bodies = await asyncio.gather(*(client.fetch(url, url.netloc) for url in urls))
        for url, body in zip(urls, bodies):
            with open(os.path.join(os.environ["DOWNLOADS"], url.path.lstrip("/")), "wb") as file:
                file.write(body)
        # A ticket may come after the last byte of a file.
        for _ in range(100):
            if tickets or TESTCASE not in ("resumption", "zerortt"):
                break
            await asyncio.sleep(0.02)
    return tickets[-1] if tickets else None


async def main():
    urls = [urlsplit(url) for url in os.environ["REQUESTS"].split()]
    if TESTCASE == "multiconnect":
        for url in urls:
            await download([url])
    elif TESTCASE in ("resumption", "zerortt"):
        ticket = await download(urls[:1])
        if ticket is None:
            sys.exit("no session ticket came")
        await download(urls[1:], ticket, early=TESTCASE == "zerortt")
    else:
        await download(urls)


if TESTCASE not in SUPPORTED:
    sys.exit(127)
asyncio.run(main())
