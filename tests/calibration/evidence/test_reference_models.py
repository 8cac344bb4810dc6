"""The models built by hand have the sizes that their papers give."""

import torch

import budjoule as bj
from budjoule.calibration.evidence.reference_models import NeuMF, shufflenet_v2


def test_shufflenet_has_the_parameters_and_work_of_its_paper() -> None:
    model = shufflenet_v2(classes=1000)
    # Ma et al. 2018: 2.3 M parameters with 1000 classes
    assert abs(sum(p.numel() for p in model.parameters()) / 1e6 - 2.28) < 0.05
    work = bj.trace(shufflenet_v2(), torch.empty(2, 3, 32, 32), mode="training")
    assert {op.kind for op in work.ops} >= {"conv", "depthwise", "depthwise_grad"}


def test_shuffle_keeps_what_it_mixes() -> None:
    model = shufflenet_v2().eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 100)


def test_recommender_is_mostly_embeddings_and_scores_each_pair() -> None:
    model = NeuMF(users=30, items=20)
    embeddings = sum(
        p.numel() for name, p in model.named_parameters() if name.endswith("weight") and p.shape[0] in (30, 20)
    )
    assert embeddings == (30 + 20) * (64 + 128)
    ids = torch.tensor([[0, 0], [29, 19], [0, 0]])
    scores = model(ids)
    assert scores.shape == (3,)
    assert scores[0] == scores[2] != scores[1]
