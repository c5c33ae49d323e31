"""`edit-r1 doctor`."""

from __future__ import annotations

from rich.console import Console

from edit_r1.commands.shared import FAILED, PACKAGED, Json, Models, print_json


def doctor(
    models: Models = PACKAGED,
    editor: str | None = None,
    json: Json = False,
) -> int:
    """Examine this installation, a model and an editor: do they work, and can the score be trusted?

    Args:
        editor: folder of a FLUX.1-Kontext pipeline to examine as well.
    """
    from edit_r1.doctor import examine, finding_json
    from edit_r1.doctor.machine import is_installed

    if is_installed("transformers"):
        from edit_r1.report.terminal import quiet_libraries

        quiet_libraries()
    findings = [finding_json(finding) for finding in examine(models, editor)]
    failed = any(finding["status"] == "fail" for finding in findings)
    if json:
        print_json({"ok": not failed, "checks": findings})
    else:
        from edit_r1.report.terminal import findings_list

        Console().print(findings_list(findings))
    return FAILED if failed else 0
