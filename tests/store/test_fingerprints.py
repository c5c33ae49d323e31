"""A checkpoint is known by its files' content: in one folder, and in the folders of a pipeline's parts."""

from __future__ import annotations

from pathlib import Path

from edit_r1.store.fingerprints import fingerprint
from edit_r1.vlm.weights import files_key, weights_of


def test_parts_of_a_pipeline_count_where_they_are_asked_for(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "transformer").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text("{}")
        (tmp_path / name / "transformer" / "weights.safetensors").write_bytes(bytes(1000))
    one, two = tmp_path / "one", tmp_path / "two"
    assert fingerprint(one, parts=True) == fingerprint(two, parts=True)
    (two / "transformer" / "weights.safetensors").write_bytes(bytes(999) + b"x")
    assert fingerprint(one, parts=True) != fingerprint(two, parts=True)
    assert fingerprint(one) == fingerprint(two)


def test_what_is_no_folder_has_no_key(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert files_key(tmp_path) == fingerprint(tmp_path) != ""
    assert files_key(tmp_path, tmp_path) == fingerprint(tmp_path, tmp_path)
    assert files_key("owner/name") == files_key(tmp_path, "owner/adapter") == weights_of(object()) == ""
