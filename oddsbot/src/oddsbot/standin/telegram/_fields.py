"""`Fields`: the parameters of a call, whichever of four ways they were sent."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from .errors import ApiError, bad

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Upload(msgspec.Struct, frozen=True):
    """A file of the call."""

    name: str
    data: bytes


class Fields:
    """Parameters by name: of the query, a form, parts of a form, or JSON.

    Args:
        values: Texts, or values of JSON.
        files: Uploads by the name of their part.
    """

    def __init__(
        self, values: Mapping[str, Any], files: Mapping[str, Upload] | None = None
    ) -> None:
        self._values = values
        self.files = files or {}

    @classmethod
    async def of(cls, request: web.Request) -> Fields:
        """Read a request.

        Raises:
            ApiError: The body is no object of JSON.
        """
        values: dict[str, Any] = dict(request.query)
        files: dict[str, Upload] = {}
        if request.content_type == "application/json":
            body = _decoded(await request.text(), "the body")
            if not isinstance(body, dict):
                raise bad("can't parse the body: an object expected")
            return cls(values | body)
        try:
            if request.content_type.startswith("multipart/"):
                kind = request.headers["Content-Type"]
                _read_parts(kind, await request.read(), values, files)
            else:
                values |= await request.post()
        except (ValueError, LookupError) as error:
            raise bad("can't parse the body") from error
        return cls(values, files)

    def text(self, name: str) -> str:
        """Return a text; a number or a boolean of JSON as it is written there."""
        value = self._values.get(name)
        if value is None:
            return ""
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()

    def number(self, name: str, default: int | None = None) -> int:
        """Return a whole number of 64 bits.

        Raises:
            ApiError: It is none, or absent without a default.
        """
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise bad(f"{name} is empty")
        try:
            return msgspec.convert(value, _Int64, strict=False)
        except msgspec.ValidationError:
            raise bad(f"invalid {name} specified") from None

    def chat(self) -> int | None:
        """Return the number of the chat that is meant, None if it has none."""
        try:
            return self.number("chat_id")
        except ApiError:
            return None

    def flag(self, name: str) -> bool:
        """Return whether it is set."""
        return self.text(name).lower() == "true"

    def json(self, name: str) -> Any:
        """Return a value of JSON, which may be sent as a text; None if it is absent.

        Raises:
            ApiError: It is no JSON.
        """
        value = self._values.get(name)
        if isinstance(value, str):
            return _decoded(value, name) if value.strip() else None
        return value

    def names(self, name: str) -> list[str] | None:
        """Return a list of texts; None if it is absent.

        Raises:
            ApiError: It is no such list.
        """
        try:
            return msgspec.convert(self.json(name), list[str] | None)
        except msgspec.ValidationError:
            raise bad(f"can't parse {name}: an Array of Strings expected") from None


def _read_parts(
    kind: str, body: bytes, values: dict[str, Any], files: dict[str, Upload]
) -> None:
    """Read a body of parts, which is a message as of mail."""
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(data, bytes):
            raise ValueError("a part without a name, or with parts of its own")  # noqa: TRY004
        filename = part.get_filename()
        if filename is None:
            values[name] = data.decode()
        else:
            files[name] = Upload(filename, data)


def _decoded(text: str, name: str) -> Any:
    # Half of a surrogate pair is refused here too: it can be written in JSON only.
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad(f"can't parse {name} JSON object") from error
