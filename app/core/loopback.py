"""Which hosts are this machine, so that plain HTTP to them is acceptable in development."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or a loopback address. IPv6 addresses go without brackets."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
