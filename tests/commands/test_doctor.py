"""`edit-r1 doctor` through `main`."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from edit_r1.cli import main
from edit_r1.doctor import examine, machine
from edit_r1.report.terminal import findings_list
from edit_r1.verifier.choice import ModelChoice
from edit_r1.zoo.packaged import weights


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_the_packaged_models_have_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--editor", weights("editor"), "--json")
    document = json.loads(out)
    by_name = {check["name"]: check for check in document["checks"]}
    assert (code, document["ok"]) == (0, True), [c for c in document["checks"] if c["status"] == "fail"]
    assert all(set(check) == {"name", "status", "measured", "remedy", "values"} for check in document["checks"])
    assert by_name["unedited copy"]["status"] == "ok"
    assert by_name["traces differ"]["values"]["different"] > 1
    assert by_name["format"]["values"]["parsed"] == 24
    assert by_name["same as diffusers"]["values"]["largest"] == 0
    assert "skipped" not in {check["status"] for check in document["checks"]}


def test_a_model_that_is_not_there_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "doctor", "--model", "/no/such/model")
    assert code == 1 and "no such folder" in out
    assert "1 failed" in out and "skip" in out


def test_a_served_model_needs_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.metadata.version

    def version(name: str) -> str:
        if name in machine.NEEDED:
            raise machine.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(machine.metadata, "version", version)
    found = {one.name: one.status for one in examine(ModelChoice(model="m", endpoint="http://127.0.0.1:1/v1"), None)}
    assert found["versions"] != "fail" and found["model"] == "fail"  # nothing listens there
    assert examine(ModelChoice(), None)[0].status == "fail"


def test_a_device_that_is_not_there_skips_the_rest() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    found = {finding.name: finding.status for finding in examine(ModelChoice(device="cuda"), None)}
    assert found["device"] == "fail" and found["model"] == "skipped"


def test_the_list_is_readable_without_colour_and_never_markup() -> None:
    rows = [
        {
            "name": "model",
            "status": "fail",
            "measured": "[red]no\x1b[2J such\nfolder",
            "remedy": "give one",
            "values": {},
        },
        {"name": "format", "status": "skipped", "measured": "the model did not load", "remedy": None, "values": {}},
    ]
    buffer = io.StringIO()
    Console(file=buffer, width=80, color_system=None).print(findings_list(rows))
    text = buffer.getvalue()
    assert "FAIL model" in text and "[red]no[2J such folder" in text and "give one" in text
    assert "\x1b" not in text and "1 failed" in text
    assert max(map(len, text.splitlines())) <= 80
