"""Serves stored files by SHA-256 with ranges and entity tags, so that a download can be resumed and checked."""

import re
from collections.abc import AsyncIterator

from asgiref.sync import sync_to_async
from django.core.files.storage import FileSystemStorage, default_storage
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe

from training.models import Attempt, Blob

CHUNK_BYTES = 2**20
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@require_safe
async def blob(request: HttpRequest, sha256: str) -> HttpResponseBase:
    """A tokenizer, shard, checkpoint, manifest or merged delta; one byte range where one is asked for."""
    row = await sync_to_async(_public_blob)(sha256)
    etag = f'"{row.sha256}"'
    if request.headers.get("If-None-Match") in (etag, "*"):
        return HttpResponse(status=304, headers={"ETag": etag})
    if not isinstance(default_storage._wrapped, FileSystemStorage):  # type: ignore[attr-defined]
        return HttpResponseRedirect(default_storage.url(row.path))
    # A range of another version cannot happen under a name that is the content's hash.
    asked = request.headers.get("Range") if request.headers.get("If-Range") in (None, etag) else None
    start, stop = _span(asked, row.size_bytes)
    if start >= stop:
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{row.size_bytes}"})
    partial = (start, stop) != (0, row.size_bytes)
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=31536000, immutable",
        "Content-Length": str(stop - start),
        **({"Content-Range": f"bytes {start}-{stop - 1}/{row.size_bytes}"} if partial else {}),
    }
    body = _read(row, start, stop) if request.method == "GET" else ()
    return StreamingHttpResponse(
        body, status=206 if partial else 200, headers=headers, content_type="application/octet-stream"
    )


def _public_blob(sha256: str) -> Blob:
    """Raises: Http404 for what is unknown, and for a delta that no merge has taken yet."""
    row = get_object_or_404(Blob, sha256=sha256)
    if row.kind == Blob.Kind.DELTA:
        get_object_or_404(Attempt.objects.filter(delta=row, state=Attempt.State.MERGED).order_by("pk")[:1])
    return row


def _span(asked: str | None, size_bytes: int) -> tuple[int, int]:
    """First and last-but-one byte; the whole file where the range cannot be read, as RFC 9110 section 14.2 allows."""
    match = RANGE.fullmatch(asked or "")
    if match is None or not (match[1] or match[2]):
        return 0, size_bytes
    if not match[1]:
        return max(0, size_bytes - int(match[2])), size_bytes
    stop = min(size_bytes, int(match[2]) + 1) if match[2] else size_bytes
    return int(match[1]), stop


async def _read(row: Blob, start: int, stop: int) -> AsyncIterator[bytes]:
    file = await sync_to_async(default_storage.open)(row.path)
    try:
        await sync_to_async(file.seek)(start)
        while start < stop:
            chunk = await sync_to_async(file.read)(min(CHUNK_BYTES, stop - start))
            if not chunk:
                return
            start += len(chunk)
            yield chunk
    finally:
        await sync_to_async(file.close)()
