"""Where an editor's judge runs, by one address: in this process, on another GPU, on a server.

runs/gcpo/model                        a folder (or hub id), on the CPU
runs/gcpo/model@cuda:1                 the same on a device
http://10.0.0.7:8000/v1#edit-rrm-7b    an OpenAI-compatible server (vLLM) and the model's name there
http://10.0.0.7:8500                   `edit-r1 serve`
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from edit_r1.images import MAX_JUDGED_PIXELS
from edit_r1.records import Judgment, OutputMode, PrincipleResult, Unparsed
from edit_r1.verifier.judgments import failed
from edit_r1.verifier.principles_cache import checkpoint_identity
from edit_r1.verifier.prompts import PROMPT_VERSIONS, Variant
from edit_r1.verifier.scoring import MAX_TRACES, ScoreItem, Verifier
from edit_r1.vlm.openai_wire import LimitKey
from edit_r1.vlm.paid import named

REQUEST_ITEMS = 32
"""Items in one request to `edit-r1 serve`."""
TRIES = 4
"""Of a request that was not answered, with 1, 2, 4 seconds between them."""


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge is asked, and how."""

    address: str = ""
    """See `edit_r1.train.judges`."""
    traces: int = 1
    """Per edit; 1 is greedy. One greedy trace gives coarse scores, hence groups without spread; several are finer."""
    temperature: float | None = None
    """None: 0 for one trace, 1 for several."""
    seed: int = 0
    """Of the traces, 0 to 2^31 - 1."""
    boxes: Literal["pixels", "thousandths"] = "pixels"
    """What the boxes in its evidence count: pixels of the source as the judge is shown it, which is as Qwen2.5-VL was
    taught, or thousandths of the source's sides, as Qwen3-VL was. Only the guards read them."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of a judge in this process."""
    batch_size: int = 64
    """Sequences that a judge in this process decodes at once."""
    mode: OutputMode | None = None
    """What a trace holds; None: what the `edit_r1.json` in the model's folder says, else both."""
    variant: Variant | None = None
    """Prompts in full or compact; None: what that file says, else full."""
    max_new_tokens: int | None = None
    """Longest trace in tokens, the reasoning of thinking models included; None for the prompts' own limit."""
    max_pixels: int = MAX_JUDGED_PIXELS
    """Most pixels of a picture shown to the model; larger ones are scaled down, aspect kept."""
    limit_key: LimitKey = "max_tokens"
    """How a model server is told the longest answer; hosted reasoning models want max_completion_tokens."""
    server_sampling: bool = False
    """Leave temperature and the like to a model server that takes none, as hosted reasoning models."""
    concurrency: int = 16
    """Requests in flight to a server."""
    timeout_s: float = 300.0
    """Of one attempt of a request."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the server's key or token, if it wants one."""

    def __post_init__(self) -> None:
        if not 1 <= self.traces <= MAX_TRACES:
            raise ValueError(f"traces={self.traces}: ask for 1 to {MAX_TRACES}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed={self.seed}: use 0 to 2^31 - 1")
        if self.concurrency < 1 or self.batch_size < 1 or self.timeout_s <= 0:
            raise ValueError(
                f"concurrency={self.concurrency}, batch_size={self.batch_size}, timeout_s={self.timeout_s}: all above 0"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: allow at least one token")

    def check_address(self) -> None:
        """Raises ValueError for a setting that the judge at `address` would not hear of; without one all may stand."""
        if not self.address:
            return
        url, _, model = self.address.partition("#")
        served = url.startswith(("http://", "https://"))
        if not (served and model) and (self.limit_key != "max_tokens" or self.server_sampling):
            raise ValueError(
                f"judge {self.address}: limit_key and server_sampling are for a model server, "
                "http://HOST:PORT/v1#MODEL: leave them out"
            )
        asked = (self.mode, self.variant, self.max_new_tokens, self.max_pixels)
        if served and not model and asked != (None, None, None, MAX_JUDGED_PIXELS):
            raise ValueError(
                f"judge {self.address}: `edit-r1 serve` was started with its own mode, variant, max_new_tokens and "
                "max_pixels: leave them out here, and set them there"
            )


class Judge(Protocol):
    """Judges edits in batches; a bad item comes back without a score and costs no other."""

    @property
    def identity(self) -> str:
        """What tells its judgments from another judge's: model, prompts, limits. Part of the reward cache's key."""

    @property
    def apart(self) -> bool:
        """Whether it computes elsewhere than in this process's memory: sampling and judging can go on at once."""

    def judge(self, items: Sequence[ScoreItem]) -> list[Judgment]:
        """One judgment per item, in order. May be called from several threads."""

    def close(self) -> None: ...


class VerifierJudge:
    """A `Verifier` of this process, local or connected to a model server."""

    def __init__(self, verifier: Verifier, settings: JudgeSettings, model: str = "", apart: bool = False) -> None:
        """model: identity of the model beyond its name, such as `checkpoint_identity` gives it."""
        self.verifier, self.settings, self.apart = verifier, settings, apart
        told = [
            verifier.vlm.name, model, verifier.mode, verifier.variant, PROMPT_VERSIONS[verifier.variant],
            verifier.max_new_tokens, verifier.max_pixels, settings.dtype, *named(verifier.vlm)[1:],
        ]  # fmt: skip
        self.identity = "|".join(map(str, told))

    def judge(self, items: Sequence[ScoreItem]) -> list[Judgment]:
        asked = self.settings
        return self.verifier.score_many(items, asked.traces, asked.temperature, asked.seed)

    def close(self) -> None:
        self.verifier.close()


class ServedJudge:
    """`edit-r1 serve` at an address, by its protocol /v1/judge."""

    apart = True

    def __init__(self, address: str, settings: JudgeSettings, token: str | None = None, pause_s: float = 1.0) -> None:
        """pause_s: before the second try; doubled before each further one.

        Raises ValueError when no such server answers there.
        """
        self.address, self.settings, self.pause_s = address.rstrip("/"), settings, pause_s
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=self.address, headers=headers, timeout=settings.timeout_s)
        self._pool = ThreadPoolExecutor(settings.concurrency)
        try:
            health = self._client.get("/health").json()
            self.identity = f"{self.address}|{health['model']}|{health['version']}"
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise ValueError(
                f"{address}: no `edit-r1 serve` answers there ({type(error).__name__}): start it, or name a model "
                "server as http://HOST:PORT/v1#MODEL"
            ) from error

    def judge(self, items: Sequence[ScoreItem]) -> list[Judgment]:
        """Items whose request was never answered are failed judgments; a request that is refused raises ValueError."""
        parts = [items[start : start + REQUEST_ITEMS] for start in range(0, len(items), REQUEST_ITEMS)]
        return [judgment for part in self._pool.map(self._ask, parts) for judgment in part]

    def close(self) -> None:
        self._pool.shutdown(wait=False)
        self._client.close()

    def _ask(self, items: Sequence[ScoreItem]) -> list[Judgment]:
        asked = self.settings
        body: dict[str, Any] = {"items": [_item_json(item) for item in items]}
        body |= {"traces": asked.traces, "seed": asked.seed}
        if asked.temperature is not None:
            body["temperature"] = asked.temperature
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            try:
                answer = self._client.post("/v1/judge", json=body)
                document = answer.json()
                if answer.status_code == 200:
                    return [_judgment(row) for row in document["judgments"]]
                reason = f"{answer.status_code}: {document.get('error')}"
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
                raise ValueError(f"{self.address} refuses to judge ({reason}): correct the recipe's judge")
        lost = Unparsed("", f"no answer from {self.address} in {TRIES} tries: {reason}", failed_call=True)
        return [failed(lost, asked.traces, item.principles or (), self.address, False) for item in items]


