"""Equations and statements of the paper as executable checks."""

from __future__ import annotations

import pytest
import torch

import sgr_kernels as sk


@pytest.mark.parametrize(("classes", "features"), [(2, 1), (2, 5), (10, 9), (10, 10), (10, 64), (100, 128)])
def test_equation_7_equiangular_tight_frame(classes, features):
    frame = sk.etf_classifier(classes, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(frame @ frame.T, expected)


def test_etf_classifier_is_fixed_and_seeded():
    make = lambda: sk.ETFClassifier(4, 6, generator=torch.Generator().manual_seed(3))  # noqa: E731
    classifier = make()
    assert not list(classifier.parameters())
    assert torch.equal(classifier.weight, make().weight)
    assert not torch.equal(classifier.weight, sk.etf_classifier(4, 6))
    x = torch.randn(5, 6)
    torch.testing.assert_close(classifier(x), x @ classifier.weight.T)


def test_equation_26_gradient_on_an_etf_head():
    """dL/dx = -(1 - p_y) m_y + sum over the other classes of p_k m_k."""
    frame = sk.etf_classifier(5, 7, dtype=torch.float64)
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    label = 2
    logits = frame @ x
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits[None], torch.tensor([label])), x)
    p = logits.detach().softmax(0)
    others = [k for k in range(5) if k != label]
    expected = -(1 - p[label]) * frame[label] + sum(p[k] * frame[k] for k in others)
    torch.testing.assert_close(grad, expected)


def test_lemma_c2_a_step_along_the_gradient_lowers_the_loss():
    frame = sk.etf_classifier(6, 8, dtype=torch.float64)
    x = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    y = torch.randint(6, (50,))
    loss = torch.nn.functional.cross_entropy(x @ frame.T, y, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), x)
    for eta in (0.01, 1.0, 100.0):  # the lemma puts no bound on the step
        moved = torch.nn.functional.cross_entropy((x - eta * grad) @ frame.T, y, reduction="none")
        assert (moved < loss).all()


def test_equation_30_sgr_gradient_of_a_linear_layer():
    """With the upstream gradient frozen, d/dW of 1/2 |delta_1 - W^T delta_2|^2 is -delta_2 (delta_1 - W^T delta_2)^T.

    Half of "sum" without normalisation is the paper's 1/2 |.|^2. The printed Eq. 30 lacks the minus sign.
    """
    delta_1, delta_2 = torch.randn(4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    loss = 0.5 * sk.sgr_loss((delta_2 @ weight)[None], delta_1[None], normalize=False, reduction="sum")
    (grad,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(grad, -torch.outer(delta_2, delta_1 - delta_2 @ weight.detach()))


def test_proposition_3_4_no_residual_means_the_global_gradient():
    """Where dL_2/dx_1 = dL_1/dx_1, the local gradient of the first module is the global one (unnormalised residual)."""
    theta = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    x0 = torch.randn(5, 6, dtype=torch.float64)
    x1 = x0 @ theta.T
    y = torch.randint(3, (5,))
    head = sk.etf_classifier(3, 4, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    local = torch.nn.functional.cross_entropy(x1 @ head.T, y)
    # The second module rotates, and its head rotates back: the same loss, hence the same gradient for x_1.
    last = torch.nn.functional.cross_entropy((x1 @ rotation.T) @ (head @ rotation.T).T, y)
    delta_1, delta_2 = (torch.autograd.grad(loss, x1, retain_graph=True)[0] for loss in (local, last))
    assert sk.sgr_loss(delta_2, delta_1, normalize=False, reduction="sum") < 1e-28
    torch.testing.assert_close(*(torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in (local, last)))
    # The normalised residual does not imply it: twice the gradient has the same direction.
    assert sk.sgr_loss(2 * delta_2, delta_1, reduction="sum") < 1e-28


def test_theorem_3_3_bound_on_a_quadratic():
    """L_2 = |theta_1 - theta_2|^2 / 2 + |theta_2|^2 / 2 fulfils the assumptions; every step must obey Eq. 3."""
    hessian = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    mu, smooth = 2 * float(eigenvalues[0]), float(eigenvalues[1])  # |grad|^2 >= 2 lambda_min (L - L*)
    l1, l2 = 1.0, 2.0
    eta_1 = min(((l1**2 + 8 * smooth**2) ** 0.5 - l1) / (4 * smooth**2), 2 / mu, 1 / (2 * l2))
    eta_2 = 1 / l2
    alpha = eta_1 / 2
    loss = lambda t: 0.5 * t @ hessian @ t  # noqa: E731
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        theta = 3 * torch.randn(2, generator=generator, dtype=torch.float64)
        for _ in range(10):
            before = loss(theta)
            gradient_1 = (hessian @ theta)[0]
            local = gradient_1 + torch.randn((), generator=generator, dtype=torch.float64)  # some other local gradient
            epsilon = gradient_1 - local
            theta = torch.stack([theta[0] - eta_1 * local, theta[1]])
            theta = torch.stack([theta[0], theta[1] - eta_2 * (hessian @ theta)[1]])
            assert loss(theta) <= (1 - alpha * mu) * before + alpha * epsilon**2 + 1e-12
