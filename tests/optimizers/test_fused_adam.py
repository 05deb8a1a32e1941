"""`fused_adam` against fairseq's own `adam`, by its class, and through fairseq's wrappers for bfloat16."""

import pytest
import torch
from fairseq import optim
from fairseq.optim.adam import Adam
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_signals_ext.optimizers import fused_adam
from fairseq_signals_ext.optimizers.fused_adam import FusedAdam

SHAPES = [(), (1,), (7,), (33, 65), (4, 3, 5), (0, 3)]
LARGE_EPS = 1e-2


def made_up_parameters(shapes=SHAPES, seed=0, dtype=torch.float32, transposed=False):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [nn.Parameter(value.t() if transposed and value.dim() == 2 else value) for value in values]


def copies(parameters):
    return [nn.Parameter(parameter.detach().clone()) for parameter in parameters]


def give_gradients(several, seed, missing=0.0, size=0.01, transposed=False):
    """The same random gradients for each list of parameters in `several`; some have none."""
    generator = torch.Generator().manual_seed(seed)
    for same in zip(*several):
        gradient = torch.randn(same[0].shape, generator=generator, dtype=same[0].dtype) * size
        if transposed and gradient.dim() == 2:
            gradient = gradient.t().contiguous().t()
        is_missing = torch.rand((), generator=generator) < missing
        for parameter in same:
            parameter.grad = None if is_missing else gradient.clone()


def two_groups(parameters, eps, weight_decay=0.1):
    """Arguments of an optimizer: other settings for the second half."""
    half = len(parameters) // 2
    second = {"params": parameters[half:], "weight_decay": 0.0, "betas": (0.8, 0.95), "lr": 3e-3}
    return {
        "params": [{"params": parameters[:half]}, second],
        "betas": (0.9, 0.98),
        "lr": 1e-2,
        "eps": eps,
        "weight_decay": weight_decay,
    }


def train(optimizers, several, steps, missing=0.2, first=0, **kwargs):
    for step in range(first, first + steps):
        give_gradients(several, 1000 + step, missing, **kwargs)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + step % 7)
            optimizer.step()


def largest(values):
    return float(values.abs().max()) if values.numel() else 0.0


def largest_difference(found, expected):
    """Largest difference of any value, relative to the largest value of its parameter."""
    pairs = [(one.detach(), other.detach()) for one, other in zip(found, expected) if other.numel()]
    return max(largest(one - other) / largest(other) for one, other in pairs)


def assert_same_state(found, expected, tolerance):
    """Two state dicts: same keys, kinds and numbers of updates; same averages up to `tolerance` of the largest."""
    assert found.keys() == expected.keys()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for key, state in expected["state"].items():
        other = found["state"][key]
        assert list(other) == list(state)
        assert type(other["step"]) is type(state["step"]) is int
        assert other["step"] == state["step"]
        for name in ("exp_avg", "exp_avg_sq"):
            assert other[name].dtype == state[name].dtype
            torch.testing.assert_close(other[name], state[name], rtol=0, atol=tolerance * largest(state[name]))


@pytest.mark.parametrize("eps", [1e-8, 1e-6, LARGE_EPS, 1.0])
def test_same_values_as_fairseq(eps):
    expected = made_up_parameters()
    found = copies(expected)
    theirs, ours = Adam(**two_groups(expected, eps)), FusedAdam(**two_groups(found, eps))
    train([theirs, ours], [expected, found], 40)
    steps = [state["step"] for state in theirs.state.values()]
    assert len(set(steps)) > 2, "parameters must differ in their number of updates"
    assert largest_difference(found, expected) < 1e-6
    assert_same_state(ours.state_dict(), theirs.state_dict(), 2e-6)


