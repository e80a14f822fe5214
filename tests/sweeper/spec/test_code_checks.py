"""Functions of a user's own in a spec: tried before anything starts, refused at their line, known by their file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.errors import UserError
from sweeper.spec.code_checks import read_code
from sweeper.spec.spec import Spec, load_spec, spec_difference
from tests.paths import ROOT
from trainables.own_code import find_module

SOURCE = """\
def margin(p, c, w):
    return (p.gather(1, c[:, None]) - p.gather(1, w[:, None]))[:, 0]

def hinge(policy_logits, reference_logits, chosen, rejected, *, delta):
    return (delta - margin(policy_logits, chosen, rejected)).clamp(min=0)

def squared(policy_logits, reference_logits, chosen, rejected, *, beta, target=1.0):
    return (beta * margin(policy_logits, chosen, rejected) - target).square()

def huge(policy_logits, reference_logits, chosen, rejected, *, delta):
    return (float(delta) ** 40 * margin(policy_logits, chosen, rejected)).exp()

def mean(policy_logits, reference_logits, chosen, rejected):
    return margin(policy_logits, chosen, rejected).mean()

def doubt(policy_logits, reference_logits, true, written):
    return 1 - policy_logits.softmax(-1).gather(1, true[:, None])[:, 0]
"""
SPEC = """\
sets: {world: {kind: world}}
train: {set: world}
evaluate: {search: {sets: [world]}, test: {sets: [world]}}
metrics:
  doubt: {function: MODULE:doubt, direction: minimize, view: clean}
keep: {doubt: untouched + 0.1}
parameters:
  objective: {choices: [cross_entropy, MODULE:hinge]}
  delta: {when: {objective: MODULE:hinge}, low: 1, high: 20}
  tune: transform
  learning_rate: 0.01
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working folder, that no other test uses: modules stay imported."""
    monkeypatch.chdir(tmp_path)
    name = f"checked_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    return name


def load(module: str, text: str = SPEC, *overrides: str) -> Spec:
    Path("spec.yaml").write_text(text.replace("MODULE", module))
    return load_spec("spec.yaml", [override.replace("MODULE", module) for override in overrides])


def test_the_file_of_each_module_is_part_of_the_spec(module: str) -> None:
    spec = load(module)
    assert spec.code == {module: find_module(module).digest}
    assert Spec.from_resolved(spec.resolved()) == spec and spec.task_settings().code == spec.code
    (kept,) = spec.bounds({"doubt": 0.2})
    assert (kept.metric, kept.direction, kept.value) == ("doubt", "minimize", pytest.approx(0.3))
    assert {"delta": 1, "objective": f"{module}:hinge"}.items() <= list(spec.parameters.examples())[1].items()
    [read] = read_code(spec.code, "demo")
    assert read.source.decode() == SOURCE


def test_changed_code_is_a_difference_and_is_not_read(module: str) -> None:
    before = load(module)
    Path(f"{module}.py").write_text(SOURCE + "# another comment\n")
    after = load(module)
    assert spec_difference(before, after) == [f'code.{module}: "{before.code[module]}" -> "{after.code[module]}"']
    with pytest.raises(
        UserError, match=f"code digest of {module} in sweep demo was {before.code[module][:12]} and is now"
    ):
        read_code(before.code, "demo")
    with pytest.raises(UserError, match="sweep demo names functions of no_such_module: there is no module"):
        read_code({"no_such_module": "0" * 64}, "demo")


def test_a_digest_may_be_pinned(module: str) -> None:
    digest = find_module(module).digest
    assert load(module, f"code: {{MODULE: {digest}}}\n" + SPEC).code == {module: digest}


DELTA = "  delta: {when: {objective: MODULE:hinge}, low: 1, high: 20}\n"
OTHER = "a" * 64


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"MODULE:hinge": "no_module:hinge"}, "8:40", "there is no module no_module in the working folder"),
        ({"MODULE:hinge": "MODULE:hing"}, "8:40", "MODULE:hing: MODULE has no function hing"),
        ({"MODULE:hinge": "MODULE:margin"}, "8:40", "MODULE:margin(p, c, w): write 4 arguments first"),
        ({DELTA: "", "MODULE:hinge": "MODULE:mean"}, "8:40", "MODULE:mean returned a tensor of shape () for 6 rows"),
        ({"MODULE:hinge": "MODULE:huge"}, "8:40", "MODULE:huge returned a number that is not finite, with delta 20"),
        (
            {DELTA: "", "MODULE:hinge": "my-losses:hinge"},
            "8:40",
            "`objective`: 'my-losses:hinge' is no function of the form package.module:function",
        ),
        (
            {DELTA: "", "{choices: [cross_entropy, MODULE:hinge]}": "MODULE:squared"},
            "8:14",
            "MODULE:squared needs `beta`, which has no value",
        ),
        (
            {DELTA: DELTA + "  epsilon: {when: {objective: MODULE:hinge}, value: 0.5}\n"},
            "10:3",
            "`epsilon` is no parameter of MODULE:hinge; known here: delta",
        ),
        (
            {DELTA: DELTA + "  beta: {when: {objective: MODULE:hinge}, value: 0.5}\n"},
            "10:3",
            "known here: delta; add a `when` that draws it only where it applies",
        ),
        (
            {"when: {objective: MODULE:hinge}, ": ""},
            "9:3",
            "epochs; a parameter of a function of your own needs `when: {objective: MODULE:hinge}`",
        ),
        (
            {DELTA: DELTA + "  lerning_rate: 0.1\n"},
            "10:3",
            "unknown parameter `lerning_rate`; did you mean `learning_rate`",
        ),
        ({"MODULE:doubt": "MODULE:doubts"}, "5:21", "MODULE:doubts: MODULE has no function doubts"),
        ({"MODULE:doubt": "MODULE:mean"}, "5:21", "MODULE:mean failed on a small batch: "),
        ({", direction: minimize": ""}, "5:10", "`metrics.doubt.direction` is missing"),
        ({"keep: {doubt": "keep: {doubts"}, "6:8", "`doubts` is not measured on validation; did you mean `doubt`?"),
        (
            {"sets: {world": f"code: {{other: {OTHER}}}\nsets: {{world"},
            "1:8",
            "`code`: the spec names no function of other; leave it out",
        ),
        (
            {"sets: {world": f"code: {{MODULE: {OTHER}}}\nsets: {{world"},
            "1:",
            "`code`: the file of MODULE has the digest",
        ),
    ],
)
def test_what_cannot_be_used_is_told_at_its_line_and_column(
    module: str, changes: dict[str, str], place: str, message: str
) -> None:
    text = SPEC
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    with pytest.raises(UserError) as caught:
        load(module, text)
    lines = str(caught.value).splitlines()
    message = message.replace("MODULE", module)
    assert any(line.startswith(f"spec.yaml:{place}") and message in line for line in lines), lines
    assert len(lines) == 1, lines


def test_a_spec_without_functions_of_its_own_is_read_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom sweeper.spec.spec import load_spec\n"
        "assert load_spec(sys.argv[1]).code == {}\nassert 'torch' not in sys.modules\n"
    )
    quickstart = str(ROOT / "search_spaces" / "quickstart.yaml")
    done = subprocess.run([sys.executable, "-c", script, quickstart], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
