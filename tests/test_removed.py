"""A class that is removed altogether is pushed to what a class costs that the model never met."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nabla_tau import methods, split, unlearn
from nabla_tau.losses import binary, classification, multi_label
from nabla_tau.outcome import measure
from nabla_tau.removed import Removed, removed_labels
from nabla_tau.unlearning import Request
from tests.conftest import clusters, fit

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")

TRAIN, VALIDATION, TEST = clusters(600, 1), clusters(300, 2), clusters(300, 3)
PARTS = split(TRAIN, classes=[2])


@pytest.fixture(scope="module")
def memorised():
    torch.manual_seed(0)
    return fit(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)), *TRAIN)


def of_class(rows, label):
    keep = rows[1] == label
    return rows[0][keep], rows[1][keep]


def cost(model, rows):
    with torch.no_grad():
        return float(functional.cross_entropy(model(rows[0]), rows[1]))


def request(model, method=methods.nabla_tau, **changes):
    sets = {"forget": PARTS.forget, "retain": PARTS.retain, "validation": VALIDATION, **changes}
    return unlearn(model, **sets, method=method, device="cpu", batch_size=64)


def test_a_removed_class_costs_what_a_class_costs_that_was_never_met(memorised):
    retained = tuple(column[TRAIN[1] != 2] for column in TRAIN)
    torch.manual_seed(1)
    retrained = fit(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)), *retained)
    priced, published = (request(memorised, one) for one in (methods.nabla_tau, methods.nabla_tau_published))
    unseen = of_class(TEST, 2)
    expected = cost(retrained, unseen)
    assert priced.settings["removed_labels"] == [2]
    assert priced.reached_target
    assert not priced.settings["damaged"]  # unseen rows of the class cost more, as they should
    assert abs(cost(priced.model, unseen) - expected) < abs(cost(published.model, unseen) - expected)
    assert (priced.model(unseen[0]).argmax(1) != 2).all()
    right = [(model(retained[0]).argmax(1) == retained[1]).float().mean() for model in (priced.model, memorised)]
    assert right[0] >= right[1] - 0.01


def test_what_unseen_data_costs_is_told_beside_the_price(memorised):
    unlearned = request(memorised)
    others = of_class(VALIDATION, 0), of_class(VALIDATION, 1)
    unseen = tuple(torch.cat(columns) for columns in zip(*others, strict=True))
    found = [unlearned.settings[f"unseen_loss_{when}"] for when in ("before", "after")]
    assert found == pytest.approx([cost(memorised, unseen), cost(unlearned.model, unseen)], rel=1e-4)
    assert unlearned.settings["target_loss_of"] == "a label that is new to the model"
    assert f"unseen {found[0]:.4g} -> {found[1]:.4g}, a new label " in str(unlearned)
    assert unlearned.settings["target_loss_after"] >= unlearned.settings["counted_target_loss_after"]


def test_the_target_is_the_price_by_hand(memorised):
    with Request(memorised, PARTS.forget, PARTS.retain, VALIDATION, device="cpu").prepared() as problem:
        found = measure(problem)
    others = VALIDATION[0][VALIDATION[1] != 2]
    assert found.target == pytest.approx(cost(memorised, (others, torch.full((len(others),), 2))), rel=1e-5)
    kept = tuple(column[VALIDATION[1] != 2] for column in VALIDATION)
    assert found.unseen == pytest.approx(cost(memorised, kept), rel=1e-5)


def test_a_part_of_the_rows_counts_for_its_share(memorised):
    rows = torch.cat([torch.nonzero(TRAIN[1] == 2).flatten(), torch.nonzero(TRAIN[1] == 0).flatten()[:50]])
    parts = split(TRAIN, forget=rows.tolist())
    with Request(memorised, parts.forget, parts.retain, VALIDATION, device="cpu").prepared() as problem:
        share, target, unseen = problem.removed.share, problem.target_loss(), problem.unseen_loss()
        price = problem.mean_loss(problem.validation, problem.removed.priced)
    assert share == pytest.approx(len(PARTS.forget) / len(rows))
    assert target == pytest.approx((1 - share) * unseen + share * price)


def test_a_class_that_is_kept_elsewhere_has_no_price(memorised):
    parts = split(TRAIN, fraction=0.2, seed=0)
    assert request(memorised, forget=parts.forget, retain=parts.retain).settings["removed_labels"] == []


def test_without_another_class_to_read_it_from_there_is_no_price(memorised):
    alone = of_class(VALIDATION, 2)
    assert request(memorised, validation=alone).settings["removed_labels"] == []


def test_other_methods_keep_their_target(memorised):
    settings = request(memorised, methods.nabla_tau_published).settings
    assert "removed_labels" not in settings
    assert settings["target_loss_before"] == pytest.approx(cost(memorised, VALIDATION), rel=1e-5)


def test_labels_of_every_kind():
    flags = torch.tensor([[1.0], [0.0]])
    one = Removed(binary, labels=(1,), share=1.0).priced((torch.zeros(2, 1), flags))
    assert one[1].tolist() == [[1.0]]
    columns = {"x": torch.zeros(3, 1), "labels": torch.tensor([0, 1, 4])}
    assert Removed(classification, labels=(3, 4), share=1.0).priced(columns)["labels"].tolist() == [3, 4]
    tags = torch.tensor([[1, 0, 0], [1, 1, 0]])
    found = removed_labels(multi_label, [(torch.zeros(2, 1), tags)], {0, 1}, kept={0, 2}, elsewhere={0, 1, 2})
    assert (found.labels, found.share) == ((1,), 0.5)
    assert found.others((torch.zeros(2, 1), tags))[1].tolist() == [[1, 0, 0]]
    assert found.priced((torch.zeros(2, 1), tags))[1].tolist() == [[1, 1, 0]]
    assert found.others((torch.zeros(1, 1), tags[1:])) is None
