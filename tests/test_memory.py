"""Peak memory of a block, against allocations of known size, in a process of its own."""

import json
import subprocess
import sys

SCRIPT = """
import json, torch
from interp.forward.budget import peak_memory
with peak_memory(torch.device("cpu")) as peak:
    none = peak()
    held = torch.ones(50_000_000)
    one = peak()
    del held
    freed = peak()
print(json.dumps([none, one, freed]))
"""


def test_the_peak_is_what_was_held_at_once():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    none, one, freed = json.loads(done.stdout)
    assert none < 0.05
    assert 0.18 < one < 0.3  # 50 million floats are 0.2 GB
    assert freed >= one
