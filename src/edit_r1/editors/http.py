"""Editors behind the OpenAI-compatible `POST /v1/images/edits`: hosted ones, vLLM-Omni and others. Sampling only.

A request is a multipart form (image, prompt, n, size, model); a sample's references follow the source, all as
`image[]`, which is how that protocol takes several. The answer holds pictures as base64 (`b64_json`). An address in
the answer is not fetched. Every failure is the `error` of its item; nothing raises but wrong usage.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from edit_r1.editors.protocol import EditedImage
from edit_r1.images import ImageError, decode_pil, encode_png
from edit_r1.records import Sample
from edit_r1.vlm.usage import Usage

MAX_ANSWER_BYTES = 512 * 2**20
"""Largest answer that is read: room for several pictures of the largest size in base64."""
MAX_WAIT_S = 60.0
"""Longest pause before another attempt, whatever Retry-After asks."""


@dataclass(frozen=True)
class HttpEditorSettings:
    """How an endpoint is asked."""

    model: str | None = None
    """Sent as `model`; None sends none, for servers of one model."""
    size: str | None = None
    """Sent as `size`, such as "1024x1024" or "auto"; None asks for the source's own size."""
    send_seed: bool = False
    """Send every item alone with its seed as `seed` (vLLM-Omni reads it). OpenAI's own protocol has no seeds: then
    edits of one source and instruction are asked for together by `n`, and seeds only number them."""
    per_request: int = 4
    """Largest n."""
    fields: tuple[tuple[str, str], ...] = ()
    """Further form fields as the server documents them, such as ("response_format", "b64_json")."""
    api_key: str | None = None
    """Sent as a bearer token."""
    timeout_s: float = 300.0
    """For each attempt, seconds without a byte."""
    attempts: int = 3
    """Attempts in all at a request that was refused for load (429), failed on the server (5xx) or was cut off."""
    pause_s: float = 1.0
    """Pause before the second attempt, seconds; it doubles, and gives way to Retry-After."""
    concurrency: int = 4
    """Requests under way at once."""
    price: float | None = None
    """What a picture costs, in the currency of `vlm.usage.Prices`; None: unknown, so no budget in money can hold."""

    def __post_init__(self) -> None:
        for name in ("per_request", "attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed")


class _Refused(Exception):
    """A request that another attempt would not mend; the message is the reason."""


