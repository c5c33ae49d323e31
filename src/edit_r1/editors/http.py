"""Editors behind the OpenAI-compatible `POST /v1/images/edits`: hosted ones, vLLM-Omni and others. Sampling only.

A request is a multipart form (image, prompt, n, size, model); a sample's references follow the source, all as
`image[]`, which is how that protocol takes several. The answer holds pictures as base64 (`b64_json`). An address in
the answer is not fetched. How requests are sent, how many at once and which again, is in `vlm.endpoint`. Every failure
is the `error` of its item; nothing raises but wrong usage.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx

from edit_r1.editors.protocol import EditedImage
from edit_r1.images import ImageError, decode_pil, encode_png
from edit_r1.records import Sample
from edit_r1.vlm.address import check_key, read_address
from edit_r1.vlm.endpoint import Endpoint, Patience, Served
from edit_r1.vlm.openai_failures import Refused
from edit_r1.vlm.openai_wire import NoAnswer, server_words
from edit_r1.vlm.usage import Usage

MAX_ANSWER_BYTES = 512 * 2**20
"""Largest answer that is read: room for several pictures of the largest size in base64."""
MAX_WAIT_S = 60.0
"""Longest pause before another attempt; a server that asks for a longer one has failed."""
START = 4
"""Requests under way to begin with: an editor works for longer on one than a language model."""


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
    """Further form fields as the server documents them, such as ("response_format", "b64_json"). Not prompt, n, image,
    nor seed where it is sent: those of all edits would be the same, and pictures that were not asked for be paid."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as a bearer token."""
    timeout_s: float = 300.0
    """Seconds for one attempt, from sending to the last byte."""
    attempts: int = 6
    """Attempts in all at a request that was refused for load (429, 503), failed on the server (5xx), timed out or was
    cut off; to queue while others are answered hardly counts."""
    pause_s: float = 1.0
    """The pause before the second attempt is up to this, in seconds, then doubles; it gives way to Retry-After."""
    concurrency: int = 16
    """Most requests under way at once: `START` to begin with, more while all are answered, fewer while the server
    refuses for load."""
    price: float | None = None
    """What a picture costs, in the currency of `vlm.usage.Prices`, at least 0; None: unknown, so no budget in money
    can hold. Every picture that the server sends counts, whether it can be read or not."""

    def __post_init__(self) -> None:
        for name in ("per_request", "attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed")
        for name in ("timeout_s", "pause_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: use seconds above 0")
        own = {"prompt", "n", "image", "image[]", *(("seed",) if self.send_seed else ())}
        if taken := sorted(own & {name for name, _ in self.fields}):
            raise ValueError(f"fields: {', '.join(taken)} is set for each request: leave it out")
        if self.price is not None and not self.price >= 0:
            raise ValueError(f"price={self.price}: give an amount of 0 or more a picture")