def test_adamw_of_torch_has_other_values():
    """The comparison above sees a wrong eps: torch's own optimizer, which adds it elsewhere, is far outside."""
    expected = made_up_parameters()
    found = copies(expected)
    theirs = Adam(**two_groups(expected, LARGE_EPS))
    plain = torch.optim.AdamW(**two_groups(found, LARGE_EPS), fused=True)
    train([theirs, plain], [expected, found], 40)
    assert largest_difference(found, expected) > 1e-3


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 0.9999),
    eps=st.floats(1e-8, 10),
    lr=st.floats(0, 1),
    weight_decay=st.sampled_from([0.0, 0.01, 0.5]),
    size=st.sampled_from([1e-6, 1e-2, 1e2]),
    transposed=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**31),
)
def test_same_values_for_any_settings(shapes, beta1, beta2, eps, lr, weight_decay, size, transposed, seed):
    """In float64, where rounding hides nothing; parameters and gradients may lie in memory in another order."""
    expected = made_up_parameters(shapes, seed, torch.float64, transposed[0])
    found = copies(expected)
    kwargs = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay}
    theirs, ours = Adam(expected, **kwargs), FusedAdam(found, **kwargs)
    for step in range(6):
        give_gradients([expected, found], seed + step, 0.3, size, transposed[1])
        theirs.step()
        ours.step()
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parameters_transposed", [False, True])
@pytest.mark.parametrize("gradients_transposed", [False, True])
def test_any_order_in_memory(parameters_transposed, gradients_transposed):
    expected = made_up_parameters([(4, 3), (5, 6)], transposed=parameters_transposed)
    found = copies(expected)
    assert found[0].is_contiguous() != parameters_transposed
    theirs, ours = Adam(expected), FusedAdam(found)
    for step in range(3):
        give_gradients([expected, found], step, transposed=gradients_transposed)
        assert found[0].grad.is_contiguous() != gradients_transposed
        theirs.step()
        ours.step()
    assert largest_difference(found, expected) < 1e-6


def test_a_parameter_that_is_part_of_another_tensor():
    whole = torch.zeros(4, 6)
    expected, found = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(whole[:, ::2])
    give_gradients([[expected], [found]], 0)
    Adam([expected]).step()
    FusedAdam([found]).step()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert not whole[:, 1::2].any()


@pytest.mark.parametrize("classes", [(Adam, FusedAdam), (FusedAdam, Adam)], ids=["adam-fused", "fused-adam"])
def test_state_goes_both_ways(classes):
    expected = made_up_parameters()
    found = copies(expected)
    unbroken = Adam(**two_groups(expected, 1e-6))
    first = classes[0](**two_groups(found, 1e-6))
    train([unbroken, first], [expected, found], 10)
    second = classes[1](**two_groups(found, 1e-3, weight_decay=0.7))
    second.load_state_dict(first.state_dict())
    train([unbroken, second], [expected, found], 10, first=10)
    assert largest_difference(found, expected) < 1e-6
    assert_same_state(second.state_dict(), unbroken.state_dict(), 2e-6)


def test_closure():
    (parameter,) = made_up_parameters([(3,)])
    optimizer = FusedAdam([parameter])

    def closure():
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    before = parameter.detach().clone()
    assert optimizer.step(closure) == (before**2).sum()
    assert not torch.equal(parameter, before)


