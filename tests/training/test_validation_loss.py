"""The loss on the validation split: against the loss of single images, and from one forward pass."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.data.loading import collate
from detectors.training import assemble
from detectors.training.detection import detect
from detectors.training.validation_loss import ValidationLoss, loss_means
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures


def evaluated(run, batch_size: int) -> dict[str, float]:
    """The means with batches of this size."""
    loader = assemble.eval_loader(run.config, run.task.val_annotations, batch_size=batch_size)
    losses = ValidationLoss(run.task.module)
    detect(run.task.module, loader, run.device, progress=False, losses=losses)
    return loss_means([losses.sums_on_host()])


def terms_of(run, indices: list[int]) -> dict[str, torch.Tensor]:
    """The loss of a batch of validation images in evaluation mode."""
    detector = run.task.module.eval()
    batch = collate([run.task.val_loader.dataset[0, index] for index in indices])
    outputs = detector(batch.images)
    grid = detector.grid(batch.images.shape[-2:])
    return detector.loss(outputs, detector.encoder(batch.targets, grid, outputs), grid)


def test_yolos_is_the_mean_over_images_whatever_the_batch(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "data.shapes.val=5")
    single = [terms_of(run, [index]) for index in range(5)]
    expected = {name: sum(terms[name].item() for terms in single) / 5 for name in single[0]}
    expected["total"] = sum(expected.values())
    for batch_size in (1, 2, 5):
        assert_close(evaluated(run, batch_size), expected, rtol=1e-5, atol=1e-6)


def test_a_batch_counts_with_its_images(cache, tmp_path):  # noqa: F811
    """SSD divides by the positives of the batch, so that the size of the batch matters a little."""
    run = make_run(tmp_path, cache, "data.shapes.val=5", model="ssd160")
    first, second = terms_of(run, [0, 1, 2]), terms_of(run, [3, 4])
    expected = {name: ((3 * first[name] + 2 * second[name]) / 5).item() for name in first}
    expected["total"] = sum(expected.values())
    assert_close(evaluated(run, 3), expected, rtol=1e-5, atol=1e-6)
    assert evaluated(run, 5)["total"] != pytest.approx(expected["total"], rel=1e-4)


@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_it_takes_no_second_forward_pass_and_changes_nothing(model, cache, tmp_path, monkeypatch):  # noqa: F811
    run = make_run(tmp_path, cache, "trainer.eval_batch_size=2", model=model)
    calls = []
    run.task.module.backbone.register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in run.task.module.named_buffers()}
    run.task.evaluate()
    assert len(calls) == 2  # 4 images
    assert_close(dict(run.task.module.named_buffers()), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in run.task.module.parameters())
    curves = run.task.curves()
    terms = {tag: value for tag, value in curves.items() if tag.startswith("val/loss/")}
    assert terms.pop("val/loss/total") == pytest.approx(sum(terms.values()))
    assert {"val/loss/box", "val/loss/class"} <= terms.keys()


def test_difficult_boxes_count_as_in_training(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache)
    run.task.val_annotations.difficult[:] = True
    assert evaluated(run, 4)["class"] > 0
    run.config.data.train_difficult = False
    assert evaluated(run, 4)["class"] == 0


def test_an_empty_split_has_no_loss(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "data.val=[]")
    run.task.evaluate()
    assert not any(tag.startswith("val/loss") for tag in run.task.curves())
