"""The verifier against a scripted model: text alone is scripted; images, prompts and parsing are real."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edit_r1.images import MAX_JUDGED_PIXELS, ImageError, decode_pil, encode_png
from edit_r1.records import (
    CATEGORIES,
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    Principle,
    Trace,
    Unparsed,
)
from edit_r1.verifier import decomposition
from edit_r1.verifier.cards import ModelCard, write_card
from edit_r1.verifier.parsing import parse_gold
from edit_r1.verifier.principles_cache import PrinciplesCache
from edit_r1.verifier.prompts import MAX_INSTRUCTION_CHARS, verify_request
from edit_r1.verifier.scoring import Ranked, ScoreItem, UnparsedPrinciples, Verifier, judgment_json
from edit_r1.verifier.traces import write_gold, write_principles, write_trace
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Completion, Request, Sampling, TokenChoices

PRINCIPLES = (
    Principle("Is the square blue?", INSTRUCTION_FOLLOWING),
    Principle("Is the background still grey?", FEATURE_PRESERVATION),
    Principle("Is the picture sharp?", IMAGE_QUALITY),
)
QUESTIONS = [principle.question for principle in PRINCIPLES]


def picture(colour: tuple[int, int, int], background: int = 128) -> bytes:
    pixels = np.full((16, 16, 3), background, dtype=np.uint8)
    pixels[4:12, 4:12] = colour
    return encode_png(pixels)


SOURCE, BLUE, GREEN = picture((255, 0, 0)), picture((0, 0, 255)), picture((0, 255, 0))
BLUE_ON_WHITE = picture((0, 0, 255), background=255)
TRUTH = {BLUE: (1, 1, 1), GREEN: (0, 1, 1), BLUE_ON_WHITE: (1, 0, 1), SOURCE: (0, 1, 1)}
SCORES = {BLUE: 9.0, GREEN: 1.5, BLUE_ON_WHITE: 5.0, SOURCE: 0.0}


class Scripted:
    """A model whose answer is a function of the request and the number of the copy."""

    name = "scripted"

    def __init__(self, answer: Callable[[Request, int], str | Completion], simulated: bool = False) -> None:
        self.answer = answer
        self.simulated = simulated
        self.calls: list[tuple[int, int, Sampling]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        self.calls.append((len(requests), n, sampling))
        return [[self._completion(request, copy) for copy in range(n)] for request in requests]

    def _completion(self, request: Request, copy: int) -> Completion:
        answer = self.answer(request, copy)
        return answer if isinstance(answer, Completion) else Completion(answer, len(answer.split()), "stop")


def perfect(variant: str, mode: str = "both") -> Callable[[Request, int], str]:
    """The judge that knows the truth about the edited image (the request's last one)."""

    def answer(request: Request, copy: int) -> str:
        if "List the principles." in request.text or "You prepare the checklist" in request.text:
            return write_principles(PRINCIPLES, variant)
        edited = request.images[-1]
        return write_trace(["seen"] * 3, TRUTH[edited], SCORES[edited], mode, variant, QUESTIONS)

    return answer


@pytest.mark.parametrize("variant", ["full", "compact"])
@pytest.mark.parametrize("mode", ["both", "verify", "think"])
def test_a_perfect_judge_gives_the_right_verdicts(variant: str, mode: str) -> None:
    verifier = Verifier(Scripted(perfect(variant, mode)), mode=mode, variant=variant)
    for edited, truth in TRUTH.items():
        judgment = verifier.score([SOURCE], edited, "Make the square blue", PRINCIPLES)
        assert judgment.score == SCORES[edited]
        assert judgment.score_std is None
        wanted = [None] * 3 if mode == "think" else list(truth)
        assert [result.verdict for result in judgment.principles] == wanted
        assert set(judgment.categories) == set(CATEGORIES)


@pytest.mark.parametrize("variant", ["full", "compact"])
def test_a_perfect_verifier_gives_the_right_gold(variant: str) -> None:
    request = verify_request([SOURCE], GREEN, "Make the square blue", PRINCIPLES, ["1 yes\n2 yes\n3 yes"], variant)
    gold = parse_gold(write_gold([*parse_gold("1 no\n2 yes\n3 yes", 3)], QUESTIONS), PRINCIPLES)
    assert not isinstance(gold, Unparsed)
    assert tuple(verdict.value for verdict in gold) == TRUTH[request.images[-1]]


def test_one_trace_is_greedy_and_several_are_sampled() -> None:
    model = Scripted(perfect("compact"))
    verifier = Verifier(model, variant="compact")
    verifier.score([SOURCE], BLUE, "x", PRINCIPLES)
    verifier.score([SOURCE], BLUE, "x", PRINCIPLES, traces=4, seed=3)
    verifier.score([SOURCE], BLUE, "x", PRINCIPLES, traces=1, temperature=0.7)
    assert [(n, sampling.temperature) for _, n, sampling in model.calls] == [(1, 0.0), (4, 1.0), (1, 0.7)]
    assert model.calls[1][2].seed == 3
    for _, _, sampling in model.calls:
        assert (sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (1.0, 0, 1.0)


def test_several_traces_and_unparsed_ones() -> None:
    def answer(request: Request, copy: int) -> str | Completion:
        if copy == 1:
            return "I cannot say."
        if copy == 2:
            return Completion("", 0, "error", "time-out")
        if copy == 3:
            return Completion("1 yes\n2 yes\n3 yes\n<score>10.0</score>", 9, "length")
        return write_trace([f"copy {copy}"] * 3, (1, int(copy == 0), 1), 4.0 + copy, "both", "compact")

    judgment = Verifier(Scripted(answer), variant="compact").score([SOURCE], BLUE, "x", PRINCIPLES, traces=5)
    assert (judgment.score, judgment.score_std, judgment.traces, judgment.unparsed) == (6.0, 2.0, 5, 3)
    assert judgment.principles[1].verdict == 0.5
    assert judgment.principles[0].evidence == "copy 0"
    kinds = [isinstance(outcome, Trace) for outcome in judgment.outcomes]
    assert kinds == [True, False, False, False, True]
    assert [o.failed_call for o in judgment.outcomes if isinstance(o, Unparsed)] == [False, True, False]


def test_the_model_writes_the_principles_once_per_context() -> None:
    model = Scripted(perfect("compact"))
    verifier = Verifier(model, variant="compact")
    items = [ScoreItem((SOURCE,), edited, "Make the square blue") for edited in (BLUE, GREEN)]
    judgments = verifier.score_many(items)
    assert [judgment.score for judgment in judgments] == [9.0, 1.5]
    assert [calls for calls, _, _ in model.calls] == [1, 2]
    assert verifier.principles([SOURCE], "Make the square blue") == PRINCIPLES
    assert len(model.calls) == 2
    assert [result.question for result in judgments[0].principles] == QUESTIONS


def test_a_group_of_24_edits_pays_for_one_decomposition_and_the_next_run_for_none(tmp_path: Path) -> None:
    cache = PrinciplesCache(tmp_path)
    group = [ScoreItem((SOURCE,), edited, "Make the square blue") for edited in (BLUE, GREEN, BLUE_ON_WHITE) * 8]
    asked: list[str] = []

    def counted(request: Request, copy: int) -> str:
        asked.append("judge" if len(request.images) == 2 else "decompose")
        return perfect("compact")(request, copy)

    first = Verifier(Scripted(counted), variant="compact", cache=cache)
    judgments = first.score_many(group)
    assert (asked.count("decompose"), asked.count("judge")) == (1, 24)
    assert not first.is_cached([SOURCE], "Make the square blue")
    second = Verifier(Scripted(counted), variant="compact", cache=cache)
    again = second.score_many(group)
    assert (asked.count("decompose"), asked.count("judge")) == (1, 48)
    assert second.is_cached([SOURCE], "Make the square blue")
    assert [replace(one, seconds=0) for one in again] == [replace(one, seconds=0) for one in judgments]
    for other in (
        Verifier(Scripted(perfect("full")), cache=cache),
        Verifier(Scripted(counted), variant="compact", cache=replace(cache, model="retrained")),
        Verifier(Scripted(counted), variant="compact"),
    ):
        assert other.principles([SOURCE], "Make the square blue") == PRINCIPLES
        assert not other.is_cached([SOURCE], "Make the square blue")
    assert second.principles([BLUE], "Make the square blue") == PRINCIPLES
    assert not second.is_cached([BLUE], "Make the square blue")


@pytest.mark.parametrize(
    "failure",
    ["Nice picture!", Completion("", 0, "error", "time-out"), Completion("1 [Follow] Is it?", 5, "length")],
)
def test_failures_are_never_cached(tmp_path: Path, failure: str | Completion) -> None:
    cache = PrinciplesCache(tmp_path)
    verifier = Verifier(Scripted(lambda request, copy: failure), variant="compact", cache=cache)
    with pytest.raises((UnparsedPrinciples, ModelError)):
        verifier.principles([SOURCE], "x")
    assert list(tmp_path.rglob("*.json")) == []
    better = Verifier(Scripted(perfect("compact")), variant="compact", cache=cache)
    assert better.principles([SOURCE], "x") == PRINCIPLES
    assert not better.is_cached([SOURCE], "x")


def test_principles_that_cannot_be_read_are_drawn_once_more_by_sampling(tmp_path: Path) -> None:
    model = Scripted(perfect("compact"))
    right = model.answer
    model.answer = lambda request, copy: right(request, copy) if model.calls[-1][2].temperature else "Nice picture!"
    verifier = Verifier(model, variant="compact", cache=PrinciplesCache(tmp_path))
    assert verifier.principles([SOURCE], "x") == PRINCIPLES
    assert [sampling.temperature for _, _, sampling in model.calls] == [0.0, 1.0]
    assert Verifier(Scripted(right), variant="compact", cache=PrinciplesCache(tmp_path)).principles([SOURCE], "x")
    gone = Scripted(lambda request, copy: Completion("", 0, "error", "time-out"))
    with pytest.raises(ModelError):
        Verifier(gone, variant="compact").principles([SOURCE], "x")
    assert len(gone.calls) == 1  # what never came is the backend's to ask again


def test_a_stream_takes_and_gives_a_chunk_at_a_time() -> None:
    model = Scripted(perfect("compact"))
    verifier = Verifier(model, variant="compact")
    edits = [BLUE, GREEN, BLUE_ON_WHITE, SOURCE, BLUE]
    taken: list[bytes] = []

    def items() -> Iterator[ScoreItem]:
        for edited in edits:
            taken.append(edited)
            yield ScoreItem((SOURCE,), edited, "x", PRINCIPLES)

    stream = verifier.score_stream(items(), traces=2, seed=3, chunk=2)
    assert taken == [] and model.calls == []
    assert next(stream).score == SCORES[BLUE] and taken == edits[:2]
    assert [judgment.score for judgment in stream] == [SCORES[edited] for edited in edits[1:]]
    assert [(asked, sampling.seed) for asked, _, sampling in model.calls] == [(2, 3), (2, 5), (1, 7)]
    assert list(verifier.score_stream([])) == []
    with pytest.raises(ValueError, match="chunk=0"):
        next(verifier.score_stream(items(), chunk=0))


def test_a_question_that_a_model_writes_twice_is_kept_once_and_counted(tmp_path: Path) -> None:
    doubled = [PRINCIPLES[0], Principle("is the SQUARE blue", FEATURE_PRESERVATION), *PRINCIPLES[1:], PRINCIPLES[0]]
    asked: list[str] = []

    def answer(request: Request, copy: int) -> str:
        if len(request.images) == 1:
            return write_principles(doubled, "compact")
        asked.append(request.text)
        return write_trace(["seen"] * 3, TRUTH[request.images[-1]], 9.0, "both", "compact", QUESTIONS)

    for cached in (False, True):
        verifier = Verifier(Scripted(answer), variant="compact", cache=PrinciplesCache(tmp_path))
        assert verifier.repeated([SOURCE], "x") == 0
        judgment = verifier.score([SOURCE], BLUE, "x")
        assert ([result.question for result in judgment.principles], judgment.score) == (QUESTIONS, 9.0)
        assert asked[-1].lower().count("is the square blue") == 1
        assert verifier.principles([SOURCE], "x") == PRINCIPLES
        assert (verifier.repeated([SOURCE], "x"), verifier.is_cached([SOURCE], "x")) == (2, cached)
    given = verifier.score([SOURCE], BLUE, "y", (PRINCIPLES[0], PRINCIPLES[0], PRINCIPLES[1]))
    assert len(given.principles) == 3  # what a person gives is asked as it stands


def test_known_principles_do_not_wait_for_others(tmp_path: Path) -> None:
    """A server judges a known context while a slow model writes the principles of another."""
    entered, gate = threading.Event(), threading.Event()

    def answer(request: Request, copy: int) -> str:
        if "slow" in request.text:
            entered.set()
            assert gate.wait(30)
        return write_principles(PRINCIPLES, "compact")

    verifier = Verifier(Scripted(answer), variant="compact")
    verifier.principles([SOURCE], "quick")
    slow = threading.Thread(target=verifier.principles, args=([SOURCE], "slow"))
    slow.start()
    assert entered.wait(30)
    known = threading.Thread(target=verifier.principles, args=([SOURCE], "quick"))
    known.start()
    known.join(20)
    waiting = known.is_alive()
    gate.set()
    slow.join()
    known.join()
    assert not waiting


def test_memory_forgets_the_oldest_principles_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decomposition, "MAX_REMEMBERED", 2)
    model = Scripted(perfect("compact"))
    verifier = Verifier(model, variant="compact")
    items = [ScoreItem((SOURCE,), BLUE, f"Make the square blue, please {number}") for number in range(4)]
    assert all(judgment.score is not None for judgment in verifier.score_many(items))  # more than are remembered
    before = len(model.calls)
    verifier.principles([SOURCE], items[3].instruction)
    assert len(model.calls) == before
    verifier.principles([SOURCE], items[0].instruction)
    assert len(model.calls) == before + 1


def _with_choices(text: str, best: float, other: float) -> Completion:
    """The text as tokens of one character, the score's digit with one alternative."""
    place = text.rindex("<score>") + len("<score>")
    choices = [TokenChoices(char, ((char, 0.0),)) for char in text]
    digits = ((text[place], math.log(best)), ("2", math.log(other)))
    choices[place] = TokenChoices(text[place], digits)
    return Completion(text, len(choices), "stop", choices=tuple(choices))


def test_the_expected_score_breaks_a_tie_of_rank_and_changes_no_score() -> None:
    sureness = {BLUE: 0.6, GREEN: 0.9, BLUE_ON_WHITE: 0.7}

    def answer(request: Request, copy: int) -> Completion:
        best = sureness[request.images[-1]]
        return _with_choices("1 yes\n2 yes\n3 no\n<score>8.0</score>", best, 1 - best)

    model = Scripted(answer)
    verifier = Verifier(model, variant="compact")
    edits = [BLUE, GREEN, BLUE_ON_WHITE]
    ranked = verifier.rank([SOURCE], edits, "x", PRINCIPLES)
    assert [one.index for one in ranked] == [1, 2, 0]
    assert [one.judgment.score for one in ranked] == [8.0] * 3
    assert [one.judgment.expected_score for one in ranked] == pytest.approx([7.4, 6.2, 5.6])
    assert model.calls[-1][2].top_logprobs == 20
    assert ranked[0].judgment.prompts == "compact-1"
    plain = verifier.score([SOURCE], BLUE, "x", PRINCIPLES)
    assert model.calls[-1][2].top_logprobs == 0
    asked = verifier.score([SOURCE], BLUE, "x", PRINCIPLES, traces=2, expected=True)
    assert (plain.score, asked.score, asked.expected_score) == (8.0, 8.0, pytest.approx(5.6))
    assert judgment_json(asked)["expected_score"] == asked.expected_score


def test_another_model_may_write_the_principles_and_its_simulation_is_recorded() -> None:
    writer = Scripted(perfect("full"), simulated=True)
    judge = Scripted(perfect("full"))
    verifier = Verifier(judge, principles_vlm=writer)
    assert verifier.score([SOURCE], BLUE, "x").simulated
    assert not verifier.score([SOURCE], BLUE, "x", PRINCIPLES).simulated
    assert (len(writer.calls), len(judge.calls)) == (1, 2)


def test_principles_that_cannot_be_parsed() -> None:
    verifier = Verifier(Scripted(lambda request, copy: "Nice picture!"))
    with pytest.raises(UnparsedPrinciples, match="scripted wrote no usable principles"):
        verifier.principles([SOURCE], "x")
    judgment = verifier.score([SOURCE], BLUE, "x", traces=2)
    assert (judgment.score, judgment.unparsed, judgment.principles) == (None, 2, ())
    assert isinstance(judgment.outcomes[0], Unparsed)
    assert "no principles" in judgment.outcomes[0].reason


BAD: list[tuple[dict, str]] = [
    ({"edited": b"not an image"}, "edited image"),
    ({"edited": BLUE[:60]}, "edited image"),
    ({"edited": b""}, "edited image"),
    ({"sources": (b"not an image",)}, "source image"),
    ({"sources": ()}, "0 source images"),
    ({"sources": SOURCE}, "the sources are bytes"),
    ({"instruction": "  "}, "instruction is empty"),
    ({"instruction": "make it \udcff"}, "surrogate pair"),
    ({"instruction": "make it\x00red"}, "null byte"),
    ({"principles": (Principle("Is it \ud800?", IMAGE_QUALITY),)}, "principle 1 holds"),
    ({"instruction": "x" * (MAX_INSTRUCTION_CHARS + 1)}, "characters"),
    ({"principles": ()}, "no principles"),
    ({"principles": (Principle("x", "Beauty"),)}, "Beauty"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_raises_before_any_model_call(change: dict, message: str) -> None:
    model = Scripted(perfect("compact"))
    good = {"sources": (SOURCE,), "edited": BLUE, "instruction": "x", "principles": PRINCIPLES}
    with pytest.raises(ValueError, match=message) as caught:
        Verifier(model, variant="compact").score(**{**good, **change})
    assert "\n" not in str(caught.value)
    assert model.calls == []
    if "image: " in str(caught.value):
        assert isinstance(caught.value, ImageError)


def test_pillow_images_are_judged_as_their_pixels() -> None:
    def answer(request: Request, copy: int) -> str:
        edited = encode_png(decode_pil(request.images[-1]))
        return write_trace(["seen"] * 3, TRUTH[edited], SCORES[edited], "both", "compact", QUESTIONS)

    source, blue, green = (decode_pil(one) for one in (SOURCE, BLUE, GREEN))
    verifier = Verifier(Scripted(answer), variant="compact")
    assert verifier.score([source], blue, "x", PRINCIPLES).score == SCORES[BLUE]
    with pytest.raises(ImageError, match="a picture is str"):
        verifier.score([source], "edited.png", "x", PRINCIPLES)
    assert [one.index for one in verifier.rank([SOURCE], [green, BLUE], "x", PRINCIPLES)] == [1, 0]
    assert Verifier(Scripted(perfect("compact")), variant="compact").principles([source], "x") == PRINCIPLES


def test_one_bad_item_never_breaks_the_others() -> None:
    good = {"sources": (SOURCE,), "edited": BLUE, "instruction": "x", "principles": PRINCIPLES}
    items = []
    for change, _ in BAD:
        items += [ScoreItem(**{**good, **change}), ScoreItem(**good)]
    seen: list[tuple[int, int]] = []
    model = Scripted(perfect("compact"))
    judgments = Verifier(model, variant="compact").score_many(items, progress=lambda *at: seen.append(at))
    for (_, message), bad, fine in zip(BAD, judgments[::2], judgments[1::2], strict=True):
        assert fine.score == 9.0
        assert bad.score is None
        assert bad.unparsed == bad.traces == 1
        outcome = bad.outcomes[0]
        assert isinstance(outcome, Unparsed)
        assert outcome.failed_call
        assert message in outcome.reason
        judgment_json(bad)
    assert seen[-1] == (len(items), len(items))
    assert [calls for calls, _, _ in model.calls] == [len(BAD)]


def test_rank_puts_the_best_first_and_unscored_last() -> None:
    script = perfect("compact")
    model = Scripted(lambda request, copy: "?" if request.images[-1] == GREEN else script(request, copy))
    ranked = Verifier(model, variant="compact").rank(
        [SOURCE], [SOURCE, GREEN, BLUE, BLUE_ON_WHITE, BLUE], "x", PRINCIPLES
    )
    assert all(isinstance(one, Ranked) for one in ranked)
    assert [one.index for one in ranked] == [2, 4, 3, 0, 1]
    assert [one.judgment.score for one in ranked] == [9.0, 9.0, 5.0, 0.0, None]


@pytest.mark.parametrize("change", [{"traces": 0}, {"traces": 65}, {"temperature": -1.0}])
def test_bad_sampling_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Verifier(Scripted(perfect("full"))).score_many([], **change)


def test_nothing_to_judge() -> None:
    assert Verifier(Scripted(perfect("full"))).score_many([]) == []


def test_many_items_are_asked_in_chunks_and_stay_in_order() -> None:
    model = Scripted(perfect("compact"))
    edited = [BLUE, GREEN, BLUE_ON_WHITE] * 50
    judgments = Verifier(model, variant="compact").score_many(
        [ScoreItem((SOURCE,), image, "x", PRINCIPLES) for image in edited], traces=4
    )
    assert [judgment.score for judgment in judgments] == [SCORES[image] for image in edited]
    assert [calls for calls, _, _ in model.calls] == [64, 64, 22]
    assert len({sampling.seed for _, _, sampling in model.calls}) == 3


def test_every_model_is_shown_bounded_pictures_of_one_size() -> None:
    large = encode_png(np.full((200, 400, 3), 90, np.uint8))
    small = encode_png(np.full((100, 200, 3), 80, np.uint8))
    shown: list[list[tuple[int, int]]] = []

    def answer(request: Request, copy: int) -> str:
        shown.append([decode_pil(image).size for image in request.images])
        return write_principles(PRINCIPLES, "compact")

    verifier = Verifier(Scripted(answer), variant="compact", max_pixels=20_000)
    verifier.score([large], small, "x")
    assert shown == [[(200, 100)], [(200, 100), (200, 100)]]
    assert MAX_JUDGED_PIXELS >= 400 * 200
    Verifier(Scripted(answer), variant="compact").score([large], small, "x", PRINCIPLES)
    assert shown[2] == [(400, 200), (400, 200)]
    with pytest.raises(ValueError, match="max_pixels=100"):
        Verifier(Scripted(answer), max_pixels=100)


def test_pictures_of_the_tiny_models_are_shown_bit_for_bit() -> None:
    seen: list[tuple[bytes, ...]] = []

    def answer(request: Request, copy: int) -> str:
        seen.append(request.images)
        return "?"

    Verifier(Scripted(answer), variant="compact").score([SOURCE], BLUE, "x", PRINCIPLES)
    assert seen == [(SOURCE, BLUE)]


def test_another_model_is_asked_for_principles_in_its_own_variant() -> None:
    writer = Scripted(perfect("full"))
    asked: list[str] = []
    script = writer.answer
    writer.answer = lambda request, copy: asked.append(request.text) or script(request, copy)  # type: ignore[func-returns-value]
    judge = Scripted(perfect("compact"))
    verifier = Verifier(judge, variant="compact", principles_vlm=writer, principles_variant="full")
    assert verifier.score([SOURCE], BLUE, "x").score == 9.0
    assert "JSON array" in asked[0]
    assert writer.calls[0][2].max_new_tokens == 4096 and judge.calls[0][2].max_new_tokens == 512


def test_principles_that_never_came_are_no_unparsed_ones() -> None:
    verifier = Verifier(Scripted(lambda request, copy: Completion("", 0, "error", "time-out")))
    with pytest.raises(ModelError, match="no answer came: time-out"):
        verifier.principles([SOURCE], "x")


def test_connect_opens_nothing_and_asks_by_the_models_card(tmp_path: Path) -> None:
    write_card(tmp_path, ModelCard("compact", "verify", "EditWorld"))
    with Verifier.connect("http://127.0.0.1:9", str(tmp_path)) as verifier:
        assert (verifier.variant, verifier.mode, verifier.domain) == ("compact", "verify", "EditWorld")
    with Verifier.connect("http://127.0.0.1:9", "gpt", mode="think", max_pixels=5000) as verifier:
        assert (verifier.variant, verifier.mode, verifier.domain) == ("full", "think", None)
        assert (verifier.vlm.name, verifier.max_pixels) == ("gpt", 5000)
