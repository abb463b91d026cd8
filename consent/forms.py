"""HTML forms as a body: read strictly, without a framework."""

from __future__ import annotations

from email import policy as email_policy
from email.parser import BytesParser
from urllib.parse import parse_qsl

__all__ = ["read_form"]

MAX_FORM = 64 * 1024  # bytes
MAX_FIELDS = 2_000


def read_form(content_type: str, body: bytes) -> dict[str, str] | None:
    """The fields of a form (urlencoded, or multipart as mail programs send it); None for anything else."""
    if len(body) > MAX_FORM:
        return None
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "application/x-www-form-urlencoded":
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
        elif kind == "multipart/form-data":
            pairs = _multipart(content_type, body)
        else:
            return None
    except ValueError:
        return None
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None


def _multipart(content_type: str, body: bytes) -> list[tuple[str, str]]:
    if "\r" in content_type or "\n" in content_type:
        raise ValueError
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
    message = BytesParser(policy=email_policy.HTTP).parsebytes(head + body)
    pairs: list[tuple[str, str]] = []
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(payload, bytes) or len(pairs) >= MAX_FIELDS:
            raise ValueError
        pairs.append((name, payload.decode("utf-8")))
    return pairs
