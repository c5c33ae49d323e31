from __future__ import annotations

import base64
import importlib.util
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from edit_r1.images import decode_rgb
from edit_r1.records import CATEGORIES, Principle
from edit_r1.train.judges import JudgeSettings, ServedJudge, VerifierJudge, open_judge, shared_gpu, split_device
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.verifier.traces import write_trace


@pytest.fixture(scope="module")
def kit():
    """The fake model and the live server of tests/serve, loaded by path because tests are not a package."""
    spec = importlib.util.spec_from_file_location("serve_kit", Path(__file__).parents[1] / "serve" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _items(kit, faults):
    principles = tuple(Principle(f"{category}?", category) for category in CATEGORIES)
    return [
        ScoreItem((kit.picture(number + 100),), kit.picture(number, fault), f"edit {number}", principles)
        for number, fault in enumerate(faults)
    ]


def test_a_served_judge_judges_as_the_verifier_it_serves(kit):
    model = kit.FakeVLM()
    settings = JudgeSettings()
    items = _items(kit, [0] * 40 + [kit.UNPARSED])  # more than one request
    local = VerifierJudge(Verifier(model, variant="compact"), settings).judge(items)
    with kit.live(Verifier(model, variant="compact")) as address:
        judge = open_judge(replace(settings, address=address))
        assert isinstance(judge, ServedJudge) and judge.apart and "|fake|" in judge.identity
        served = judge.judge(items)
        judge.close()
    for mine, theirs in zip(local, served, strict=True):
        assert (mine.score, mine.categories, mine.principles) == (theirs.score, theirs.categories, theirs.principles)
    assert served[-1].score is None and served[-1].outcomes and served[3].score == pytest.approx(0.3)


def test_a_token_is_taken_from_the_environment(kit, monkeypatch):
    with kit.live(Verifier(kit.FakeVLM(), variant="compact"), tokens=["secret"]) as address:
        settings = JudgeSettings(address, key_env="JUDGE_TOKEN")
        monkeypatch.setenv("JUDGE_TOKEN", "secret")
        assert open_judge(settings).judge(_items(kit, [0, 0]))[1].score == pytest.approx(0.1)
        monkeypatch.setenv("JUDGE_TOKEN", "wrong")
        with pytest.raises(ValueError, match=r"refuses to judge \(401"):
            open_judge(settings).judge(_items(kit, [0]))


class _Client:
    """In place of httpx: a list of answers, an exception or (status, document)."""

    def __init__(self, answers):
        self.answers, self.posts = list(answers), 0

    def post(self, path, json):
        self.posts += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer[0], json=answer[1])

    def close(self): ...


def test_a_server_that_is_away_costs_its_items_and_not_the_run(kit):
    row = {
        "score": 5.0, "traces": 1, "unparsed": 0, "score_std": None, "principles": [], "categories": {}, "model": "m",
        "seconds": 0.1, "simulated": False, "expected_score": None, "prompts": "", "reason": None,
    }  # fmt: skip
    away = httpx.ConnectError("refused")
    with kit.live(Verifier(kit.FakeVLM(), variant="compact")) as address:
        judge = ServedJudge(address, JudgeSettings(), pause_s=0.0)
    judge._client.close()
    judge._client = _Client([away, (503, {"error": "full"}), (200, {"judgments": [row]})])
    assert judge.judge(_items(kit, [0]))[0].score == 5.0
    judge._client = _Client([away] * 4)
    [lost] = judge.judge(_items(kit, [0]))
    assert lost.score is None and "4 tries" in lost.outcomes[0].reason and lost.outcomes[0].failed_call
    judge._client = client = _Client([(422, {"error": "items: bad"})])
    with pytest.raises(ValueError, match="refuses to judge .*items: bad"):
        judge.judge(_items(kit, [0]))
    assert client.posts == 1
    judge.close()


def test_addresses(tmp_path):
    assert split_device("runs/model") == ("runs/model", "cpu")
    assert split_device("runs/model@cuda:1") == ("runs/model", "cuda:1")
    assert split_device("a@b/model") == ("a@b/model", "cpu")
    odd = tmp_path / "model@cuda:0"
    odd.mkdir()
    assert split_device(str(odd)) == (str(odd), "cpu")
    with pytest.raises(ValueError, match="name a folder"):
        split_device("")
    with pytest.raises(ValueError, match="#MODEL"):
        open_judge(JudgeSettings("http://127.0.0.1:9/v1"))
    with pytest.raises(ValueError, match="no `edit-r1 serve` answers"):
        open_judge(JudgeSettings("http://127.0.0.1:9", timeout_s=2.0))
    served = open_judge(JudgeSettings("http://127.0.0.1:9/v1#rrm"))  # asked only when it judges
    assert isinstance(served, VerifierJudge) and served.apart and "rrm" in served.identity
    served.close()


