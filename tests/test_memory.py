"""Peak memory of a block, against allocations of known size."""

import torch

from interp.memory import peak_memory


def test_the_peak_is_what_was_held_at_once():
    with peak_memory(torch.device("cpu")) as peak:
        assert peak() < 0.1
        held = torch.ones(50_000_000)  # 0.2 GB
        with_one = peak()
        del held
        freed = peak()
    assert 0.18 < with_one < 0.35
    assert freed >= with_one