def open_judge(settings: JudgeSettings) -> Judge:
    """The judge at `settings.address`. Raises ValueError when the address names none, or it cannot be opened."""
    address = settings.address
    if address.startswith(("http://", "https://")):
        url, _, model = address.partition("#")
        if model:
            verifier = Verifier.connect(
                url, model, settings.key_env, settings.concurrency, settings.timeout_s,
                mode=settings.mode, variant=settings.variant,
                max_new_tokens=settings.max_new_tokens, max_pixels=settings.max_pixels,
                limit_key=settings.limit_key, server_sampling=settings.server_sampling,
            )  # fmt: skip
            return VerifierJudge(verifier, settings, url, apart=True)
        if url.rstrip("/").endswith("/v1"):
            raise ValueError(f"judge {address}: a model server needs the model's name; write {url}#MODEL")
        settings.check_address()
        return ServedJudge(url, settings, os.environ.get(settings.key_env))
    path, device = split_device(address)
    settings.check_address()
    verifier = Verifier.load(
        path, device, settings.dtype, settings.batch_size,
        mode=settings.mode, variant=settings.variant,
        max_new_tokens=settings.max_new_tokens, max_pixels=settings.max_pixels,
    )  # fmt: skip
    return VerifierJudge(verifier, settings, checkpoint_identity(path), apart=_another_gpu(device))


def shared_gpu(address: str) -> str | None:
    """One line on a judge's GPU with a number, in which every process of this machine loads it; None without that."""
    from edit_r1.train.data_parallel import local_processes

    processes = local_processes()
    if processes == 1 or address.startswith(("http://", "https://")):
        return None
    path, device = split_device(address)
    if not device.startswith("cuda:"):
        return None
    return (
        f"all {processes} processes of this machine load the judge on {device}: {path}@cuda is each one's own GPU, and "
        "a server can be asked by all"
    )


def _another_gpu(device: str) -> bool:
    """Whether a judge there works while this process's own GPU, which `Team.current` has made the current one, does."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index:
        return False
    import torch

    return int(index) != torch.cuda.current_device()


def split_device(address: str) -> tuple[str, str]:
    """ "PATH@DEVICE" into its parts, the device "cpu" where none is named. Raises ValueError for an empty path."""
    path, sign, device = address.rpartition("@")
    if not sign or Path(address).exists() or not device.startswith(("cpu", "cuda", "mps")):
        path, device = address, "cpu"
    if not path:
        raise ValueError(
            f"judge {address!r}: name a folder, PATH@cuda:1, http://HOST:8000/v1#MODEL or where `edit-r1 serve` listens"
        )
    return path, device


def _item_json(item: ScoreItem) -> dict[str, Any]:
    document: dict[str, Any] = {
        "sources": [base64.b64encode(source).decode() for source in item.sources],
        "edited": base64.b64encode(item.edited).decode(),
        "instruction": item.instruction,
    }
    if item.principles is not None:
        document["principles"] = [asdict(principle) for principle in item.principles]
    return document


def _judgment(row: dict[str, Any]) -> Judgment:
    """A judgment from the server's JSON; its traces stay there, the reason of a missing score comes along."""
    reason = row.get("reason")
    return Judgment(
        score=row["score"],
        traces=row["traces"],
        unparsed=row["unparsed"],
        score_std=row["score_std"],
        principles=tuple(PrincipleResult(**result) for result in row["principles"]),
        categories=row["categories"],
        model=row["model"],
        seconds=row["seconds"],
        simulated=row["simulated"],
        expected_score=row["expected_score"],
        prompts=row["prompts"],
        outcomes=() if reason is None else (Unparsed("", reason),),
    )
