"""A task that nobody knew is swept after one file and one entry in the list of tasks: nothing else is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SPEC = """\
task: turned
model: {architecture: world}
sets: {world: {kind: world, train: 400, validation: 300, test: 100}}
train: {set: world}
evaluate: {search: {sets: [world], images: 200}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
goals: {upright_accuracy: {floor: untouched - 0.5}, turned_error: {ceiling: 0.99}}
parameters:
  objective: dpo
  beta: {low: 0.1, high: 2.0, log: true}
  tune: transform
  learning_rate: {low: 0.01, high: 0.1, log: true}
search: {trials: 3}
training: {epochs: 3, global_batch_size: 64}
"""

SCRIPT = """\
import json, sys
from pathlib import Path
from sweeper.cli.status import trial_text
from sweeper.errors import UserError
from sweeper.front.load import load_front
from sweeper.front.pick import pick
from sweeper.front.rendering.table import table
from sweeper.front.rendering.writer import write_front
from sweeper.models.export import export_point
from sweeper.run.status_text import status_text
from sweeper.search.study import read_trials
from sweeper.search.warm_start import check_warm_start
from sweeper.spec.spec import load_spec
from tests.helpers.finished_sweep import finished_sweep

home = Path(sys.argv[1])
folder, spec = finished_sweep(home, Path(sys.argv[2]).read_text())
trials = read_trials(folder, spec)
front = load_front(folder, spec, trials)
write_front(front, folder.front_path)
chosen = pick(front, "min turned_error")
export_point(folder, spec, front, chosen, home / "exported")
(home / "typo.yaml").write_text((home / "typo.txt").read_text())
try:
    check_warm_start(folder.storage, [folder.name], load_spec(home / "typo.yaml"))
    refused = ""
except UserError as error:
    refused = str(error)
print(json.dumps({
    "trials": [(trial.number, trial.state, trial.baseline, trial.values) for trial in trials],
    "points": [(point.trial, point.name, point.validation, point.values) for point in front.points],
    "reference_point": front.reference_point, "hypervolume": front.hypervolume,
    "table": table(front, "table"), "status": status_text(folder, spec), "trial": trial_text(folder, spec, 1),
    "looked_at": [(point.trial, point.images) for point in front.points],
    "second_look": front.second_look is not None and (front.second_look.images, front.second_look.points > 0),
    "html": "error upside down" in (folder.front_path / "front.html").read_text(),
    "card": (home / "exported" / "README.md").read_text(), "refused": refused,
}))
"""


@pytest.mark.drill
def test_a_third_task_is_swept(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("sweeper", "trainables", "tests/helpers"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/__init__.py", "tests/paths.py"):
        shutil.copyfile(ROOT / name, tree / name)
    shutil.copyfile(ROOT / "tests" / "helpers" / "turned_task.py", tree / "trainables" / "tasks" / "turned.py")
    known = tree / "trainables" / "tasks" / "known.py"
    text = known.read_text()
    listed = "KINDS: tuple[TaskKind, ...] = (TypographicKind(), AttributeKind())"
    assert listed in text
    text = text.replace(listed, listed.replace("AttributeKind()", "AttributeKind(), TurnedKind()"))
    imported = "from trainables.tasks.kind import TaskKind\n"
    assert imported in text
    known.write_text(text.replace(imported, imported + "from trainables.tasks.turned import TurnedKind\n"))
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "script.py").write_text(SCRIPT)
    home = tmp_path / "home"
    home.mkdir()
    typographic = SPEC.replace("task: turned", "task: typographic")
    (home / "typo.txt").write_text("\n".join(line for line in typographic.splitlines() if "goals:" not in line))
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", home, tmp_path / "spec.yaml"],
        capture_output=True, text=True, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(number, state, baseline) for number, state, baseline, _ in told["trials"]] == [
        (0, "complete", "plain"), (1, "complete", None), (2, "complete", None),
    ]  # fmt: skip
    assert all(set(values) == {"upright_accuracy", "turned_error"} for _, _, _, values in told["trials"])
    named = {name: (validation, test) for _, name, validation, test in told["points"]}
    assert "plain" in named and "untouched" in named
    assert told["second_look"] == [100, True] and (None, 300) in map(tuple, told["looked_at"])
    untouched, _ = named["untouched"]
    members = [
        (validation, test) for trial, name, validation, test in told["points"] if trial is not None and name != "plain"
    ]
    assert members, "DPO of a transform lowers the error upside down on the images that it was trained for"
    assert min(validation["turned_error"] for validation, _ in members) < untouched["turned_error"]
    reference_point = [untouched["upright_accuracy"] - 0.5, untouched["turned_error"]]
    assert told["reference_point"] == pytest.approx(reference_point)
    assert told["hypervolume"] > 0 and told["html"]
    assert "validation error" in told["table"] and "plain cross-entropy" in told["table"]
    assert "upright" in told["status"] and "error" in told["trial"]
    assert "A CLIP that recognises what is upside down." in told["card"] and "For acrobats." in told["card"]
    assert "it has other goals, upright_accuracy and turned_error" in told["refused"]
