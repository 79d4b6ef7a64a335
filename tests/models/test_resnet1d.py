"""The encoders of two open PPG models: parity with PyTorch on random weights read from its file, and files of other models."""

import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.models.resnet1d import checked, papagei, pulse_ppg
from accdistill_jax.storage.torch_file import read_torch_file, state_dict

torch = pytest.importorskip("torch")

from tests.models.torch_resnet1d import random_reference  # noqa: E402


def state_of(model, tmp_path) -> dict[str, np.ndarray]:
    torch.save({"net": model.state_dict(), "epoch": 1}, tmp_path / "m.pt")
    return state_dict(read_torch_file(str(tmp_path / "m.pt")), path="m.pt")


@pytest.mark.parametrize(
    ("convert", "sizes", "samples"),
    [
        pytest.param(papagei, (32, 3, 18, 512), 1250, marks=pytest.mark.slow),  # as published
        (papagei, (4, 5, 3, 7), 33),
        pytest.param(pulse_ppg, (128, 11, 12, 0), 3000, marks=pytest.mark.slow),  # as published, a minute
        (pulse_ppg, (8, 11, 12, 0), 301),
        (pulse_ppg, (3, 4, 6, 0), 50),
    ],
)
def test_parity_with_pytorch(tmp_path, convert, sizes, samples):
    model = random_reference(*sizes)
    module, params = convert(state_of(model, tmp_path))
    x = np.random.default_rng(0).normal(1.0, 2.0, (2, samples, 1)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x.transpose(0, 2, 1))).numpy()
    found = np.asarray(module.apply({"params": checked(module, params, samples=samples)}, x))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_files_of_other_models_are_a_line(tmp_path):
    state = state_of(random_reference(4, 3, 3, 5), tmp_path)
    without = {name: value for name, value in state.items() if name != "dense.weight"}
    with pytest.raises(UserError, match="it has no dense.weight; it belongs to another model"):
        papagei(without)
    with pytest.raises(UserError, match="it has a projector, so it is no PaPaGei-S"):
        papagei(state | {"projector.0.weight": np.ones(2)})
    with pytest.raises(UserError, match="it has no first_block_conv.conv.weight"):
        pulse_ppg({"linear.weight": np.ones(2)})
    gap = {name: value for name, value in state.items() if not name.startswith("basicblock_list.1")}
    with pytest.raises(UserError, match="it has not the layers of a ResNet1D"):
        pulse_ppg(gap)
    narrow = state | {"dense.bias": np.ones(4, np.float32)}
    with pytest.raises(UserError, match=r"dense/bias is \[4\], expected finite values \[5\]"):
        checked(*papagei(narrow), samples=33)
