"""What is measured on test: every protocol, set by set, against plain loops over open_clip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.helpers import tiny
from trainables.distributed import WorkerGroup
from trainables.evaluation import measure as evaluation
from trainables.evaluation.measure import image_kl, measurement, untouched_policy
from trainables.settings.task import TaskSettings
from trainables.trial_context import TrialContext

CLASSES = ["cat", "dog", "owl", "pen"]
REAL = [("cat", "taxi"), ("dog", "cat"), ("owl", "pen"), ("pen", "taxi"), ("cat", "dog")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    """Two sets of noise, one of them trained on, and photographs of written words."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "rta").mkdir()
    for i, (true, written) in enumerate(REAL):
        pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(folder / "rta" / f"label={true}_text={written}.png")
    sets = {
        name: {
            "kind": "image_folder",
            "train": str(tiny.write_images(folder / name / "train", CLASSES, 6, seed=seed)),
            "test": str(tiny.write_images(folder / name / "test", CLASSES, 3, seed=seed + 1)),
            "validation": {"from": "train", "per_class": 2},
        }
        for seed, name in ((10, "mine"), (20, "other"))
    }
    task = {
        "model": {"architecture": f"local-dir:{tiny.write_clip(folder / 'clip', 'vit')}"},
        "sets": {**sets, "rta": {"kind": "rta100", "path": str(folder / "rta")}},
        "train": {"set": "mine", "copies": 3},
        "evaluate": {"search": {"sets": ["mine"]}, "test": {"sets": ["mine", "other", "rta"]}},
    }
    settings = TaskSettings.model_validate(task)
    return TrialContext(settings, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))


def test_every_set_by_itself_and_transfer_to_those_not_trained_on(bench: TrialContext) -> None:
    policy, group = untouched_policy(bench), WorkerGroup()
    scores = evaluation.test_scores(bench, policy, evaluation.test_answers(bench, policy, group), group)
    values = measurement(scores)["values"]
    of_sets = {name for name in values if "/" in name and not name.startswith("robust_accuracy/")}
    metrics = {"clean_accuracy", "robust_accuracy", "text_confusion_rate", "two_way_accuracy", "reference_kl"}
    assert of_sets == {
        *(f"{name}/{metric}" for name in ("mine", "other") for metric in metrics),
        *(f"rta/{metric}" for metric in ("robust_accuracy", "text_confusion_rate", "two_way_accuracy")),
        *(f"transfer/{metric}" for metric in ("clean_accuracy", "robust_accuracy", "text_confusion_rate")),
    }
    assert values["robust_accuracy"] == pytest.approx(
        (values["mine/robust_accuracy"] + values["other/robust_accuracy"]) / 2
    )
    assert values["transfer/clean_accuracy"] == values["other/clean_accuracy"]
    assert values["reference_kl"] == pytest.approx(0.0, abs=1e-9), "the untouched model is the reference"
    assert measurement(scores)["images"] == 24


def test_both_protocols_on_written_words_against_a_plain_loop(bench: TrialContext, tmp_path: Path) -> None:
    policy = untouched_policy(bench)
    found = next(one for one in evaluation.test_answers(bench, policy, WorkerGroup()) if one.set == "rta/test")
    model, clip = bench.clip.model, bench.clip
    names = sorted({word for pair in REAL for word in pair})
    text = model.encode_text(clip.tokens([f"a photo of a {name}." for name in names]), normalize=True)
    for one in bench.typographic_sets:
        assert one.class_names == tuple(names) and one.clean is None
        for i, image in enumerate(one.attacked.images):
            logits = (model.encode_image(clip.pixels(image[None]), normalize=True) @ text.T)[
                0
            ] * model.logit_scale.exp()
            assert found.answer is not None and found.margin is not None
            assert found.answer[i] == names[int(logits.argmax())]
            expected = logits[names.index(found.true[i])] - logits[names.index(found.written[i])]
            assert found.margin[i] == pytest.approx(float(expected), abs=1e-4)
    assert sorted(zip(found.true, found.written, strict=True)) == sorted(REAL)


def test_kl_from_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(7, 5, generator=generator), 3 * torch.randn(7, 5, generator=generator)
    expected = F.kl_div(F.log_softmax(ours, -1), F.log_softmax(theirs, -1), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(image_kl(ours, theirs).float(), expected, atol=1e-5, rtol=1e-5)


def test_smaller_trials_see_a_part_of_what_larger_ones_see(bench: TrialContext) -> None:
    images = len(bench.pairs.clean.labels)
    assert images == 16
    everything = bench.pair_rows(tiny.parameters())
    assert torch.equal(everything, torch.arange(3 * images))
    few, more = (bench.pair_rows(tiny.parameters(images=count, copies=2)) for count in (5, 11))
    assert len(few) == 10 and len(more) == 22 and set(few.tolist()) < set(more.tolist())
    assert set((few % images).tolist()) == set(few[:5].tolist()), "each image comes with both of its copies"
    with pytest.raises(ValueError, match="copies 4: preference data have 3"):
        bench.pair_rows(tiny.parameters(copies=4))
    with pytest.raises(ValueError, match="images 17: preference data have 16 images"):
        bench.pair_rows(tiny.parameters(images=17))


def test_the_reference_is_never_measured_with_tuned_weights(bench: TrialContext) -> None:
    policy = bench.policy(tiny.parameters(tune="visual"))
    policy.set_weights({name: value + 1 for name, value in policy.tuned().items()})
    with pytest.raises(AssertionError, match="its own weights"):
        bench.text(("an unseen class", "another"), ("a drawing of a {}",))
    policy.restore()
    assert bench.text(("an unseen class", "another"), ("a drawing of a {}",)).shape == (2, bench.clip.embed_dim)
