"""Loaders and the DataModule: which images, in which batch, on which process, in which epoch."""

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from data_trees import config, random_image, write_tree

from ablate.config import TrainConfig
from ablate.data import DataModule
from ablate.data.clock import Clock, Share
from ablate.data.plans import EvalPlan, TrainPlan
from ablate.errors import ConfigError, DataError

RECIPE = {"batch_size": 16, "crop": "pad", "hflip": True, "mixup": 0.8, "random_erasing": 0.5}


def train_plan(images: int = 100, epoch: int = 0, **fields) -> TrainPlan:
    fields = {"step_size": 16, "clock": Clock(0, epoch), "share": Share()} | fields
    return TrainPlan(indices=np.arange(images) + 1000, **fields)


def indices_of(plan) -> list[list[int]]:
    return [batch.indices.tolist() for batch in plan.batches()]


def epoch_of(module: DataModule, epoch: int) -> list[torch.Tensor]:
    module.set_epoch(epoch)
    loader = module.train_dataloader()
    batches = [module.transform(batch, train=True) for batch in loader]
    assert len(batches) == len(loader)
    return [images for images, _ in batches]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_has_every_image_at_most_once_in_full_batches():
    batches = indices_of(train_plan(100))
    assert [len(batch) for batch in batches] == [16] * 6 == [16] * len(train_plan(100))
    seen = [index for batch in batches for index in batch]
    assert len(set(seen)) == 96
    assert seen != sorted(seen)


def test_a_split_smaller_than_a_batch_is_one_batch():
    assert [len(batch) for batch in indices_of(train_plan(10))] == [10]
    assert [len(batch) for batch in indices_of(train_plan(10, share=Share(0, 4)))] == [2]


def test_epochs_differ_and_each_is_a_function_of_seed_and_epoch():
    assert indices_of(train_plan(epoch=1)) == indices_of(train_plan(epoch=1))
    assert indices_of(train_plan(epoch=1)) != indices_of(train_plan(epoch=2))
    assert indices_of(train_plan(clock=Clock(1))) != indices_of(train_plan(clock=Clock(2)))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("repeats", [1, 3])
def test_processes_share_the_global_batches_of_one(world, repeats):
    whole = indices_of(train_plan(repeats=repeats))
    shares = [
        indices_of(train_plan(share=Share(rank, world), repeats=repeats)) for rank in range(world)
    ]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert [index for part in parts for index in part] == batch


def test_places_count_over_all_processes():
    """Decoding draws its random numbers by them."""
    plans = [train_plan(share=Share(rank, 2)) for rank in range(2)]
    places = [[batch.place for batch in plan.batches()] for plan in plans]
    assert places == [[0, 16, 32, 48, 64, 80], [8, 24, 40, 56, 72, 88]]


def test_micro_batches_make_whole_steps():
    plan = train_plan(100, accumulate=4)
    assert [len(batch) for batch in indices_of(plan)] == [4] * 24
    flat = [index for batch in indices_of(train_plan(100)) for index in batch]
    assert [index for batch in indices_of(plan) for index in batch] == flat


def test_repeated_augmentation_shows_a_third_of_the_images_three_times():
    batches = indices_of(train_plan(96, step_size=24, repeats=3))
    assert [len(batch) for batch in batches] == [24] * 4
    counts = np.unique([index for batch in batches for index in batch], return_counts=True)[1]
    assert counts.tolist() == [3] * 32
    for batch in batches:
        assert all(a != b for a, b in zip(batch[::2], batch[1::2], strict=True)), "partners differ"


def test_evaluation_has_every_image_once_in_order_on_any_number_of_processes():
    for images in (1, 7, 16, 17, 100):
        for world in (1, 2, 3):
            plans = [EvalPlan(np.arange(images), 16, Share(rank, world)) for rank in range(world)]
            assert len({len(list(plan.batches())) for plan in plans}) == 1
            parts = zip(*(indices_of(plan) for plan in plans), strict=True)
            flat = [index for step in parts for part in step for index in part]
            assert flat == list(range(images))
    assert indices_of(EvalPlan(np.arange(0), 16, Share())) == []


def test_batches_are_bytes_and_become_normalised_floats(tmp_path):
    module = DataModule(config(tmp_path, "digits-canvas"), TrainConfig(batch_size=16), seed=0)
    images, labels = next(iter(module.train_dataloader()))
    assert (images.shape, images.dtype) == ((16, 3, 32, 32), torch.uint8)
    assert (labels.shape, labels.dtype) == ((16,), torch.int64)
    assert torch.equal(images[:, 0], images[:, 2]), "grey is repeated to three channels"
    floats, targets = module.transform((images, labels), train=True)
    assert floats.dtype == torch.float32
    assert torch.equal(targets, labels)


