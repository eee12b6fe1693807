"""AutoGluon MultiModal. Runs without autotune; see compare.py.

Without a limit: its defaults, at most 20 epochs in batches of 128. With one: batches of 32, because batches of 128 are
one or two steps an epoch here, and the time ends before it has learned anything.
"""

import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import torch
from autogluon.multimodal import MultiModalPredictor
from peer import NETWORK, later_pictures, read_task, timm_network, write_answers

CORES = torch.get_num_threads()
FIXED = 30.0  # processor seconds of the imports and of predicting


def main() -> None:
    task = read_task()
    with tempfile.TemporaryDirectory() as place:
        network = Path(place, "network")
        network.mkdir()
        net = timm_network(task, num_classes=0)
        torch.save(net.state_dict(), network / "pytorch_model.bin")
        stated = {
            "input_size": [3, 224, 224],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
        }
        facts = {"architecture": NETWORK, "num_features": net.num_features, "pretrained_cfg": stated}
        (network / "config.json").write_text(json.dumps(facts))
        pictures = sorted((task.folder / "user").glob("*/*"))
        table = pd.DataFrame({"image": [str(one) for one in pictures], "label": [one.parent.name for one in pictures]})
        predictor = MultiModalPredictor(label="label", path=str(Path(place, "model")), verbosity=1)
        predictor.fit(
            table,
            seed=task.seed,
            time_limit=(task.cpu_seconds - FIXED) / CORES if task.cpu_seconds else None,
            hyperparameters={
                "model.names": ["timm_image"],
                "model.timm_image.checkpoint_name": str(network),
                **({"env.batch_size": 32} if task.cpu_seconds else {}),
                "env.num_gpus": 0,
                "env.num_workers": 0,
                "env.num_workers_inference": 0,
            },
        )
        later = later_pictures(task)
        labels = predictor.predict(pd.DataFrame({"image": [str(one) for one in later]}), as_pandas=False)
        write_answers(task, later, list(labels))
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
