"""A name server in a thread of its own, for tests that keep the event loop busy: it knows no name at all."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dns.flags
import dns.message
import dns.rcode


@contextmanager
def empty_world() -> Iterator[str]:
    """Yields its address, as BYOK_DNS__NAMESERVERS wants it. Every answer is: there is no such name."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    listener.settimeout(0.2)
    is_over = threading.Event()

    def answer() -> None:
        while not is_over.is_set():
            with suppress(TimeoutError):
                question, sender = listener.recvfrom(4096)
                response = dns.message.make_response(dns.message.from_wire(question))
                response.flags |= dns.flags.RA
                response.set_rcode(dns.rcode.NXDOMAIN)
                listener.sendto(response.to_wire(), sender)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        is_over.set()
        thread.join()
        listener.close()
