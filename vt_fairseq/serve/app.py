"""What the page asks, and the answers: routes to JSON, pictures and videos.

Texts of others (paths, captions, reasons) are spelled out as on a terminal; the page sets them as
text alone.
"""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vt_fairseq.errors import RunFailure, UserError, VideoError
from vt_fairseq.files.result_files import parse_object
from vt_fairseq.inference.api import VideoTranslate
from vt_fairseq.library.indexing import Options, Video, held, whole
from vt_fairseq.library.library import Found
from vt_fairseq.library.store import Segment
from vt_fairseq.serve.guard import Guard
from vt_fairseq.serve.media import Media
from vt_fairseq.serve.worker import Worker
from vt_fairseq.video.frame_sampling import regular_segments
from vt_fairseq.video.members import member_of
from vt_fairseq.visible_text import visible

logger = logging.getLogger(__name__)

MAX_BODY = 64 << 10  # bytes of a question
MAX_TEXT = 1000  # characters of a query, a question or an answer; what the model reads is shorter
MAX_CANDIDATES = 64
MAX_SECONDS = 86_400.0
MAX_ID = 1 << 62  # SQLite counts to twice as many
MOST_SHOWN = 200  # segments in one answer
MOST_FAILURES = 50  # that are listed; the library has all
DECODERS = 2  # pictures at once
PATIENCE = 30.0  # seconds for the batch that is being indexed when the server ends
PAGE = {
    "": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


@dataclass
class Indexing:
    """Videos that are added, and how far that is.

    Attributes:
        folder: what the user named.
        videos, done: how many it holds, and how many of them were looked at.
        failed: how many videos or segments could not be read.
        failures: (video, reason) of the first ones.
        seconds: since it began; when it has ended, how long it took.
        state: "running", "done", "stopped", or why it failed.
    """

    folder: str
    videos: int
    done: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    state: str = "running"

    def __post_init__(self) -> None:
        self._began, self.is_stopped = time.monotonic(), False

    def fail(self, video: str, reason: str) -> None:
        """One more that could not be read."""
        self.failed += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append((visible(video), visible(reason)))

    def end(self, state: str) -> None:
        """It is over."""
        self.seconds, self.state = time.monotonic() - self._began, state

    def as_json(self) -> dict[str, Any]:
        """Its attributes."""
        if self.state == "running":
            self.seconds = time.monotonic() - self._began
        return asdict(self)


class Stopped(Exception):
    """The user has stopped an indexing, or the server."""


class LibraryServer:
    """A library, its model and what is being added to it.

    Raises UserError where the library is another model's.
    """

    def __init__(
        self,
        vt: VideoTranslate,
        path: str | os.PathLike[str],
        find: Callable[[str], Sequence[str]],
        below: Path | None,
    ):
        """Open the library.

        Args:
            vt: the model that it was made with.
            find: a file or folder -> the videos in it; raises UserError where there are none.
            below: the folder that videos may be added from; None: nothing may be added.
        """
        self.vt, self.path, self.find, self.below = vt, Path(path), find, below
        self.library = vt.library(path)
        self.loader = vt.loaded.task.clip_loader(None, train=False)
        self.media = Media(path, self.loader.follow_links)
        self.worker = Worker()
        self.decoders = ThreadPoolExecutor(DECODERS, "pictures")
        self.indexing: Indexing | None = None

    def close(self) -> None:
        """Stop what is being added after its batch, and close the library."""
        if self.indexing is not None:
            self.indexing.is_stopped = True
        self.worker.close(PATIENCE)
        self.decoders.shutdown(cancel_futures=True)
        self.library.close()
        self.media.close()

    def app(self, names: frozenset[str], token: str | None = None) -> ASGIApp:
        """The ASGI application; arguments as of ``Guard``. It closes the library at its end."""

        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            await asyncio.to_thread(self.close)

        routes = [
            *(Route(f"/{name}", partial(page, name or "page.html", PAGE[name])) for name in PAGE),
            Route("/status", self.status),
            Route("/segments", self.segments),
            Route("/segments/{number:int}/picture", self.picture),
            Route("/segments/{number:int}/video", self.video),
            Route("/search", self.search, methods=["POST"]),
            Route("/ask", self.ask, methods=["POST"]),
            Route("/index", self.index, methods=["POST"]),
            Route("/stop", self.stop, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {UserError: answer_error, VideoError: answer_error}
        inner = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
        return Guard(inner, names, token)

    # what is there

    async def status(self, request: Request) -> Response:
        """Counts, what waits for the model, and what is being added."""
        counts = await asyncio.to_thread(self.media.counts)
        return as_json(
            {
                **counts,
                "name": visible(self.path.name),
                "waiting": len(self.worker),
                "may_add": self.below is not None,
                "indexing": None if self.indexing is None else self.indexing.as_json(),
            }
        )

    async def segments(self, request: Request) -> Response:
        """Segments by path and time, after the first ``offset``."""
        try:
            offset = max(0, int(request.query_params.get("offset", "0")))
        except ValueError:
            raise UserError("offset: expected a number") from None
        found = await asyncio.to_thread(self.media.segments, min(offset, MAX_ID), MOST_SHOWN)
        return as_json({"segments": [record(one) for one in found]})

    async def picture(self, request: Request) -> Response:
        """Four moments of a segment."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self.decoders, self.media.picture, numbered(request))
        return Response(found, media_type="image/jpeg")

    async def video(self, request: Request) -> Response:
        """The file of a segment, or the part of it that is asked for."""
        loop = asyncio.get_running_loop()
        path, kind = await loop.run_in_executor(self.decoders, self.media.file, numbered(request))
        return FileResponse(path, media_type=kind)

    # what the model does

    async def search(self, request: Request) -> Response:
        """The best segments for a query, or those that look like a segment."""
        asked = await body(request)
        top = int(number(asked, "top", 1, MOST_SHOWN, 24))
        shortlist = asked.get("shortlist")
        if shortlist is not None:
            shortlist = int(number(asked, "shortlist", 1, 100_000))
        if "like" in asked:
            own = await self._segment(asked, "like")
            work = partial(self.library.like, own.path, segment=own, top=top)
        else:
            query = text(asked, "query")
            work = partial(self._search, query, top, shortlist)
        seconds, found = await self._in_turn(work)
        results = [{**record(one.segment), "score": one.score} for one in found]
        return as_json({"results": results, "seconds": seconds})

    async def _segment(self, asked: dict[str, Any], name: str) -> Segment:
        return await asyncio.to_thread(self.media.segment, int(number(asked, name, 0, MAX_ID)))

    def _search(self, query: str, top: int, shortlist: int | None) -> list[Found]:
        (found,) = self.library.search([query], top=top, shortlist=shortlist)
        return found

    async def ask(self, request: Request) -> Response:
        """Answers to a question about a segment, likeliest first, or one in free words."""
        asked = await body(request)
        own = await self._segment(asked, "segment")
        question, candidates = text(asked, "question"), texts(asked, "candidates")
        work = partial(self.library.ask, question, candidates or None, segments=[own])
        seconds, found = await self._in_turn(work)
        if not found:
            raise UserError("what the library holds of this segment is damaged")
        (answer,) = found
        columns = zip(answer.texts, answer.scores, answer.probabilities, strict=True)
        answers = [{"text": visible(t), "score": s, "probability": p} for t, s, p in columns]
        return as_json({"answers": answers, "seconds": seconds})

    async def _in_turn(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """The seconds that ``work`` takes of the model's time, and its result."""

        def timed() -> tuple[float, Any]:
            began = time.monotonic()
            result = work()
            return time.monotonic() - began, result

        return await asyncio.wrap_future(self.worker.call(timed))

    # adding

    async def index(self, request: Request) -> Response:
        """Begin to add the videos of a folder."""
        asked = await body(request)
        name, every = text(asked, "folder", MAX_TEXT * 4), asked.get("every")
        if every is not None:
            every = number(asked, "every", 0.1, MAX_SECONDS)
        if self.below is None:
            raise UserError("nothing may be added by this page: vt-serve --add-below DIR allows it")
        folder = os.path.abspath(os.path.expanduser(name))
        self._check_place(folder)
        videos = await asyncio.to_thread(self.find, folder)
        if self.indexing is not None and self.indexing.state == "running":
            raise UserError("videos are being added already: wait, or stop that first")
        job = Indexing(visible(folder), len(videos))
        self.worker.call(partial(self._index, job, videos, every))
        self.indexing = job
        return as_json(job.as_json())

    def _check_place(self, folder: str) -> None:
        """Raise UserError for a place that nothing may be added from."""
        below = os.path.realpath(self.below or "")
        if not Path(os.path.realpath(folder)).is_relative_to(below):
            raise UserError(f"only what lies below {below} may be added by this page")
        if not os.path.exists(folder):
            raise UserError(f"there is no file or folder {folder} on the machine of vt-serve")

    def _index(self, job: Indexing, videos: Sequence[str], every: float | None) -> None:
        def between(files: int = 0) -> None:
            job.done += files
            self.worker.let_others()
            if job.is_stopped:
                raise Stopped

        options = Options(
            cut=whole if every is None else lambda path, seconds: regular_segments(seconds, every),
            batch_size=self.vt.batch_size,
            follow_links=self.loader.follow_links,
            link_suggestion=self.loader.link_suggestion,
            on_error=job.fail,
            on_progress=between,
            on_batch=between,
        )
        try:
            with held(self.path), closing(self.vt.create_library(self.path)) as library:
                library.index([Video(path) for path in videos], self.loader, options)
            job.end("done")
        except Stopped:
            job.end("stopped")
        except (UserError, VideoError) as error:
            job.end(visible(str(error)))
        except Exception:
            logger.exception("videos of %s could not be added", job.folder)
            job.end("a defect of vt-serve, which its log names")

    async def stop(self, request: Request) -> Response:
        """End what is being added after the batch that it is at."""
        await body(request)
        if self.indexing is not None:
            self.indexing.is_stopped = True
        return as_json({})


async def page(name: str, kind: str, request: Request) -> Response:
    """A file of the page."""
    return Response((resources.files("vt_fairseq.serve") / name).read_bytes(), media_type=kind)


def record(segment: Segment) -> dict[str, Any]:
    """What the page shows of a segment."""
    path = segment.path
    return {
        "id": segment.id,
        "name": visible(os.path.basename(path)),
        "path": visible(path),
        "start": segment.start,
        "end": segment.end,
        "whole": segment.asked == (None, None),
        "plays": not os.path.isdir(path) and member_of(path) is None,
        "caption": visible(segment.caption or ""),
        "error": None if segment.error is None else visible(segment.error),
    }


def numbered(request: Request) -> int:
    """The number of the segment that an address names."""
    return min(request.path_params["number"], MAX_ID)


# --- JSON in and out ------------------------------------------------------------------------------


def as_json(value: Any) -> Response:
    """Of ASCII alone: names of files may hold halves of a character."""
    content = json.dumps(value, allow_nan=False).encode("ascii")
    return Response(content, media_type="application/json")


async def answer_error(request: Request, error: Exception) -> Response:
    """One line, and the code that fits."""
    code = 404 if request.method == "GET" else 400
    code = 503 if isinstance(error, RunFailure) else code
    return JSONResponse({"error": visible(str(error))}, code)


async def body(request: Request) -> dict[str, Any]:
    """The JSON object of a request; raise UserError for anything else, and for a large one."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise UserError(f"expected at most {MAX_BODY:,} bytes")
    try:
        return parse_object(data)
    except ValueError as error:
        raise UserError(f"expected a JSON object: {error}") from error


def number(asked: dict[str, Any], name: str, low: float, high: float, default: Any = None) -> float:
    """A number of [low, high]; raise UserError for anything else."""
    value = asked.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name}: expected a number from {low:g} to {high:g}")
    return value


def text(asked: dict[str, Any], name: str, longest: int = MAX_TEXT) -> str:
    """A text that is not blank; raise UserError for anything else."""
    return checked_text(asked.get(name), name, longest)


def texts(asked: dict[str, Any], name: str) -> list[str]:
    """A list of such texts, empty where there is none."""
    value = asked.get(name, [])
    if not isinstance(value, list) or len(value) > MAX_CANDIDATES:
        raise UserError(f"{name}: expected a list of at most {MAX_CANDIDATES} texts")
    return [checked_text(one, name, MAX_TEXT) for one in value]


def checked_text(value: Any, name: str, longest: int) -> str:
    """``value`` without blanks around it."""
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        raise UserError(f"{name}: expected a text of 1 to {longest:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name}: expected text, found half of a character") from error
    return value.strip()
