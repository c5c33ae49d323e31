"""`edit-r1 doctor`: does this installation, this model, this editor do what the rest relies on?"""

from __future__ import annotations

from edit_r1.doctor.examples import EDITWORLD, examples_for
from edit_r1.doctor.findings import Finding, finding_json, skipped
from edit_r1.doctor.machine import NEEDED, device_or_why, dtypes, versions
from edit_r1.doctor.verifier import AFTER_LOADING, MODEL, examine_verifier, load
from edit_r1.verifier.choice import ModelChoice

__all__ = ["Finding", "examine", "finding_json"]


def examine(models: ModelChoice, editor: str | None) -> list[Finding]:
    """Every check, in order; nothing raises, and what a failed check makes impossible is skipped.

    Args:
        models: the verifier; its device (the first of several) and dtype are the editor's too.
        editor: folder of an editor's pipeline; None examines none.
    """
    on = models.device.split(",")[0]
    findings = [versions(NEEDED if models.endpoint is None or editor is not None else ())]
    if models.endpoint is not None:
        findings += skipped(["device", "dtypes"], "the model runs behind an endpoint")
    elif findings[0].status == "fail":  # without torch there is nothing to load
        return findings + skipped(["device", "dtypes", MODEL, *AFTER_LOADING], "torch or transformers is missing")
    else:
        findings.append(device_or_why(on))
        if findings[-1].status == "fail":
            return findings + skipped(["dtypes", MODEL, *AFTER_LOADING], f"there is no device {on}")
        findings.append(dtypes(on))
    loaded, verifier = load(models)
    findings.append(loaded)
    examples = examples_for(EDITWORLD if verifier is None else verifier.domain)
    if verifier is None:
        findings += skipped(AFTER_LOADING, "the model did not load")
    else:
        with verifier:
            findings += examine_verifier(verifier, examples)
    if editor is not None:
        from edit_r1.doctor.editor import examine_editor, load_editor, skipped_editor

        opened, pipeline = load_editor(editor, on, models.dtype)
        findings.append(opened)
        findings += (
            skipped_editor("the editor did not load") if pipeline is None else examine_editor(pipeline, examples[0])
        )
    return findings
