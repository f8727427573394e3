"""Data, splits, forget sets and augmentation."""

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from nabla_tau.auditing.measures import FEWEST_SAMPLES
from nabla_tau.bench import data, files
from nabla_tau.bench.tasks import TASKS, forget_requests, split_rows
from nabla_tau.bench.training import PADDING, augmented, trained


@pytest.fixture(scope="module")
def pool():
    return data.noisy_digits()


def test_splits_are_disjoint_and_follow_the_seed(pool):
    recipe = TASKS["noisy_digits"].recipes["quick"]
    first, again, other = (split_rows(pool, recipe, seed) for seed in (0, 0, 1))
    together = np.concatenate([first.train, first.validation, first.test])
    assert len(np.unique(together)) == len(together) == recipe.train + recipe.validation + recipe.test
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)


def test_rows_held_out_by_the_data_set_are_never_trained_on(pool):
    held_out = data.Pool(pool.rows, trainable=800)
    split = split_rows(held_out, TASKS["noisy_digits"].recipes["quick"], seed=3)
    assert split.train.max() < 800 <= min(split.validation.min(), split.test.min())


@pytest.mark.parametrize("name", ["random-0.03", "sequence-0.15", "class"])
def test_forget_sets_are_training_rows_asked_for_once(pool, name):
    train = np.arange(0, 1600, 2)
    parts = forget_requests(name, pool, train, seed=4)
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together) > 0
    assert np.isin(together, train).all()
    if name == "class":
        assert np.array_equal(together, train[pool.rows[1][train] == pool.rows[1][together[0]]])
    else:
        assert len(together) == round(float(name.partition("-")[2]) * len(train))


def test_groups_too_small_to_be_audited_are_not_drawn(pool):
    labels = np.repeat([0, 1, 2], [FEWEST_SAMPLES, FEWEST_SAMPLES - 1, 5])
    small = data.Pool(pool.rows, groups={"class": np.concatenate([labels, np.full(1800 - len(labels), -1)])})
    for seed in range(20):
        assert np.array_equal(forget_requests("class", small, np.arange(1500), seed)[0], np.arange(FEWEST_SAMPLES))
    with pytest.raises(ValueError, match=f"a class of {FEWEST_SAMPLES} rows or more, got at most 19"):
        forget_requests("class", small, np.arange(1, 1500), seed=0)


def test_a_task_without_the_group_names_what_it_has(pool):
    with pytest.raises(ValueError, match=r"random-FRACTION, sequence-FRACTION, class, with .* got 'group'"):
        forget_requests("group", pool, np.arange(10), seed=0)


def test_damaged_data_is_refused_by_name(tmp_path):
    (tmp_path / "location30").mkdir()
    (tmp_path / "location30" / "data.parquet").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"data.parquet to have the checksum f125.*docs/benchmark.md"):
        data.location30(tmp_path)


def test_the_authors_own_files_are_read_where_there_are_no_others(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (600, 3, 32, 32), dtype=np.uint8)
    labels = np.repeat([0, 1], 300).tolist()
    folder, checksums = tmp_path / "cifar-10-batches-py", {}
    folder.mkdir()
    for place, name in enumerate(files.BATCHES["cifar10"]):
        part = slice(100 * place, 100 * place + 100)
        content = pickle.dumps({"data": images[part].reshape(100, -1), "labels": labels[part]})
        (tmp_path / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    with pytest.raises(ValueError, match="data_batch_1 to have the checksum c99c"):
        data.cifar10(tmp_path)  # no pickle of unknown content is opened
    monkeypatch.setitem(files.BATCHES, "cifar10", checksums)
    pool = data.cifar10(tmp_path)
    assert torch.equal(pool.rows[0], torch.tensor(images))
    assert pool.rows[1].tolist() == labels
    assert pool.trainable == 500


@pytest.mark.parametrize(("read", "rows"), [(data.location30, 5010), (data.spoken_digits, 3000)])
def test_real_data(data_folder, read, rows):
    pool = read(data_folder)
    assert len(pool.rows[0]) == len(pool.rows[1]) == rows
    assert all(len(groups) == rows for groups in pool.groups.values())


def test_augmentation_is_a_crop_of_the_padded_or_flipped_image():
    images = torch.randint(1, 256, (12, 3, 8, 8), dtype=torch.uint8)
    for image, found in zip(images, augmented(images), strict=True):
        padded = torch.nn.functional.pad(image, (PADDING,) * 4)
        places = range(2 * PADDING + 1)
        crops = [padded[:, top : top + 8, left : left + 8] for top in places for left in places]
        assert any(torch.equal(found, crop) or torch.equal(found, crop.flip(2)) for crop in crops)


def test_training_is_the_same_again_and_leaves_the_random_state(pool):
    task, rows = TASKS["noisy_digits"], tuple(column[:64] for column in pool.rows)
    state = torch.get_rng_state()
    models = [trained(task, task.recipes["quick"], rows, seed, torch.device("cpu")) for seed in (5, 5, 6)]
    weights = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("rows", "batches"), [(150, [64, 64, 22]), (136, [64, 64, 8]), (135, [64, 64]), (65, [64]), (5, [5]), (1, [])]
)
def test_a_pass_does_not_end_on_a_batch_of_a_few_rows(pool, rows, batches):
    task, seen = TASKS["noisy_digits"], []
    counting = replace(task, loss=lambda model, batch: (seen.append(len(batch[1])), task.loss(model, batch))[1])
    images, targets = pool.rows
    recipe = replace(task.recipes["quick"], epochs=2, batch_size=64)
    trained(counting, recipe, (images[:rows], targets[:rows]), seed=0, device=torch.device("cpu"))
    assert seen == 2 * batches
