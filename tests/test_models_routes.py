"""The routes for the CPU compute what torch's plain operations compute, forward and backward."""

import pytest
import torch
from torch import nn

import ablate
from ablate.models import convolution, mlp
from ablate.models.convolution import Conv2d, _DepthwiseConv, kernel_gradient
from ablate.models.image_tokens import AddConvolved, AddGated, ResizeTokens
from ablate.models.layers import GELU, BatchNorm2d
from ablate.models.mlp import Mlp, _ChunkedMlp
from ablate.models.routes import on_cpu, plain_routes

MICRO = ["coat-lite-micro", "coat-micro", "coatnet-micro", "cvt-micro", "atc-micro"]


def gradients(network, images, dtype):
    """Logits and the gradients of all parameters and of the images."""
    images = images.clone().requires_grad_()
    network.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = network(images)
    logits.float().square().mean().backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
    return {"logits": logits.detach().float(), "images": images.grad, **found}


def error(found, expected):
    """The distance of two dictionaries of tensors, relative to the second, for each name."""
    scale = max(t.norm() for t in expected.values()) * 1e-3
    return {n: float((found[n] - t).norm() / (t.norm() + scale)) for n, t in expected.items()}


@pytest.fixture
def always_chunked(monkeypatch):
    """Feed-forward parts of any size go in chunks of 64 rows."""
    monkeypatch.setattr(mlp, "LARGE_BYTES", -1)
    monkeypatch.setattr(mlp, "CHUNK_BYTES", 1)


@pytest.mark.parametrize("name", MICRO)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_networks_agree_with_the_plain_route(name, training, always_chunked):
    network = ablate.create_model(name, num_classes=10, image_size=32).train(training)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    found = gradients(network, images, torch.float32)
    with plain_routes():
        expected = gradients(network, images, torch.float32)
    assert max(error(found, expected).values()) < 1e-4


@pytest.mark.parametrize("name", ["coat-lite-micro", "coatnet-micro"])
def test_in_bf16_the_routes_err_no_more_than_the_plain_one(name, always_chunked):
    """Both are compared with fp32: the routes round in other places, not in more."""
    network = ablate.create_model(f"{name}@drop_path_rate=0", num_classes=10, image_size=32)
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with plain_routes():
        exact = gradients(network, images, torch.float32)
        plain = error(gradients(network, images, torch.bfloat16), exact)
    found = error(gradients(network, images, torch.bfloat16), exact)
    assert sum(found.values()) < 1.1 * sum(plain.values())


def test_the_routes_are_taken(monkeypatch, always_chunked):
    """A guard of the tests above: a network that took the plain route would agree with it."""
    taken = set()
    routes = {_DepthwiseConv, _ChunkedMlp, AddConvolved, AddGated, ResizeTokens}
    for route in routes:
        apply = route.apply
        monkeypatch.setattr(
            route, "apply", lambda *a, apply=apply, route=route: (taken.add(route), apply(*a))[1]
        )
    for name in ("coat-micro", "coatnet-micro@stride_at=depthwise"):
        network = ablate.create_model(name, num_classes=10, image_size=32)
        gradients(network, torch.randn(2, 3, 32, 32), torch.bfloat16)
    assert taken == routes


def test_gradients_are_those_of_finite_differences():
    """In double precision, where no rounding hides an error."""
    tokens = {"dtype": torch.float64, "requires_grad": True}
    x, q, v = (torch.randn(2, 7, 4, **tokens) for _ in range(3))
    weights = [torch.randn(2, 1, k, k, **tokens) for k in (3, 5)]
    biases = [torch.randn(2, **tokens) for _ in range(2)]
    whole = torch.cat([weights[0]] * 2).detach().requires_grad_()
    bias = torch.randn(4, **tokens)
    check = torch.autograd.gradcheck
    assert check(lambda a: ResizeTokens.apply(a, (2, 3), (4, 2)), (x,))
    assert check(lambda *a: AddConvolved.apply(*a, (2, 3), torch.float64), (x, whole, bias))

    def gated(mixed, q, v, *parameters):
        return AddGated.apply(mixed.clone(), q, v, (2, 3), *parameters)

    assert check(gated, (x, q, v, weights[0], biases[0], weights[1], biases[1]))
    part = Mlp(4, 2, "gelu").double()
    assert check(_ChunkedMlp.apply, (x, *part.parameters()))
    image = torch.randn(2, 4, 5, 5, **tokens)
    geometry = ((2, 2), (1, 1))
    assert check(lambda *a: _DepthwiseConv.apply(*a, geometry), (image, whole, bias))


@pytest.mark.parametrize("unit", [True, False], ids=["with a matrix unit", "without"])
@pytest.mark.parametrize(("channels", "side"), [(12, 16), (48, 8), (49, 8), (12, 7)])
@pytest.mark.parametrize("window", [3, 5, 7])
def test_a_kernels_gradient_is_the_depthwise_one(unit, channels, side, window, monkeypatch):
    """Computed by a dense kernel or not: in bf16, against double precision."""
    monkeypatch.setattr(convolution, "_has_matrix_unit", lambda: unit)
    grad, x = (torch.randn(4, channels, side, side).bfloat16() for _ in range(2))
    weight = torch.randn(channels, 1, window, window, dtype=torch.float64, requires_grad=True)
    halo = (window // 2,) * 2
    out = nn.functional.conv2d(x.double(), weight, padding=halo, groups=channels)
    (expected,) = torch.autograd.grad(out, weight, grad.double())
    found = kernel_gradient(grad, x, weight.detach().float(), halo)
    assert found.dtype == torch.float32
    assert found.shape == weight.shape
    assert (found - expected).norm() < 4e-3 * expected.norm()


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_the_last_chunk_may_be_short(rows, always_chunked):
    part, x = Mlp(8, 3, "gelu"), torch.randn(rows, 1, 8)
    with plain_routes():
        expected = part(x)
    torch.testing.assert_close(part(x), expected)


@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)),
        (Conv2d(6, 6, 5, 1, 2, groups=6), nn.Conv2d(6, 6, 5, 1, 2, groups=6)),
        (BatchNorm2d(6), nn.BatchNorm2d(6)),
        (GELU(), nn.GELU()),
    ],
    ids=["pointwise", "depthwise", "batch norm", "gelu"],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layers_are_torchs_own(layer, plain, layout):
    """Also with their buffers, in both memory formats."""
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 6, 7, 7).contiguous(memory_format=layout)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())
    assert layer(x).is_contiguous(memory_format=layout)


def test_second_derivatives_need_the_plain_route():
    """A sum over the gradient has no gradient on a route of the CPU: it says so."""
    network = ablate.create_model("coat-lite-micro", num_classes=3, image_size=32)
    weight = network.stages[0][0].cpe.proj.weight
    images = torch.randn(1, 3, 32, 32)
    with plain_routes():
        (first,) = torch.autograd.grad(network(images).sum(), weight, create_graph=True)
        assert torch.autograd.grad(first.square().sum(), weight)[0].isfinite().all()
    (first,) = torch.autograd.grad(network(images).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


def test_only_the_cpu_has_routes():
    assert on_cpu(torch.empty(0))
    assert not on_cpu(torch.empty(0, device="meta"))
