"""A DNS server in its own thread, for tests that keep the event loop busy. It knows no names."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dns.flags
import dns.message
import dns.rcode


@contextmanager
def nxdomain_name_server() -> Iterator[str]:
    """Yield the address in the format of `BYOK_DNS__NAMESERVERS`. Every response is NXDOMAIN."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    listener.settimeout(0.2)
    is_stopped = threading.Event()

    def serve() -> None:
        while not is_stopped.is_set():
            with suppress(TimeoutError):
                query, sender = listener.recvfrom(4096)
                response = dns.message.make_response(dns.message.from_wire(query))
                response.flags |= dns.flags.RA
                response.set_rcode(dns.rcode.NXDOMAIN)
                listener.sendto(response.to_wire(), sender)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        is_stopped.set()
        thread.join()
        listener.close()
