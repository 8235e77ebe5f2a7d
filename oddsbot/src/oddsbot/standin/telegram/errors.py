"""What the Bot API refuses, in its own words."""

from __future__ import annotations

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


class ApiError(Exception):
    """An answer with ``ok: false``.

    Args:
        code: The number that stands in for the HTTP status.
        description: As Telegram writes it, such as ``chat not found``.
        **parameters: ``retry_after`` in seconds.
    """

    _PREFIXES = {400: "Bad Request", 403: "Forbidden", 409: "Conflict"}  # noqa: RUF012

    def __init__(self, code: int, description: str, **parameters: int) -> None:
        prefix = self._PREFIXES.get(code)
        self.code = code
        self.description = f"{prefix}: {description}" if prefix else description
        self.parameters = parameters
        super().__init__(self.description)

    def body(self) -> Json:
        """Return it as the body of the answer."""
        body: Json = {
            "ok": False,
            "error_code": self.code,
            "description": self.description,
        }
        return body | ({"parameters": self.parameters} if self.parameters else {})


def bad(description: str) -> ApiError:
    """Return a refusal of the request itself."""
    return ApiError(400, description)
