"""Trackers show what metrics.jsonl holds, go on where a run goes on, and never stop one."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edit_r1.store import read_json
from edit_r1.train import trackers
from edit_r1.train.guard_pictures import write_grid
from edit_r1.train.trackers import (
    TrackerSettings,
    check_trackers,
    flat_scalars,
    open_trackers,
)

STEP = {"kind": "step", "step": 0, "reward_mean": 5.0, "kl": None, "updated": True, "window": [1, 2],
        "seconds": {"sample": 0.5}, "guard": {"copies": 0.25}, "alerts": [{"name": "copies", "value": 1}]}  # fmt: skip
VALIDATION = {"kind": "validation", "step": 1, "reward": [1.0, None], "stop": False, "alerts": []}


class FakeService:
    """The functions that wandb and trackio document, both of them; a run remembers what it was given."""

    def __init__(self, fails: bool = False) -> None:
        self.inits: list[dict] = []
        self.logged: list[tuple[dict, int | None]] = []
        self.finished, self.fails = 0, fails

    def init(self, **asked):
        self.inits.append(asked)
        return SimpleNamespace(log=self._log, finish=self._finish, define_metric=lambda *a, **k: None)

    def Image(self, path, caption=None):
        return f"image:{path.rsplit('/', 1)[-1]}"

    def _log(self, values, step=None):
        if self.fails:
            raise ConnectionError("service\nis down")
        self.logged.append((values, step))

    def _finish(self):
        self.finished += 1


@pytest.fixture
def out(tmp_path, picture):
    write_grid(tmp_path / "run" / "validation" / "step-000001.png", [picture], [picture])
    return tmp_path / "run"


@pytest.fixture
def picture():
    from edit_r1.images import encode_png

    return encode_png(np.full((8, 8, 3), 200, np.uint8))


def _installed(monkeypatch, **modules):
    """These packages are there, and no other tracker."""
    monkeypatch.setattr(trackers, "find_spec", lambda name: name if name in modules else None)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_nested_numbers_are_flat():
    assert flat_scalars({"a": {"b": [1, None, "x"]}, "ok": True, "nan": float("nan"), "l": [{}]}, "p") == {
        "p/a/b/0": 1.0, "p/ok": 1.0, "p/l": 1.0,
    }  # fmt: skip
    step = flat_scalars(STEP, "step")
    assert step["step/seconds/sample"] == 0.5 and step["step/alerts"] == 1.0 and "step/kl" not in step


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_scalars_and_pictures_and_the_run_goes_on(monkeypatch, out, name):
    service, told = FakeService(), []
    _installed(monkeypatch, **{name: service})
    settings = TrackerSettings(tracker=(name,), tracker_project="mine", tracker_run="a run/1")
    for resumed in (False, True):
        with open_trackers(settings, out, resumed, {"seed": 0}, told.append) as opened:
            opened.log(STEP)
            opened.log(VALIDATION)
    first, second = service.inits
    run = read_json(out / "tracker.json")["run"]
    assert first == second and first["project"] == "mine" and first["name"] == run and first["resume"] == "allow"
    assert first["config"] == {"seed": 0} and run.startswith("a-run-1-")
    (values, step), (shown, _) = service.logged[:2]
    assert values["step/reward_mean"] == 5.0 and values.get("iterations", step) == 1
    assert shown["validation/edits"] == "image:step-000001.png" and shown["validation/reward/0"] == 1.0
    assert service.finished == 2 and told == []
    open_trackers(settings, out, False, {}, told.append)
    assert service.inits[2]["name"] != run


def test_a_tracker_that_fails_is_told_of_once(monkeypatch, out):
    service, told = FakeService(fails=True), []
    _installed(monkeypatch, wandb=service, trackio=SimpleNamespace())
    with open_trackers(TrackerSettings(tracker=("wandb", "trackio")), out, False, {}, told.append) as opened:
        opened.log(STEP)
        opened.log(VALIDATION)
    assert len(told) == 2 and "trackio could not be opened" in told[0]
    assert "wandb failed and is tried on (ConnectionError: service is down)" in told[1]


def test_a_tracker_that_is_not_installed(monkeypatch, out):
    _installed(monkeypatch)
    with pytest.raises(ValueError, match=r"--tracker wandb: the package is not installed: pip install wandb"):
        check_trackers(TrackerSettings(tracker=("wandb",)))
    told = []
    check_trackers(TrackerSettings())
    with open_trackers(TrackerSettings(), out, False, {}, told.append) as opened:
        opened.log(STEP)
    assert told == ["TensorBoard is not installed, so curves are in metrics.jsonl alone: pip install tensorboard"]
    assert check_trackers(TrackerSettings(tracker=())) is None


class FakeWriter:
    """The part of torch's SummaryWriter that is used."""

    made: list[tuple[str, int | None]] = []  # noqa: RUF012

    def __init__(self, folder, purge_step=None):
        self.made.append((folder, purge_step))
        self.scalars, self.images = {}, {}

    def add_scalar(self, name, value, step):
        self.scalars[name, step] = value

    def add_image(self, name, pixels, step, dataformats):
        assert dataformats == "HWC" and pixels.dtype == np.uint8
        self.images[name, step] = pixels.shape

    def flush(self):
        pass

    def close(self):
        pass


def test_tensorboard_hides_what_a_resumed_run_logs_again(monkeypatch, out):
    _installed(monkeypatch, tensorboard=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))
    monkeypatch.setattr(FakeWriter, "made", [])
    for resumed, line in ((False, STEP), (True, {**STEP, "step": 6})):
        with open_trackers(TrackerSettings(), out, resumed, {}, print) as opened:
            opened.log(line)
            opened.log(VALIDATION)
            writer = opened._trackers["tensorboard"]._writer
            assert writer.scalars["step/reward_mean", line["step"] + 1] == 5.0
            assert writer.images == {("validation/edits", 1): (8, 20, 3)}
    assert FakeWriter.made == [(str(out / "tensorboard"), None), (str(out / "tensorboard"), 7)]


def test_tensorboards_own_event_file(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed in (False, True):
        with open_trackers(TrackerSettings(), out, resumed, {}, pytest.fail) as opened:
            opened.log({**STEP, "reward_mean": 6.0 if resumed else 5.0})
            opened.log(VALIDATION)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("step/reward_mean")] == [(1, 6.0)]
    assert [one.step for one in events.Images("validation/edits")] == [1]