def test_targets_are_shares_of_classes_where_images_are_mixed(tmp_path):
    module = DataModule(config(tmp_path, "digits-canvas"), TrainConfig(mixup=0.8), seed=0)
    batch = next(iter(module.train_dataloader()))
    assert module.transform(batch, train=True)[1].shape == (64, module.num_classes)
    assert module.transform(batch, train=False)[1].shape == (64,)


def test_iterating_an_epoch_twice_gives_the_same_batches(tmp_path):
    module = DataModule(config(tmp_path, "digits-canvas"), TrainConfig(**RECIPE), seed=3)
    first = epoch_of(module, 1)
    assert same(first, epoch_of(module, 1))
    assert not same(first, epoch_of(module, 2))


def test_an_interrupted_pass_leaves_no_trace_in_the_next(tmp_path):
    module = DataModule(config(tmp_path, "digits-canvas"), TrainConfig(**RECIPE), seed=3)
    first = epoch_of(module, 1)
    for batch in module.train_dataloader():
        module.transform(batch, train=True)
        break
    assert same(first, epoch_of(module, 1))


def test_resuming_at_an_epoch_equals_having_run_from_the_start(tmp_path):
    data, train = config(tmp_path, "digits-canvas"), TrainConfig(**RECIPE)
    straight = DataModule(data, train, seed=3)
    for epoch in range(2):
        epoch_of(straight, epoch)
    assert same(epoch_of(straight, 2), epoch_of(DataModule(data, train, seed=3), 2))
    assert not same(epoch_of(straight, 2), epoch_of(DataModule(data, train, seed=4), 2))