class HttpEditor:
    """An `Editor` behind an endpoint; close it, or use it in a `with`."""

    simulated = False

    def __init__(self, endpoint: str, settings: HttpEditorSettings, name: str | None = None) -> None:
        """`endpoint`: the base of the API with its version, such as "http://127.0.0.1:8000/v1"; a bare host gets "/v1".

        Raises ModelError (a ValueError) for an address that is not http or https, and for a key that cannot be one.
        """
        address, host = read_address(endpoint)
        self.settings = settings
        self._name = name or settings.model or host
        served = Served(
            address,
            host,
            "/images/edits",
            called=self._name,
            missing="are images edited there, and does the address end in /v1?",
            key=check_key(settings.api_key or "", "the editor's api_key"),
            key_place="the editor's api_key",
            most_bytes=MAX_ANSWER_BYTES,
        )
        patience = Patience(
            settings.concurrency, settings.timeout_s, settings.attempts - 1, settings.pause_s, MAX_WAIT_S, START
        )
        self._server = Endpoint(served, patience)

    @property
    def name(self) -> str:
        return self._name

    def give_up(self) -> None:
        """See `PaidEditor.give_up`."""
        self._server.give_up()

    def close(self) -> None:
        """Gives up what is under way and closes the connections."""
        self._server.close()

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
        """See `PaidEditor`. Not the address and not the key: models move. A model that is the name is told by it."""
        asked = self.settings
        told = {
            "model": asked.model if asked.model != self.name else None,
            "size": asked.size,
            "send_seed": asked.send_seed,
            "fields": asked.fields,
        }
        told = {name: value for name, value in told.items() if value}
        return json.dumps(told, sort_keys=True) if told else ""

    @property
    def priced(self) -> bool:
        return self.settings.price is not None

    @property
    def limit(self) -> int:
        """Requests that may be under way at present: what the server was found to bear."""
        return self._server.limit

    def edit_each(
        self, samples: Sequence[Sample], seeds: Sequence[int], begin: Callable[[], None]
    ) -> Iterator[tuple[dict[int, EditedImage], Usage]]:
        """See `PaidEditor.edit_each`. Raises ValueError as `edit`."""
        if len(samples) != len(seeds):
            raise ValueError(f"{len(samples)} samples and {len(seeds)} seeds: give one seed per sample")

        def jobs() -> Iterator[tuple[Sample, int, list[int]]]:
            """Taken from when a request can be sent."""
            for places in self._jobs(samples):
                begin()
                yield samples[places[0]], seeds[places[0]], places

        yield from self._server.each(jobs(), self._ask)

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

    async def _ask(self, job: tuple[Sample, int, list[int]]) -> tuple[dict[int, EditedImage], Usage]:
        """The edits that one request answers, which has a place, and what it took."""
        sample, seed, places = job
        try:  # on another thread: to encode or decode a large picture takes as long as many answers
            content, kind = await asyncio.to_thread(self._form, sample, seed, len(places))
        except BaseException as error:
            self._server.leave()
            if not isinstance(error, ImageError):
                raise
            return dict.fromkeys(places, EditedImage(None, str(error))), Usage()
        entries, retries, problem = await self._server.post(content, kind, _entries)
        sent = 0
        if entries is None:
            # Of a server that has edited others, a refusal is of this request (often for what the picture shows): a
            # chunk of nothing else must not look like an editor that is out of order, or no run would come past it.
            own = isinstance(problem, Refused) and self._server.answered
            edits = [EditedImage(None, str(problem), absent=own)] * len(places)
        else:
            edits = await asyncio.to_thread(lambda: [_picture(entry) for entry in entries[: len(places)]])
            sent = len(edits)
            missing = f"the server sent {len(edits)} of {len(places)} pictures"
            edits += [EditedImage(None, missing)] * (len(places) - len(edits))
            edits = [one if one.error is None else EditedImage(None, self._server.told(one.error)) for one in edits]
        usage = Usage(
            requests=1,
            retries=retries,
            failures=int(any(edited.image is None for edited in edits)),
            cost=None if self.settings.price is None else sent * self.settings.price,
        )
        return dict(zip(places, edits, strict=True)), usage

    def _form(self, sample: Sample, seed: int, n: int) -> tuple[bytes, str]:
        """What is sent, and its Content-Type. Raises ImageError for a picture that cannot be read."""
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
        request = httpx.Request("POST", "http://form", data={**form, **dict(self.settings.fields)}, files=files)
        return request.read(), request.headers["Content-Type"]


def _entries(body: bytes) -> list[object]:
    """What an answer holds for pictures. Raises NoAnswer for one that is none."""
    try:
        document = json.loads(body)
        data = document["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        words = server_words(body)
        told = f" ({words})" if words else ""
        raise NoAnswer(f'the answer is no JSON object with "data": is this an images API?{told}') from error
    if not isinstance(data, list):
        raise NoAnswer('"data" in the answer is no list: is this an images API?')
    return data


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
