"""A model that answers no better than guessing is refused, by the check and by the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binomtest

from sweeper.errors import UserError
from sweeper.preflight.check import check_model_and_images
from sweeper.run.chance import check_chance
from sweeper.spec.spec import Spec, load_spec
from tests.helpers.tiny import write_clip
from tests.paths import ROOT
from trainables.evaluation.zero_shot import ZeroShot


def known(right: int, images: int, classes: int) -> ZeroShot:
    return ZeroShot(right=right, images=images, chance=1 / classes, classes=classes)


@pytest.fixture
def spec() -> Spec:
    return load_spec(ROOT / "search_spaces" / "quickstart.yaml")


@pytest.mark.parametrize(("right", "images"), [(0, 200), (1, 200), (14, 200), (180, 200), (200, 200), (3, 7)])
def test_interval_is_wilsons(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert known(right, images, 20).interval() == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_answers_at_and_below_chance_are_at_chance() -> None:
    assert known(10, 200, 20).at_chance()
    assert known(15, 200, 20).at_chance()
    assert known(0, 200, 5).at_chance()
    assert not known(20, 200, 20).at_chance()


def test_many_classes_are_refused_with_what_to_look_at(spec: Spec) -> None:
    lines: list[str] = []
    with pytest.raises(UserError, match=r"right on 12 of 200 .* guessing gives 0.050.*preprocessing.*class names"):
        check_chance(spec, known(12, 200, 20), lines.append)
    allowed = spec.model_copy(update={"model": spec.model.model_copy(update={"allow_chance": True})})
    check_chance(allowed, known(12, 200, 20), lines.append)
    check_chance(spec, known(100, 200, 2), lines.append)
    check_chance(spec, known(180, 200, 20), lines.append)
    assert ["may be chance" in line for line in lines] == [True, True, False]


def test_check_refuses_an_untrained_model(tmp_path: Path) -> None:
    model = write_clip(tmp_path / "clip", "vit", embed_dim=64)
    changes = [f"model.architecture=local-dir:{model}", "sets.world.train=64", "sets.world.test=40"]
    with pytest.raises(UserError, match="the model does not know these classes"):
        check_model_and_images(load_spec(ROOT / "search_spaces" / "quickstart.yaml", changes), lambda line: None)
    lines: list[str] = []
    allowed = load_spec(ROOT / "search_spaces" / "quickstart.yaml", [*changes, "model.allow_chance=true"])
    check_model_and_images(allowed, lines.append)
    assert any(line.startswith("untouched model: right on ") for line in lines)