class Recorder(pl.LightningModule):
    """Records what it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3072, 10)
        self.fed: dict[str, list[torch.Tensor]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch, index):
        self.fed["train"].append(batch[0].clone())
        return self.layer(batch[0].flatten(1)).square().mean()

    def validation_step(self, batch, index):
        self.fed["val"].append(batch[0].clone())

    def test_step(self, batch, index):
        self.fed["test"].append(batch[0].clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def trainer(**fields) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **fields,
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_it_works_in_anyone_s_trainer(tmp_path):
    """Lightning tells the epoch by itself: the batches are those of a plain loop."""
    data, train = config(tmp_path, "digits-canvas"), TrainConfig(**RECIPE)
    module, recorder = DataModule(data, train, seed=3), Recorder()
    runner = trainer(max_epochs=2)
    runner.fit(recorder, module)
    runner.test(recorder, module)
    plain = DataModule(data, train, seed=3)
    assert same(recorder.fed["train"], epoch_of(plain, 0) + epoch_of(plain, 1))
    tested = [plain.transform(batch, train=False)[0] for batch in plain.test_dataloader()]
    assert same(recorder.fed["test"], tested)
    assert sum(map(len, recorder.fed["test"])) == 997
    held_out = [plain.transform(batch, train=False)[0] for batch in plain.val_dataloader()]
    assert same(recorder.fed["val"][-len(held_out) :], held_out)


def test_the_subset_of_train_is_fixed_and_not_augmented(tmp_path):
    data = config(tmp_path, "digits-canvas", eval_subset=100)
    module = DataModule(data, TrainConfig(**RECIPE), seed=3)
    passes = [
        torch.cat(
            [module.transform(batch, train=False)[0] for batch in module.train_eval_dataloader()]
        )
        for _ in range(2)
    ]
    assert passes[0].shape[0] == 100
    assert torch.equal(*passes)
    other = DataModule(data, TrainConfig(), seed=9).train_eval_dataloader()
    assert torch.equal(torch.cat([module.transform(b, train=False)[0] for b in other]), passes[0])


def test_no_held_out_split_is_an_empty_loader(tmp_path):
    module = DataModule(config(tmp_path, "digits", val_fraction=0), TrainConfig(), seed=0)
    assert list(module.val_dataloader()) == []
    assert len(module.val_dataloader()) == 0


def test_another_size_has_the_same_images(tmp_path):
    module = DataModule(config(tmp_path, "digits"), TrainConfig(), seed=0)
    larger = module.at_size(48)
    (small, labels), (large, others) = (next(iter(m.test_dataloader())) for m in (module, larger))
    assert large.shape[-2:] == (48, 48)
    assert small.shape[-2:] == (32, 32)
    assert torch.equal(labels, others)
    assert module.data.image_size == 32


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 4, 32, 32, dtype=torch.uint8),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.full((2, 3, 32, 32), float("nan")),
    ],
)
def test_images_of_other_channels_or_values_are_an_error(tmp_path, images):
    module = DataModule(config(tmp_path, "digits"), TrainConfig(), seed=0)
    for train in (True, False):
        with pytest.raises(DataError, match=r"images are \(N, 3, H, W\) uint8, but got \("):
            module.transform((images, torch.zeros(2, dtype=torch.int64)), train=train)


def processes(module: DataModule, world: int) -> DataModule:
    module.trainer = SimpleNamespace(global_rank=0, world_size=world, training=True)
    return module


def test_a_batch_that_processes_cannot_share_is_an_error(tmp_path):
    data = config(tmp_path, "digits")
    module = processes(DataModule(data, TrainConfig(batch_size=16), seed=0), 3)
    with pytest.raises(ConfigError, match="batch_size=16, processes=3, accumulate=1"):
        module.train_dataloader()
    assert len(next(iter(processes(module, 4).train_dataloader()))[0]) == 4


def test_fewer_images_than_processes_is_an_error(tmp_path):
    root = write_tree(tmp_path / "pets", train=1)
    data = config(tmp_path, root=str(root), val_fraction=0, image_size=8)
    module = processes(DataModule(data, TrainConfig(batch_size=64), seed=0), 4)
    with pytest.raises(DataError, match=r"pets has 2 training images, fewer than .* 4 x 1"):
        module.train_dataloader()


LARGE = {"batch_size": 4, "crop": "resized", "hflip": True, "randaugment_ops": 2, "mixup": 0.2}


@pytest.fixture
def large(tmp_path):
    root = write_tree(tmp_path / "pets", train=8, test=3, size=(150, 120), suffix=".jpg")
    return config(tmp_path, root=str(root), image_size=112, val_fraction=0.25, workers=0)


def test_large_images_are_decoded_and_cropped_in_every_epoch(large):
    module = DataModule(large, TrainConfig(**LARGE), seed=1)
    module.prepare_data()
    first, second = epoch_of(module, 0), epoch_of(module, 1)
    assert [batch.shape for batch in first] == [(4, 3, 112, 112)] * 3
    assert not same(first, second)
    assert same(first, epoch_of(module, 0))


def test_large_images_are_cropped_elsewhere_in_every_epoch(large):
    module = DataModule(large, TrainConfig(batch_size=4, crop="resized"), seed=1)
    crops = []
    for epoch in range(2):
        module.set_epoch(epoch)
        crops.append({image.numpy().tobytes() for x, _ in module.train_dataloader() for image in x})
    assert len(crops[0]) == len(crops[1]) == 12
    assert not crops[0] & crops[1]


@pytest.mark.slow
def test_large_images_do_not_depend_on_the_number_of_workers(large):
    here = DataModule(large, TrainConfig(**LARGE), seed=1)
    workers = large.model_copy(update={"workers": 2})
    there = DataModule(workers, TrainConfig(**LARGE), seed=1)
    for epoch in (0, 1):
        assert same(epoch_of(here, epoch), epoch_of(there, epoch))


def test_large_images_leave_the_global_generators_alone(large):
    module = DataModule(large, TrainConfig(**LARGE), seed=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    epoch_of(module, 0)
    assert torch.equal(torch.rand(3), expected)


def test_large_images_are_evaluated_at_their_centre(large):
    """Resized to 112 / 0.875 = 128 on the shorter side, and the centre of it."""
    module = DataModule(large, TrainConfig(**LARGE), seed=1)
    images, labels = next(iter(module.test_dataloader()))
    assert labels.tolist() == [0, 0, 0]
    source = module.source.test.read(0)
    assert source.shape == (120, 150, 3)
    import PIL.Image

    resized = PIL.Image.fromarray(source).resize((160, 128), PIL.Image.Resampling.BICUBIC)
    centre = np.asarray(resized)[8:120, 24:136].transpose(2, 0, 1)
    np.testing.assert_array_equal(images[0].numpy(), centre)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_large_image_that_does_not_decode_is_named(large, tmp_path, workers):
    (tmp_path / "pets" / "test" / "dog" / "2.jpg").write_bytes(b"hello")
    data = large.model_copy(update={"workers": workers})
    module = DataModule(data, TrainConfig(**LARGE), seed=1)
    with pytest.raises(DataError, match=r"^cannot decode the image .*test/dog/2.jpg: [^\n]*$"):
        list(module.test_dataloader())


def test_the_fast_path_crops_and_resizes_in_batches(tmp_path):
    """`crop: resized` on small images happens on the device."""
    module = DataModule(config(tmp_path, "digits"), TrainConfig(crop="resized"), seed=0)
    batch = next(iter(module.train_dataloader()))
    assert not torch.equal(
        module.transform(batch, train=True)[0], module.transform(batch, train=False)[0]
    )


def test_noise_images_round_trip_through_the_loader(tmp_path):
    """What a loader yields are the pixels of the files."""
    root = write_tree(tmp_path / "pets", train=6, size=(8, 8))
    data = config(tmp_path, root=str(root), image_size=8)
    images, labels = next(iter(DataModule(data, TrainConfig(), seed=0).test_dataloader()))
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        expected = np.asarray(random_image(13 + number, (8, 8))).transpose(2, 0, 1)
        np.testing.assert_array_equal(image.numpy(), expected)
        assert label == number // 3
