"""`edit-r1 doctor`."""

from __future__ import annotations

from typing import Literal

from rich.console import Console

from edit_r1.commands.shared import FAILED, print_json


def doctor(
    model: str | None = None,
    editor: str | None = None,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    json: bool = False,
) -> int:
    """Examine this installation, a model and an editor: do they work, and can the score be trusted?

    Args:
        model: folder of a vision-language model; without it, the packaged tiny verifier.
        editor: folder of a FLUX.1-Kontext pipeline to examine as well.
        device: where both run, such as cpu or cuda.
        dtype: number format of both models' weights.
    """
    from edit_r1.doctor import examine, finding_json
    from edit_r1.doctor.machine import is_installed

    if is_installed("transformers"):
        from edit_r1.report.terminal import quiet_libraries

        quiet_libraries()
    findings = [finding_json(finding) for finding in examine(model, editor, device, dtype)]
    failed = any(finding["status"] == "fail" for finding in findings)
    if json:
        print_json({"ok": not failed, "checks": findings})
    else:
        from edit_r1.report.terminal import findings_list

        Console().print(findings_list(findings))
    return FAILED if failed else 0
