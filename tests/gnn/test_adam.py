import subprocess
import sys

import torch

from gnn.adam import Adam


def test_the_steps_are_those_of_torch():
    start = torch.linspace(-2, 2, 7)
    ours, theirs = start.clone(), start.clone()
    adam, reference = Adam([ours], 0.1), torch.optim.Adam([theirs], lr=0.1)
    for number in range(200):
        adam.step([torch.cos(3 * ours) + ours + 1e-3 * number])
        theirs.grad = torch.cos(3 * theirs) + theirs + 1e-3 * number
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert (ours - start).abs().max() > 0.5


def test_training_does_not_import_the_compiler_of_torch():
    code = """
import sys
from coldstart import ColdStartEngine
from kg.toy import toy_graph
ColdStartEngine.fit(toy_graph(), texts={}, device="cpu")
assert "torch" in sys.modules and "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
