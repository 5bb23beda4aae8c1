"""Hard attention: samples, the gradient that is put at the weights, the baseline (section 4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyexp.activations import ActivationSpec
from noisyexp.tasks.captioning.cost import caption_nll, inject, training_cost, word_costs
from noisyexp.tasks.captioning.data import Batch
from noisyexp.tasks.captioning.model import Captioner, Sampler, Shape, Unrolled

SHAPE = Shape(
    words=9, channels=4, embedding=4, hidden=5, attention_layers=1, init_layers=1,
    output_layers=1, prev2out=True, ctx2out=True, selector=True, dropout=False, attention="hard",
)  # fmt: skip
SAMPLING, LEAVING = 0, 1
"""Seeds of torch whose first number is below one half, and above."""


def captioner(attention: str = "hard") -> Captioner:
    torch.manual_seed(5)
    model = Captioner(replace(SHAPE, attention=attention), ActivationSpec("reference"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.7)
    return model


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(2, 9, (3, 4), generator=generator)
    targets[:, -1] = 0
    inputs = torch.cat([torch.full((3, 1), -1), targets[:, :-1]], 1)
    return Batch(torch.rand(3, 6, 4, generator=generator), inputs, targets)


def gradients(model: Captioner, seed: int, penalty: float = 0.0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model.zero_grad()
    training_cost(model, a_batch(), penalty).loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_seeds() -> None:
    for seed, sampling in ((SAMPLING, True), (LEAVING, False)):
        torch.manual_seed(seed)
        assert bool(torch.rand(()) < 0.5) == sampling


def test_samples() -> None:
    """One location a row, drawn as often as its weight says, from the generator that is given."""
    alpha = torch.tensor([0.5, 0.3, 0.2, 0.0]).expand(20_000, 4)
    drawn = Sampler(True, torch.Generator().manual_seed(0))(alpha)
    assert torch.equal(drawn.sum(1), torch.ones(20_000)) and set(drawn.unique().tolist()) == {0, 1}
    assert drawn.mean(0).tolist() == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.015)
    again = Sampler(True, torch.Generator().manual_seed(0))(alpha)
    assert torch.equal(drawn, again)
    assert Sampler(False)(alpha) is alpha


@pytest.mark.parametrize("seed", [SAMPLING, LEAVING])
def test_weights_of_nan_give_a_loss_of_nan(seed: int) -> None:
    """A draw from them would be an error of torch; a loss ends the run as diverged."""
    model = captioner()
    with torch.no_grad():
        model.attention.v.weight[0, 0] = torch.nan
    torch.manual_seed(seed)
    assert bool(training_cost(model, a_batch(), 0.0).loss.isnan())
    found = caption_nll(model.eval(), a_batch(), torch.Generator().manual_seed(seed))
    assert bool(found.isnan().all())


def test_the_gradient_at_the_weights_by_hand() -> None:
    """(R_b - baseline) / 10 * s / alpha + 0.002 (ln alpha + 1), with R_b the mean over steps."""
    alpha = torch.tensor([[[0.2, 0.8], [0.6, 0.4]]], requires_grad=True)
    used = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    costs = torch.tensor([[3.0, 5.0]])
    zero = inject(Unrolled(torch.zeros(()), alpha, used), costs, torch.tensor(1.5))
    assert float(zero.detach()) == 0.0
    zero.backward()  # type: ignore[no-untyped-call]
    advantage = (4.0 - 1.5) / 10
    a, s = np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    assert alpha.grad is not None
    np.testing.assert_allclose(
        alpha.grad[0].numpy(), advantage * s / a + 0.002 * (np.log(a) + 1), rtol=1e-5
    )


def test_a_sampled_batch() -> None:
    """All that reaches the attention is that gradient: nothing of the cost, nothing of penalty."""
    model, batch = captioner(), a_batch()
    with torch.no_grad():
        model.get_buffer("baseline").fill_(0.7)
    found = gradients(model, SAMPLING)
    torch.manual_seed(SAMPLING)
    torch.rand(())
    out = model(batch.annotations, batch.inputs, sampler=Sampler(True))
    assert out.used.amax(-1).eq(1).all()
    total, costs, _ = word_costs(model, out.readout, batch.targets)
    weights = [model.attention.v.weight, model.attention.query.weight, model.keys[0].weight]
    through_cost = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
    assert through_cost == (None, None, None)
    alpha = out.alpha.detach()
    wanted = (costs.mean(1).view(3, 1, 1) - 0.7) / 10 * out.used / alpha
    wanted = wanted + 0.002 * (alpha.log() + 1)
    expected = torch.autograd.grad((out.alpha * wanted).sum(), weights[0])
    torch.testing.assert_close(found["attention.v.weight"], expected[0], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        model.get_buffer("baseline").fill_(0.7)
    penalised = gradients(model, SAMPLING, penalty=5.0)
    assert all(torch.equal(value, penalised[name]) for name, value in found.items())


def test_a_batch_that_is_left_alone() -> None:
    """Soft attention's gradient and that of the entropy: s / alpha is 1 everywhere then."""
    hard, soft, batch = captioner(), captioner("soft"), a_batch()
    found, expected = gradients(hard, LEAVING), gradients(soft, LEAVING)
    out = soft(batch.annotations, batch.inputs)
    entropy = 0.002 * (out.alpha * (out.alpha.detach().log() + 1)).sum()
    weight = soft.attention.v.weight
    (more,) = torch.autograd.grad(entropy, weight)
    torch.testing.assert_close(
        found["attention.v.weight"], expected["attention.v.weight"] + more, rtol=1e-3, atol=1e-5
    )


def test_the_baseline_is_a_running_mean() -> None:
    model, batch = captioner(), a_batch()
    expected = 0.0
    for seed in (SAMPLING, LEAVING, SAMPLING):
        torch.manual_seed(seed)
        cost = training_cost(model, batch, 0.0)
        expected = 0.9 * expected + 0.1 * float(cost.nll.mean()) / 4
        assert float(model.get_buffer("baseline")) == pytest.approx(expected, rel=1e-5)
    assert "baseline" in model.state_dict()


def test_evaluation_samples_the_same_every_time() -> None:
    model, batch = captioner().eval(), a_batch()
    found = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(100 + len(found))  # torch's own generator has no say
        found.append(caption_nll(model, batch, torch.Generator().manual_seed(seed)))
    assert torch.equal(found[0], found[1])
    assert any(not torch.equal(found[0], other) for other in found[2:])
