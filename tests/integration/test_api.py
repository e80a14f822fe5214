"""A real sweep through the Python API: interrupted, run to its end by the example of ``run``, read by docs/api.md."""

from __future__ import annotations

import doctest
import io
import re
from pathlib import Path

import pytest

from sweeper import api
from tests.helpers.finished_sweep import SPEC
from tests.paths import ROOT

PAGE = ROOT / "docs" / "api.md"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(900)
def test_a_sweep_is_interrupted_run_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SWEEPER_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    own_model = 'model: {architecture: "local-dir:clip"}\n'  # untrained; without it the model is that of the world
    assert own_model in SPEC
    Path("demo.yaml").write_text(SPEC.replace(own_model, "") + "resources: {cpus_per_worker: 2}\n")  # one slot

    told: list[str] = []

    def interrupt(line: str) -> None:
        told.append(line)
        if "warming up" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        api.run("demo.yaml", echo=interrupt)
    assert "starting Ray" in told[0] and "warming up" in told[-1]
    assert "stopped; go on with: sweeper resume demo" in "".join(interrupted.value.__notes__)
    assert api.open_sweep("demo").status().startswith("demo: unfinished")

    page = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    example = next(found for found in doctest.DocTestFinder().find(api) if found.name == "sweeper.api.run")
    assert page[0] == f"from sweeper import api\n\n{example.examples[0].source.replace('run(', 'api.run(', 1)}"
    failures = io.StringIO()
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=failures.write, clear_globs=False)
    assert not failures.getvalue(), failures.getvalue()
    assert api.open_sweep("demo").status().startswith("demo: complete")

    names = {"api": api, "sweep": example.globs["sweep"]}
    for block in page[1:]:
        exec(compile(block, str(PAGE), "exec"), names)
