"""`edit-r1 doctor`: does this installation, this model, this editor do what the rest relies on?"""

from __future__ import annotations

from edit_r1.doctor.examples import EDITWORLD, examples_for
from edit_r1.doctor.findings import Finding, finding_json, skipped
from edit_r1.doctor.machine import device, dtypes, versions
from edit_r1.doctor.verifier import AFTER_LOADING, MODEL, examine_verifier, load

__all__ = ["Finding", "examine", "finding_json"]


def examine(model: str | None, editor: str | None, on: str, dtype: str) -> list[Finding]:
    """Every check, in order; nothing raises, and what a failed check makes impossible is skipped.

    Args:
        model: folder of a vision-language model; None for the packaged one.
        editor: folder of an editor's pipeline; None examines none.
        on: device of both, such as "cpu" or "cuda".
        dtype: of both models' weights.
    """
    findings = [versions()]
    if findings[0].status == "fail":  # without torch there is nothing to load
        return findings + skipped(["device", "dtypes", MODEL, *AFTER_LOADING], "torch or transformers is missing")
    findings.append(device(on))
    if findings[-1].status == "fail":
        return findings + skipped(["dtypes", MODEL, *AFTER_LOADING], f"there is no device {on}")
    loaded, verifier = load(model, on, dtype)
    findings += [dtypes(on), loaded]
    examples = examples_for(EDITWORLD if verifier is None else verifier.domain)
    if verifier is None:
        findings += skipped(AFTER_LOADING, "the model did not load")
    else:
        with verifier:
            findings += examine_verifier(verifier, examples)
    if editor is not None:
        from edit_r1.doctor.editor import examine_editor, load_editor, skipped_editor

        opened, pipeline = load_editor(editor, on, dtype)
        findings.append(opened)
        findings += (
            skipped_editor("the editor did not load") if pipeline is None else examine_editor(pipeline, examples[0])
        )
    return findings
