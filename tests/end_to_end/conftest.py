"""One finished demo of size micro for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from edit_r1.cli import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "micro"
    with pytest.raises(SystemExit) as end:
        main(["demo", "--size", "micro", "--out", str(out)])
    assert end.value.code == 0
    return out
