"""Where a partner's node may be: an https origin, or plain http on this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from privacy.errors import Misuse

__all__ = ["check_address"]

_PRINTABLE = re.compile(r"[!-~]{1,512}")


def check_address(url: str, code: str = "bad_address") -> None:
    """Raises `Misuse` unless `url` is scheme, host and perhaps port: no userinfo, path, query or fragment.

    Requests are signed, not secret: what they hold travels in the clear without TLS, so http is for
    loopback addresses only.
    """
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise Misuse("a partner's address must be printable and at most 512 characters.", code=code)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Misuse("a partner's address cannot be read as a URL.", code=code) from None
    bare = url.rstrip("/") == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    if parts.scheme not in {"http", "https"} or not host or not bare or set(url) & set("?#"):
        raise Misuse(
            "a partner's address must be a scheme, a host and perhaps a port, nothing else.",
            code=code,
            advice="For example https://node.example:8440.",
        )
    if parts.scheme == "http" and not _loopback(host):
        raise Misuse(
            "a partner's address must begin with https unless it is on this machine.",
            code=code,
            advice="Serve the node through TLS.",
        )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
