"""JSON bodies, bounded before they are read.

REST framework imports this module while it makes its own views: nothing here may import those.
"""

import io
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser

MAX_JSON_BYTES = 2**20


class BodyTooLarge(APIException):
    status_code = 413
    default_code = "too_large"
    default_detail = f"A JSON body has at most {MAX_JSON_BYTES} bytes."


class BoundedJSONParser(JSONParser):
    """JSON of at most `max_bytes`, whatever the headers say; REST framework's own parser reads without end."""

    max_bytes = MAX_JSON_BYTES

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        body = stream.read(self.max_bytes + 1)
        if len(body) > self.max_bytes:
            raise BodyTooLarge
        try:
            return super().parse(io.BytesIO(body), media_type, dict(parser_context or {}))
        except RecursionError as error:
            raise ParseError("JSON parse error - nested too deeply") from error
