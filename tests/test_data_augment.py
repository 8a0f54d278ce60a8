"""Augmentation: batched, with parameters of each image's own, against slow references."""

import math
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from ablate.config import TrainConfig
from ablate.data.augment import MEAN, STD, Augment, normalise
from ablate.data.clock import Clock, Draws, Share
from ablate.data.crops import pad_crop, resized_crop
from ablate.data.erasing import random_erasing
from ablate.data.mixing import Mixing, neighbours
from ablate.data.randaugment import NAMES, OPERATIONS, apply, randaugment

SIDE = 16


def draws_of(count: int, seed: int = 0, share: Share | None = None) -> Draws:
    rng = np.random.default_rng(seed)
    return Draws(rng, count, share or Share(), torch.device("cpu"))


def random_images(count: int = 12, side: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(count, 3, 4, 4, generator=generator) * 255
    images = torch.nn.functional.interpolate(smooth, side, mode="bicubic").clamp(0, 255)
    return images.to(torch.uint8)


def test_normalised_pixels_have_imagenet_s_mean_and_deviation():
    images = torch.tensor(MEAN).view(1, 3, 1, 1).expand(2, 3, 4, 4) * 255
    torch.testing.assert_close(
        normalise(images.round().to(torch.uint8)), torch.zeros(2, 3, 4, 4), atol=0.01, rtol=0
    )
    white = normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(white, (1 - torch.tensor(MEAN)) / torch.tensor(STD))


def test_pad_crop_is_a_window_of_the_padded_image_at_each_image_s_own_place():
    images = random_images(200)
    cropped = pad_crop(images, 4, draws_of(200))
    rows = draws_of(200).integers(9, columns=2).tolist()
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    for image, result, (top, left) in zip(padded, cropped, rows, strict=True):
        assert torch.equal(result, image[:, top : top + SIDE, left : left + SIDE])
    assert len({tuple(row) for row in rows}) > 60, "of 81 places most are used"


def test_resized_crop_keeps_a_constant_image_and_its_parts_fit():
    constant = torch.full((50, 3, SIDE, SIDE), 77, dtype=torch.uint8)
    assert torch.equal(resized_crop(constant, draws_of(50)), constant)


def test_resized_crop_of_a_ramp_is_the_ramp_of_a_part_of_it():
    """Along x, the result rises from the part's left to its right, by the part's width."""
    ramp = torch.arange(SIDE).mul(16).to(torch.uint8).expand(300, 3, SIDE, SIDE)
    result = resized_crop(ramp.contiguous(), draws_of(300))[:, 0, SIDE // 2].float()
    width = (result[:, -3] - result[:, 2]) / 16 / (SIDE - 5) * SIDE  # of the part, in pixels
    assert (result.diff() >= 0).all()
    assert 3 < width.min() < 6, "small parts: 8% of the area"
    assert 14 < width.max() < 17, "large parts: all of it"


def test_a_flip_reverses_half_of_the_images():
    images = random_images(400)
    flipped, _ = Augment(TrainConfig(hflip=True), 10)(
        (images, torch.zeros(400, dtype=torch.long)), draws_of(400), Clock(0)
    )
    same = (flipped == normalise(images)).flatten(1).all(1)
    mirrored = (flipped == normalise(images.flip(-1))).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def torchvision_operation(name: str, images: torch.Tensor, level: float) -> torch.Tensor:
    """The same operation by torchvision, with one level for the whole batch."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    bilinear = InterpolationMode.BILINEAR
    degrees = math.degrees(math.atan(level))
    pixels = int(level * images.shape[-1])
    calls = {
        "Identity": lambda: images,
        "ShearX": lambda: reference.affine(
            images, **{**still, "shear": [degrees, 0.0]}, center=[0, 0], interpolation=bilinear
        ),
        "ShearY": lambda: reference.affine(
            images, **{**still, "shear": [0.0, degrees]}, center=[0, 0], interpolation=bilinear
        ),
        "TranslateX": lambda: reference.affine(images, **{**still, "translate": [pixels, 0]}),
        "TranslateY": lambda: reference.affine(images, **{**still, "translate": [0, pixels]}),
        "Rotate": lambda: reference.rotate(images, math.degrees(level), interpolation=bilinear),
        "Brightness": lambda: reference.adjust_brightness(images, 1 + level),
        "Color": lambda: reference.adjust_saturation(images, 1 + level),
        "Contrast": lambda: reference.adjust_contrast(images, 1 + level),
        "Sharpness": lambda: reference.adjust_sharpness(images, 1 + level),
        "Posterize": lambda: reference.posterize(images, int(level)),
        "Solarize": lambda: reference.solarize(images, level),
        "AutoContrast": lambda: reference.autocontrast(images),
        "Equalize": lambda: reference.equalize(images),
    }
    return calls[name]()


@pytest.mark.parametrize("magnitude", [0, 9, 15, 30])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_of_randaugment_is_torchvision_s(name, sign, magnitude):
    operation = OPERATIONS[NAMES.index(name)]
    level = operation.level(magnitude / 30) * (sign if operation.signed else 1)
    images = random_images(side=40)
    ours = apply(images, np.full(12, NAMES.index(name)), np.full(12, float(level)))
    difference = (ours.int() - torchvision_operation(name, images, level).int()).abs()
    assert difference.max() <= 1, "rounding, at most"
    assert (difference > 0).float().mean() < 0.05


def test_images_of_one_batch_take_different_operations():
    """As if each were alone: nothing leaks from one image of a batch into another."""
    choice = np.array([*range(len(NAMES)), *reversed(range(len(NAMES)))])
    images = random_images(len(choice))
    level = np.array([float(operation.level(0.5)) for operation in OPERATIONS])[choice]
    together = apply(images, choice, level)
    for index, operation in enumerate(choice):
        part = slice(index, index + 1)
        alone = apply(images[part], choice[part], level[part])
        assert torch.equal(together[part], alone), NAMES[operation]


def test_constant_images_survive_autocontrast_and_equalize():
    images = torch.full((2, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    choice = np.array([NAMES.index("AutoContrast"), NAMES.index("Equalize")])
    changed = apply(images, choice, np.ones(2))
    assert torch.equal(changed, images)


def test_randaugment_applies_as_many_operations_as_asked_and_leaves_its_input():
    images = random_images(200)
    before = images.clone()
    changed = [
        (randaugment(images, ops, 15, draws_of(200)) != images).flatten(1).any(1).float().mean()
        for ops in (1, 2, 4)
    ]
    assert torch.equal(images, before)
    assert 0.6 < changed[0] < changed[1] <= changed[2]
    assert not torch.equal(
        randaugment(images, 1, 15, draws_of(200)), randaugment(images, 1, 15, draws_of(200, 1))
    )


def test_noise_on_the_magnitude_spreads_the_levels_around_it_and_stays_in_range():
    """Of images that are all white, brightness at -level keeps 1 - level."""
    images = torch.full((4000, 3, 4, 4), 255, dtype=torch.uint8)

    def brightened(magnitude: float, std: float) -> torch.Tensor:
        values = randaugment(images, 1, magnitude, draws_of(4000), std)[:, 0, 1, 1].double()
        return values[(values > 20) & (values < 230)] / 255  # of few operations but brightness

    assert len(brightened(15, 0).unique()) < 4
    shares = (1 - brightened(15, 3)) / 0.9 * 30
    shares = shares[(shares > 4) & (shares < 26)]
    assert abs(float(shares.mean()) - 15) < 1
    assert abs(float(shares.std()) - 3) < 1
    assert not torch.equal(
        randaugment(images[:64], 2, 15, draws_of(64), 3),
        randaugment(images[:64], 2, 15, draws_of(64)),
    )
    for magnitude in (0, 30):
        randaugment(images, 2, magnitude, draws_of(4000), 20)


def test_levels_stay_between_the_least_and_the_largest_magnitude(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ablate.data.randaugment.apply", lambda images, choice, level: seen.append((choice, level))
    )
    randaugment(random_images(1).expand(3000, -1, -1, -1), 1, 15, draws_of(3000), 30)
    choice, level = seen[0]
    shears = np.abs(level[choice == NAMES.index("ShearX")])
    assert shears.min() == 0
    assert shears.max() == pytest.approx(0.3)
    assert len(np.unique(shears)) > 50


def test_a_batch_can_be_trained_on():
    """What is computed without gradients' bookkeeping must not leave the augmentation."""
    augment = Augment(TrainConfig(**EVERYTHING), num_classes=10)
    images, targets = augment((random_images(), torch.arange(12) % 10), draws_of(12), Clock(0))
    layer = torch.nn.Conv2d(3, 10, SIDE)
    torch.nn.functional.cross_entropy(layer(images).flatten(1), targets).backward()
    assert layer.weight.grad is not None


def test_erasing_fills_a_rectangle_of_noise_in_its_share_of_images():
    images = torch.full((600, 3, SIDE, SIDE), 9.0)
    random_erasing(images, 0.25, draws_of(600), Clock(0))
    erased = (images != 9).all(1)  # (N, H, W)
    touched = erased.flatten(1).any(1)
    assert 100 < int(touched.sum()) < 200
    areas = []
    for mask in erased[touched]:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum()), "a full rectangle"
        areas.append(float(mask.float().mean()))
    assert 0.01 < min(areas) < 0.06
    assert 0.25 < max(areas) < 0.45
    noise = images[erased[:, None].expand_as(images)]
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1


def test_noise_differs_between_images():
    images = torch.zeros(40, 3, SIDE, SIDE)
    random_erasing(images, 0.999, draws_of(40), Clock(0))
    centres = images[:, 0, SIDE // 2, SIDE // 2]
    assert len(centres[centres != 0].unique()) > 0.9 * int((centres != 0).sum())


def mixed(count: int = 400, seed: int = 0, **fields: float):
    """Images whose value is their index, so that a mixture can be read off."""
    mixing = Mixing.of(TrainConfig(**fields), num_classes=count)
    assert mixing is not None
    index = torch.arange(count, dtype=torch.float32)
    images = index.view(-1, 1, 1, 1).expand(count, 3, SIDE, SIDE).contiguous()
    return mixing(images, torch.arange(count), draws_of(count, seed))


def test_partners_are_neighbours():
    assert neighbours(6, torch.device("cpu")).tolist() == [1, 0, 3, 2, 5, 4]
    assert neighbours(5, torch.device("cpu")).tolist() == [1, 0, 3, 2, 3]
    assert neighbours(1, torch.device("cpu")).tolist() == [0]


@pytest.mark.parametrize("fields", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_targets_are_the_shares_of_the_pixels(fields):
    images, targets = mixed(**fields)
    torch.testing.assert_close(targets.sum(1), torch.ones(400))
    values = images.mean((1, 2, 3))
    expected = targets @ torch.arange(400, dtype=torch.float32)
    torch.testing.assert_close(values, expected, atol=1e-2, rtol=1e-4)
    assert ((targets > 0).sum(1) <= 2).all()
    assert targets.dtype == images.dtype == torch.float32


def test_mixup_blends_and_cutmix_pastes_a_box():
    blended, _ = mixed(mixup=0.8)
    assert (blended.flatten(1).std(1) < 1e-3).all(), "every pixel has the same share"
    pasted, _ = mixed(cutmix=1.0)
    torch.testing.assert_close(pasted, pasted.round(), atol=0, rtol=0)
    foreign = pasted[:, 0] != torch.arange(400.0).view(-1, 1, 1)
    for mask in foreign:
        assert int(mask.sum()) == int(mask.any(1).sum()) * int(mask.any(0).sum())


def test_each_image_has_its_own_share_and_half_of_them_each_method():
    images, targets = mixed(mixup=0.8, cutmix=1.0)
    own = targets.diagonal()
    assert len(own.unique()) > 200
    blended = (images.flatten(1).std(1) < 1e-3).float().mean()
    assert 0.4 < blended < 0.62


def test_shares_are_beta_distributed():
    _, targets = mixed(count=2000, mixup=0.2)
    own = targets.diagonal()
    assert abs(float(own.mean()) - 0.5) < 0.03
    assert abs(float(own.var()) - 0.25 / 1.4) < 0.02, "Beta(a, a) has variance 1 / (4 (2a + 1))"


def test_mix_probability_is_the_share_of_images_that_are_mixed():
    _, targets = mixed(mixup=0.8, mix_probability=0.3)
    untouched = (targets.diagonal() == 1).float().mean()
    assert 0.62 < untouched < 0.78
    assert Mixing.of(TrainConfig(mixup=0.8, mix_probability=0.0), 10) is None
    assert Mixing.of(TrainConfig(), 10) is None


EVERYTHING = MappingProxyType(
    {
        "crop": "pad",
        "hflip": True,
        "randaugment_ops": 2,
        "random_erasing": 0.5,
        "mixup": 0.8,
        "cutmix": 1.0,
    }
)


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_two_processes_augment_their_shares_as_one_does_the_whole(crop):
    """Every random number belongs to a place in the global batch, not to a process."""
    train = TrainConfig(**{**EVERYTHING, "crop": crop})
    augment = Augment(train, num_classes=10)
    images, labels = random_images(12), torch.arange(12) % 10
    whole, whole_targets = augment((images, labels), draws_of(12), Clock(0))
    for rank in range(2):
        part = slice(6 * rank, 6 * rank + 6)
        share, targets = augment(
            (images[part], labels[part]), draws_of(6, share=Share(rank, 2)), Clock(0)
        )
        torch.testing.assert_close(share, whole[part])
        torch.testing.assert_close(targets, whole_targets[part])


def test_the_same_seed_epoch_and_step_give_the_same_batch_and_others_do_not():
    augment = Augment(TrainConfig(**EVERYTHING), num_classes=10)
    batch = random_images(), torch.arange(12) % 10

    def at(clock: Clock, step: int) -> torch.Tensor:
        draws = replace(draws_of(12), rng=clock.rng("augment", step))
        return augment(batch, draws, clock)[0]

    first = at(Clock(seed=1, epoch=3), 5)
    assert torch.equal(first, at(Clock(seed=1, epoch=3), 5))
    for other in (at(Clock(2, 3), 5), at(Clock(1, 4), 5), at(Clock(1, 3), 6)):
        assert not torch.equal(first, other)


def test_a_recipe_without_augmentation_only_normalises():
    images, labels = random_images(), torch.arange(12)
    result, targets = Augment(TrainConfig(), 12)((images, labels), draws_of(12), Clock(0))
    assert torch.equal(result, normalise(images))
    assert targets is labels
