"""Whether a host name means this machine itself: what an HTTP port that checks no keys may listen on and answer to.

Every role's HTTP port asks it twice: about the address to listen on, and about each request's `Host`. The second is the
defence against DNS rebinding: a foreign name that resolves to 127.0.0.1 lets a web page send requests here, but the
browser still sends that name as `Host`. Nothing here is resolved, and nothing fails.
"""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or address without a port, is `localhost`, below it, or a loopback address.

    An IPv6 address may be in brackets, and a name may end with the root's dot.
    """
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    host = host.removesuffix(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_port(host_header: str) -> str:
    """The host of a `Host` header: of `host`, `host:port`, `[v6]` or `[v6]:port`."""
    if host_header.startswith("["):
        address, bracket, rest = host_header.partition("]")
        return address + bracket if not rest or rest.startswith(":") else host_header
    return host_header.partition(":")[0]