@pytest.mark.parametrize(("device", "apart"), [("cuda:0", False), ("cuda:1", True), ("cuda", False), ("cpu", False)])
def test_a_judge_on_the_editors_gpu_is_not_apart(kit, tmp_path, monkeypatch, device, apart):
    monkeypatch.setattr(Verifier, "load", lambda *_, **__: Verifier(kit.FakeVLM(), variant="compact"))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    assert open_judge(JudgeSettings(f"{tmp_path}@{device}")).apart is apart


@pytest.mark.parametrize(
    ("processes", "address", "told"),
    [
        ("8", "runs/rrm@cuda:1", "all 8 processes of this machine load the judge on cuda:1: runs/rrm@cuda is"),
        ("8", "runs/rrm@cuda", None),
        ("8", "runs/rrm", None),
        ("8", "http://10.0.0.7:8000/v1#rrm", None),
        ("1", "runs/rrm@cuda:1", None),
    ],
)
def test_a_gpu_that_all_processes_would_load_the_judge_on_is_told(monkeypatch, processes, address, told):
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    found = shared_gpu(address)
    assert found is None if told is None else str(found).startswith(told)


def test_the_identity_tells_judges_apart(kit):
    def identity(mode="both", model="a", **changes):
        return VerifierJudge(
            Verifier(kit.FakeVLM(), mode=mode, variant="compact"), JudgeSettings(**changes), model
        ).identity

    assert len({identity(), identity(mode="verify"), identity(model="b"), identity(dtype="bfloat16")}) == 4
    assert identity() == identity(seed=3, traces=2)  # these are in the key by themselves


def test_a_hosted_reasoning_model_is_asked_as_it_wants(kit, fake_openai, reply):
    """Such models refuse max_tokens, any temperature and a seed."""
    trace = write_trace(["it is"] * 3, [1] * 3, 6.5, "verify", "compact")

    def answer(body, number):
        refused = {"max_tokens", "temperature", "top_p", "seed"} & body.keys()
        return reply({"error": {"message": f"Unsupported parameter: {refused}"}}, 400) if refused else trace

    server = fake_openai(answer)
    settings = JudgeSettings(f"{server.url}#o9", variant="compact", mode="verify")
    refused = open_judge(settings)
    assert "Unsupported parameter" in refused.judge(_items(kit, [0]))[0].outcomes[0].reason
    asked = replace(settings, limit_key="max_completion_tokens", server_sampling=True, max_new_tokens=9000, traces=2)
    judge = open_judge(replace(asked, max_pixels=4096))
    items, large = _items(kit, [0]), kit.picture(0, size=128)
    assert judge.judge([replace(items[0], sources=(large,), edited=large)])[0].score == 6.5
    for body in server.bodies[-2:]:
        assert body.keys() == {"model", "messages", "max_completion_tokens"} and body["max_completion_tokens"] == 9000
    pictures = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    assert decode_rgb(base64.b64decode(pictures[-1].partition(",")[2])).shape == (64, 64, 3)
    alike = open_judge(replace(asked, max_pixels=4096, server_sampling=False))
    assert judge.identity != alike.identity, "other answers are not taken from the cache"
    assert alike.identity.count("|") == judge.identity.count("|") - 1, "what was kept before is found"
    for opened in (refused, judge, alike):
        opened.close()


@pytest.mark.parametrize(
    ("address", "changes", "said"),
    [
        ("a/model", {"server_sampling": True}, "are for a model server"),
        ("http://127.0.0.1:9", {"limit_key": "max_completion_tokens"}, "are for a model server"),
        ("http://127.0.0.1:9", {"variant": "compact"}, "was started with its own"),
        ("http://127.0.0.1:9", {"max_new_tokens": 9}, "was started with its own"),
        ("http://127.0.0.1:9", {"max_pixels": 4096}, "was started with its own"),
    ],
)
def test_a_setting_that_the_judge_would_not_hear_of_is_refused(address, changes, said):
    with pytest.raises(ValueError, match=said):
        open_judge(JudgeSettings(address, **changes))
    JudgeSettings(**changes).check_address()  # the address comes with the recipe's own `verifier`


@pytest.mark.parametrize("changes", [{"traces": 0}, {"seed": -1}, {"concurrency": 0}, {"max_new_tokens": 0}])
def test_settings_that_cannot_be(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        JudgeSettings(**changes)
