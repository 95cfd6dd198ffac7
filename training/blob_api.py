"""Serves stored files by SHA-256 with ranges and entity tags, so that a download can be resumed and checked."""

import re
from collections.abc import AsyncIterator

from asgiref.sync import sync_to_async
from django.core.files.storage import FileSystemStorage, default_storage
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.http.response import StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.http import parse_etags
from django.views.decorators.http import require_safe

from training.models import Attempt, Blob

CHUNK_BYTES = 2**20
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
FOREVER = "public, max-age=31536000, immutable"


@require_safe
async def blob(request: HttpRequest, sha256: str) -> HttpResponseBase:
    """A tokenizer, shard, checkpoint, outer state, step, manifest or merged delta; one byte range if asked for."""
    row = await sync_to_async(_public_blob)(sha256)
    etag = f'"{row.sha256}"'
    headers = {"ETag": etag, "Cache-Control": FOREVER, "Accept-Ranges": "bytes"}
    if _has_it(request.headers.get("If-None-Match", ""), etag):
        return HttpResponse(status=304, headers=headers)
    if not isinstance(default_storage, FileSystemStorage):
        return HttpResponseRedirect(default_storage.url(row.path))
    if not await sync_to_async(default_storage.exists)(row.path):
        raise Http404("the file is not in storage, or not yet")
    # A range of another version cannot happen under a name that is the content's hash.
    asked = request.headers.get("Range") if request.headers.get("If-Range") in (None, etag) else None
    span = _span(asked, row.size_bytes)
    start, stop = span or (0, row.size_bytes)
    if span and start >= stop:
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{row.size_bytes}"})
    headers |= {"Content-Length": str(stop - start), "Content-Type": "application/octet-stream"}
    if span:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{row.size_bytes}"
    status = 206 if span else 200
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers)
    return StreamingHttpResponse(_read(row, start, stop), status=status, headers=headers)


def _public_blob(sha256: str) -> Blob:
    """Raises: Http404 for what is unknown, and for a delta that no merge has taken yet."""
    row = get_object_or_404(Blob, sha256=sha256)
    if row.kind == Blob.Kind.DELTA and not Attempt.objects.filter(delta=row, state=Attempt.State.MERGED).exists():
        raise Http404("this delta is not merged")
    return row


def _has_it(if_none_match: str, etag: str) -> bool:
    tags = parse_etags(if_none_match)
    return "*" in tags or any(tag.removeprefix("W/") == etag for tag in tags)


def _span(asked: str | None, size_bytes: int) -> tuple[int, int] | None:
    """First byte and the one after the last, not within the file where that cannot be met.

    None, the whole file, where no range is asked for or it cannot be read, as RFC 9110 section 14.2 allows.
    """
    match = RANGE.fullmatch(asked or "")
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size_bytes - int(match[2])), size_bytes
    first, last = int(match[1]), int(match[2] or size_bytes)
    return (first, min(size_bytes, last + 1)) if first <= last or not match[2] else None


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