def config(name="fused_adam", common=None, **options):
    optimizer = {"_name": name, "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.01, "lr": [0.01]}
    optimizer.update({"tpu": False}, **options)
    sections = {"optimizer": optimizer, "common": {"bf16": True, "fp16_scale_window": 1, **(common or {})}}
    return OmegaConf.create(sections)


def build(parameters, **options):
    return optim.build_optimizer(config(**options).optimizer, parameters)


@pytest.mark.parametrize("max_norm", [0, 0.0, 1e-3, 1, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_clipping_as_fairseq(max_norm, seed):
    parameters = [made_up_parameters(), made_up_parameters()]
    give_gradients(parameters, seed, missing=0.4, size=1.0)
    norms = [build(parameters[0]).clip_grad_norm(max_norm), build(parameters[1], name="adam").clip_grad_norm(max_norm)]
    torch.testing.assert_close(*norms, rtol=1e-6, atol=0)
    for found, expected in zip(*parameters):
        assert (found.grad is None) == (expected.grad is None)
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", ["no gradient", "one gradient", "expert", "aggregated"])
def test_clipping_special_cases_as_fairseq(case):
    parameters = [made_up_parameters(), made_up_parameters()]
    give_gradients(parameters, 0, missing=float(case == "no gradient"), size=1.0)
    for same in parameters:
        if case == "one gradient":
            for parameter in same[1:]:
                parameter.grad = None
        if case == "expert":
            same[2].expert = True
    aggregate = (lambda norm: norm * 3) if case == "aggregated" else None
    found, expected = (build(same, name=name) for same, name in zip(parameters, ["fused_adam", "adam"]))
    torch.testing.assert_close(found.clip_grad_norm(0.5, aggregate), expected.clip_grad_norm(0.5, aggregate))
    for one, other in zip(*parameters):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [0.25, torch.tensor(0.3)])
def test_multiplying_gradients(factor):
    parameters = made_up_parameters()
    give_gradients([parameters], 0, missing=0.3)
    before = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
    build(parameters).multiply_grads(factor)
    for parameter, gradient in zip(parameters, before):
        assert parameter.grad is None if gradient is None else torch.equal(parameter.grad, gradient * factor)


class NothingIsRead(TorchDispatchMode):
    """Fails if a tensor's value becomes a number of Python, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value is read"
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    with pytest.raises(AssertionError, match="a value is read"), NothingIsRead():
        float(torch.ones(()))
    parameters = made_up_parameters()
    optimizer = build(parameters)
    for step in range(3):
        give_gradients([parameters], step, missing=0.3)
        with NothingIsRead():
            optimizer.multiply_grads(torch.tensor(0.5))
            optimizer.clip_grad_norm(0.1)
            optimizer.step()


def test_bfloat16_model_with_float32_copies():
    models = [nn.Linear(9, 5).bfloat16() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    names = ["adam", "fused_adam"]
    theirs, ours = (
        optim.FP16Optimizer.build_optimizer(config(name), list(model.parameters()))
        for name, model in zip(names, models)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        # the same for both: in gradients of their own weights, a difference in the last bit of fp32 becomes one of bf16
        gradients = [torch.randn(weight.shape, generator=generator).bfloat16() for weight in models[0].parameters()]
        for model, optimizer in zip(models, (theirs, ours)):
            optimizer.zero_grad()
            pairs = zip(model.parameters(), gradients)
            optimizer.backward(sum((weight * gradient).sum() for weight, gradient in pairs))
            optimizer.multiply_grads(0.5)
            optimizer.clip_grad_norm(0.1)
            optimizer.step()
    assert all(parameter.dtype == torch.float32 for parameter in ours.fp32_params)
    assert largest_difference(ours.fp32_params, theirs.fp32_params) < 1e-6
    assert ours.state_dict()["state"][0]["step"] == 20


def test_fairseq_refuses_it_for_memory_efficient_training():
    with pytest.raises(ValueError, match="Unsupported optimizer"):
        optim.MemoryEfficientFP16Optimizer.build_optimizer(config(), made_up_parameters())


def test_parameters_in_16_bits_are_refused():
    with pytest.raises(SystemExit, match="error: optimizer fused_adam: parameters in 16 bits.*memory_efficient_bf16"):
        build(made_up_parameters(dtype=torch.bfloat16))


def test_a_torch_without_the_kernel(monkeypatch):
    def adamw(*args, **kwargs):
        raise NotImplementedError("Could not run 'aten::_fused_adamw_'")

    monkeypatch.setattr(fused_adam, "adamw", adamw)
    with pytest.raises(SystemExit, match="no fused kernel for device cpu; use optimizer._name=adam"):
        build(made_up_parameters())


@pytest.mark.parametrize("betas", ["(0.8, 0.9)", "[0.8, 0.9]", "0.8, 0.9", (0.8, 0.9), [0.8, 0.9]])
def test_options(betas):
    optimizer = build(made_up_parameters(), adam_betas=betas, adam_eps=1e-5, weight_decay=0.2, lr=[0.3, 0.1])
    assert optimizer.optimizer_config == {"lr": 0.3, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.2}
    for name, value in optimizer.optimizer_config.items():
        assert optimizer.param_groups[0][name] == value


def test_defaults_are_those_of_adam(registered):
    options = {"_name": "fused_adam", "lr": [0.1], "tpu": False}
    found, expected = (
        optim.build_optimizer(OmegaConf.create({**options, "_name": name}), made_up_parameters())
        for name in ("fused_adam", "adam")
    )
    expected_config = {**expected.optimizer_config, "betas": tuple(expected.optimizer_config["betas"])}
    assert found.optimizer_config == expected_config
    assert type(found).__name__ == type(expected).__name__


@pytest.mark.parametrize(
    "betas",
    ["__import__('os').getcwd()", "(0.9,", "(0.9, 0.98, 0.99)", "0.9", "(0.9, 1)", [-0.1, 0.9], 0.9, None, "\n"],
)
def test_betas_that_are_none(betas):
    with pytest.raises(SystemExit) as error:
        build(made_up_parameters(), adam_betas=betas)
    message = str(error.value)
    assert message.startswith("error: optimizer.adam_betas: ") and "(0.9, 0.98)" in message and "\n" not in message


@pytest.mark.parametrize("option", ["use_old_adam", "fp16_adam_stats", "tpu"])
def test_options_of_other_kernels(option):
    with pytest.raises(SystemExit, match=f"error: optimizer.{option}: .*optimizer._name=adam"):
        build(made_up_parameters(), **{option: True})