class _Again(Exception):
    """A request worth another attempt."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class HttpEditor:
    """An `Editor` behind an endpoint; close it, or use it in a `with`."""

    simulated = False

    def __init__(self, endpoint: str, settings: HttpEditorSettings, name: str | None = None) -> None:
        """`endpoint`: the base of the API with its version, such as "http://127.0.0.1:8000/v1".

        Raises ValueError for an address that is not http or https.
        """
        try:
            url = httpx.URL(endpoint.rstrip("/"))
        except httpx.InvalidURL as error:
            raise ValueError(f"endpoint {endpoint!r}: {error}; give the base, such as http://host:8000/v1") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"endpoint {endpoint!r}: give the base with http or https, such as http://host:8000/v1")
        self._url = f"{url}/images/edits"
        self.settings = settings
        self._name = name or settings.model or url.host
        headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
        self._client = httpx.Client(headers=headers, timeout=settings.timeout_s)

    @property
    def name(self) -> str:
        return self._name

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> HttpEditor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """One edit per (sample, seed), in order; a failure is told in its item.

        Raises ValueError when there is not one seed per sample.
        """
        edits: dict[int, EditedImage] = {}
        for made, _ in self.edit_each(samples, seeds, lambda: None):
            edits |= made
        return [edits[place] for place in range(len(samples))]

    @property
    def settings_key(self) -> str:
        """See `PaidEditor`. Not the address and not the key: models move."""
        asked = self.settings
        return json.dumps([asked.model, asked.size, asked.send_seed, asked.per_request, asked.fields])

    @property
    def priced(self) -> bool:
        return self.settings.price is not None

    def edit_each(
        self, samples: Sequence[Sample], seeds: Sequence[int], begin: Callable[[], None]
    ) -> Iterator[tuple[dict[int, EditedImage], Usage]]:
        """See `PaidEditor.edit_each`. Raises ValueError as `edit`."""
        if len(samples) != len(seeds):
            raise ValueError(f"{len(samples)} samples and {len(seeds)} seeds: give one seed per sample")
        problem: Exception | None = None

        def run(places: list[int]) -> tuple[dict[int, EditedImage], Usage]:
            begin()
            return self._job(samples[places[0]], seeds[places[0]], places)

        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            asked = [pool.submit(run, places) for places in self._jobs(samples)]
            try:
                for one in as_completed(asked):
                    if one.cancelled():
                        continue
                    try:
                        yield one.result()
                    except Exception as error:  # the caller's: told when what is under way has ended
                        problem = error
                        for other in asked:
                            other.cancel()
            finally:
                for other in asked:
                    other.cancel()
        if problem is not None:
            raise problem

    def _jobs(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Places that one request answers."""
        most = 1 if self.settings.send_seed else self.settings.per_request
        jobs: list[list[int]] = []
        for place, sample in enumerate(samples):
            last = samples[jobs[-1][-1]] if jobs else None
            asked = (sample.source, sample.references, sample.instruction)
            alike = last is not None and (last.source, last.references, last.instruction) == asked
            if alike and len(jobs[-1]) < most:
                jobs[-1].append(place)
            else:
                jobs.append([place])
        return jobs

    def _job(self, sample: Sample, seed: int, places: list[int]) -> tuple[dict[int, EditedImage], Usage]:
        """The edits that one request answers, and what it took."""
        attempts = Retrying(
            stop=stop_after_attempt(self.settings.attempts),
            wait=self._pause,
            retry=retry_if_exception_type(_Again),
            reraise=True,
        )
        try:
            images = self._ask(sample, seed, len(places), attempts)
        except (_Refused, _Again, ImageError) as error:
            images = [EditedImage(None, f"{self.name}: {error}")] * len(places)
        missing = f"{self.name}: the server sent {len(images)} of {len(places)} pictures"
        edits = [images[n] if n < len(images) else EditedImage(None, missing) for n in range(len(places))]
        made = sum(edited.image is not None for edited in edits)
        usage = Usage(
            requests=1,
            retries=int(attempts.statistics.get("attempt_number", 1)) - 1,
            failures=int(made < len(places)),
            cost=None if self.settings.price is None else made * self.settings.price,
        )
        return dict(zip(places, edits, strict=True)), usage

    def _ask(self, sample: Sample, seed: int, n: int, attempts: Retrying) -> list[EditedImage]:
        picture = decode_pil(sample.source)
        form = {"prompt": sample.instruction, "n": str(n)}
        form["size"] = self.settings.size or f"{picture.width}x{picture.height}"
        if self.settings.model is not None:
            form["model"] = self.settings.model
        if self.settings.send_seed:
            form["seed"] = str(seed)
        # As PNG: the server then sees the pixels that the verifier sees (upright, without alpha).
        files = [("image", ("source.png", encode_png(picture), "image/png"))]
        if sample.references:
            pictures = [picture, *(decode_pil(image) for image in sample.references)]
            named = enumerate(pictures)
            files = [("image[]", (f"picture{n}.png", encode_png(each), "image/png")) for n, each in named]
        return _pictures(attempts(self._post, {**form, **dict(self.settings.fields)}, files))

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after_s if isinstance(error, _Again) else None
        planned = self.settings.pause_s * 2 ** (state.attempt_number - 1)
        return min(MAX_WAIT_S, planned if asked is None else asked)

    def _post(self, form: dict[str, str], files: Sequence[tuple[str, tuple[str, bytes, str]]]) -> bytes:
        try:
            with self._client.stream("POST", self._url, data=form, files=list(files)) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise _Refused(f"the answer is larger than {MAX_ANSWER_BYTES} bytes: ask for smaller pictures")
        except httpx.TransportError as error:
            raise _Again(f"{self._url} cannot be reached or broke off ({error or type(error).__name__})") from error
        except httpx.DecodingError as error:
            raise _Refused(f"the answer's compression is damaged ({error})") from error
        if response.status_code == 429 or response.status_code >= 500:
            raise _Again(_reason(response.status_code, bytes(body)), _seconds(response.headers.get("Retry-After")))
        if response.status_code != 200:
            raise _Refused(_reason(response.status_code, bytes(body)))
        return bytes(body)


def _pictures(body: bytes) -> list[EditedImage]:
    """The pictures of an answer, each proved to decode; ValueError never leaves, a bad picture is its item's error."""
    try:
        data = json.loads(body)["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Refused('the answer is no JSON object with "data": is this an images API?') from error
    if not isinstance(data, list):
        raise _Refused('"data" in the answer is no list: is this an images API?')
    return [_picture(entry) for entry in data]


def _picture(entry: object) -> EditedImage:
    encoded = entry.get("b64_json") if isinstance(entry, dict) else None
    if not isinstance(encoded, str):
        return EditedImage(
            None, "the server sent no b64_json (an address is not fetched): set response_format to b64_json"
        )
    try:
        image = base64.b64decode(encoded.rpartition(",")[2], validate=True)  # some servers send a data URL
        decode_pil(image)
    except (binascii.Error, ImageError, ValueError) as error:
        return EditedImage(None, f"the server's picture cannot be read ({error})")
    return EditedImage(image)


def _reason(status: int, body: bytes) -> str:
    """The server's own words where it gives any, on one line, bounded."""
    text = body[:2000].decode("utf-8", "replace")
    try:
        error = json.loads(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    said = " ".join(text.split())[:300]
    return f"the server answered {status}{': ' + said if said else ''}"


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is left to our own pause."""
    if header is None or not header.strip().isdigit():
        return None
    return float(header)
