"""scikit-learn's logistic regression on a frozen network's features. Runs without autotune; see compare.py."""

import numpy as np
import torch
from numpy.typing import NDArray
from peer import Task, read_task, timm_network, write_answers
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


def main() -> None:
    task = read_task()
    rows, labels, _ = features(task, "user")
    folds = StratifiedKFold(5, shuffle=True, random_state=task.seed)
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=10, cv=folds, max_iter=1000))
    model.fit(rows, labels)
    later, _, found = features(task, "later")
    classes = ImageFolder(task.folder / "user").classes
    write_answers(task, found, [classes[i] for i in model.predict(later)])


@torch.no_grad()
def features(task: Task, part: str) -> tuple[NDArray[np.float32], list[int], list[str]]:
    """Return the features (N, F), labels (N,) and paths of the pictures of a folder."""
    resize = v2.Resize(256, v2.InterpolationMode.BICUBIC)
    scale = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    pictures = ImageFolder(task.folder / part, v2.Compose([v2.ToImage(), resize, v2.CenterCrop(224), scale]))
    net = timm_network(task, num_classes=0).eval()
    found = [net(x) for x, _ in DataLoader(pictures, 32)]
    return torch.cat(found).numpy(), pictures.targets, [path for path, _ in pictures.samples]


if __name__ == "__main__":
    main()
