"""fastai's `fine_tune`: one epoch of the head, then all layers. Runs without autotune; see compare.py.

Without a limit: five epochs of all layers. With one: as many as it allows, counted from the time of the first epoch.
"""

import time
from typing import Any

import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from peer import later_pictures, read_task, timm_network, write_answers

EPOCHS, SHARE_HELD_OUT = 5, 0.1


def main() -> None:
    task = read_task()
    start = time.process_time()
    set_seed(task.seed, reproducible=True)
    loaders = ImageDataLoaders.from_folder(
        task.folder / "user", valid_pct=SHARE_HELD_OUT, seed=task.seed, bs=32, num_workers=0, item_tfms=Resize(224),
        batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )  # fmt: skip

    def body(pretrained: bool = True) -> torch.nn.Module:
        return timm_network(task)

    def learner() -> Any:
        return vision_learner(loaders, body, metrics=accuracy, normalize=False, cut=-2, n_out=loaders.c)

    epochs = EPOCHS
    if task.cpu_seconds:
        began = time.process_time()
        trial = learner()
        trial.unfreeze()
        trial.fit_one_cycle(1)
        each = time.process_time() - began
        epochs = max(int((task.cpu_seconds - (time.process_time() - start)) / each) - 1, 1)
    learn = learner()
    learn.fine_tune(epochs)
    later = later_pictures(task)
    logits, _ = learn.get_preds(dl=loaders.test_dl(later))
    write_answers(task, later, [loaders.vocab[i] for i in logits.argmax(1)])


if __name__ == "__main__":
    main()
