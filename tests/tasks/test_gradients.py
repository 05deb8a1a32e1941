"""Sending gradients in bf16: when it is possible, and what is said if not; values: integration/test_two_ranks.py."""

import pytest
import torch
import torch.distributed as dist
from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.tasks._parallel import send_gradients_in_bf16


@pytest.fixture()
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


class Sends(DistributedDataParallel):
    """Without the check that there is NCCL; remembers the hooks."""

    def _check_comm_hook(self, hook):
        self.hooks = [*getattr(self, "hooks", []), hook.__name__]


def test_is_registered_once_whatever_is_around_it(group):
    wrapper = Sends(nn.Linear(2, 2))
    model = ModuleProxyWrapper(wrapper)
    for _ in range(2):
        send_gradients_in_bf16(model)
        model(torch.tensor([[1.0, 1 + 2**-10]])).sum().backward()
    assert wrapper.hooks == ["bf16_compress_hook"]
    # twice 1, rounded to bf16 on its way
    assert wrapper.module.weight.grad.tolist() == [[2, 2], [2, 2]]


def test_one_process_sends_nothing():
    send_gradients_in_bf16(nn.Linear(2, 2))


def test_another_backend_is_refused_in_one_line(group, monkeypatch):
    model = ModuleProxyWrapper(LegacyDistributedDataParallel(nn.Linear(2, 2), group))
    send_gradients_in_bf16(model)  # alone
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    with pytest.raises(UserError, match="^task.bf16_gradients needs .*ddp_backend=pytorch_ddp: [^\n]*$"):
        send_gradients_in_bf16(model)


def test_a_second_hook_is_refused_in_one_line(group):
    wrapper = Sends(nn.Linear(2, 2))
    wrapper.register_comm_hook(None, lambda state, bucket: None)
    with pytest.raises(UserError, match="^task.bf16_gradients: [^\n]*; set bf16_gradients=false$"):
        send_gradients_in_bf16(wrapper)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch refuses only where it has no NCCL")
def test_torch_without_nccl_is_refused_in_one_line(group):
    with pytest.raises(UserError, match="^task.bf16_gradients: .*NCCL[^\n]*; set bf16_gradients=false$"):
        send_gradients_in_bf16(DistributedDataParallel(nn.Linear(2, 2)))
