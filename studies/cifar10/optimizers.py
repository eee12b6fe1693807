"""Train the small CNN with five optimizers: a range test each, then the recipe of study.toml between its two rates.

python studies/cifar10/optimizers.py PHOTOS. PHOTOS: a folder, or cifar10, which torchvision downloads. Each optimizer
is a study with one trial, `cifar10-NAME`: all of them start from the same weights and see the same split. In the
write-up, the second optimizer went on with the network that the first had trained.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import autotune

OPTIMIZERS = ("sgd", "rmsprop", "adagrad", "adadelta", "adam")
STUDY = tomllib.loads(Path(__file__).with_name("study.toml").read_text())


def range_test(photos: str, optimizer: str) -> tuple[float, float]:
    """Return the two learning rates that `autotune lr-find` suggests."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "study.toml"
        config.write_text(f'[space]\nbackbone = "small_cnn"\noptimizer = "{optimizer}"\nbatch_size = 32\n')
        command = [sys.executable, "-m", "autotune", "lr-find", photos, "--backbone", "small_cnn", "--config",
                   str(config), "--study", f"lr-find-{optimizer}", "--json"]  # fmt: skip
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found["lr_low"], found["lr_high"]


def trained(photos: str, optimizer: str, low: float, high: float) -> dict[str, Any]:
    """Run a study of the recipe alone, and return its validation score and its evaluation on the test set."""
    (phase,) = STUDY["recipe"]
    recipe = [{**phase, "optimizer": optimizer, "lr_low": low, "lr_high": high}]
    study = autotune.search(photos, 1, study=f"cifar10-{optimizer}", recipe=recipe, backbone=["small_cnn"],
                            flips=STUDY["flips"], final="trial", quiet=True)  # fmt: skip
    return {"validation": study.best.value, **(study.test or {})}


def main() -> None:
    (photos,) = sys.argv[1:]
    print("optimizer  lr_low   lr_high  validation  test, 95 % interval")
    for optimizer in OPTIMIZERS:
        low, high = range_test(photos, optimizer)
        found = trained(photos, optimizer, low, high)
        test, (least, most) = 100 * found["value"], found["value_interval"]
        interval = f"{100 * least:.1f} to {100 * most:.1f}, n = {found['n']}"
        rates = f"{low:8.1e} {high:8.1e}"
        print(f"{optimizer:9} {rates}  {100 * found['validation']:8.1f} %  {test:.1f} % ({interval})", flush=True)


if __name__ == "__main__":
    main()
