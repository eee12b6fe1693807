"""Sort a folder of new photos: copy each one into a sub-folder named after its predicted label.

    python examples/sort_photos.py bundle new/ sorted/

bundle is a folder written by `autotune export` or `study.best.export()`. Predictions below its threshold are copied to
sorted/unknown, files that cannot be read to sorted/unreadable. The originals stay where they are. Needs onnxruntime
(pip install 'autotune-vision[export]') but does not load torch, so it starts quickly.
"""

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path

import autotune

UNREADABLE = "unreadable"
FAILED = "(not copied)"


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy photos into one folder per predicted label.")
    parser.add_argument("bundle", type=Path, help="a folder written by `autotune export`")
    parser.add_argument("photos", type=Path, help="the folder of photos to sort, sub-folders included")
    parser.add_argument("out", type=Path, help="the folder to create; it must not exist, so nothing is overwritten")
    args = parser.parse_args()
    if not args.photos.is_dir():
        parser.error(f"{args.photos} is not a folder.")
    if args.out.exists():
        parser.error(f"{args.out} exists. Name a new folder.")
    try:
        counts = sort(args.bundle, args.photos, args.out)
    except autotune.AutotuneError as error:  # its text is two lines: the problem and the fix
        sys.exit(str(error))
    if not counts:
        sys.exit(f"No pictures in {args.photos}.")
    for label, count in counts.most_common():
        print(f"{count:6} {label}")


def sort(bundle: Path, photos: Path, out: Path) -> Counter[str]:
    """Copy every picture in `photos` to out/LABEL/ and return the number of pictures per label."""
    model = autotune.load(bundle)
    counts: Counter[str] = Counter()
    for prediction in model.predict(photos):  # in order, one per file with the suffix of a picture format
        file = Path(prediction.path)
        if file.is_dir():  # `photos` itself, if it contains no picture
            continue
        label = prediction.label or UNREADABLE  # label is None where prediction.error is set
        # Keep sub-folders: two cameras may both have written an IMG_0001.jpg.
        target = out / label.replace("/", "_") / file.relative_to(photos)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)  # copy2 keeps the date of the file
        except OSError as error:
            print(f"{file}: {error.strerror}", file=sys.stderr)
            label = FAILED
        counts[label] += 1
    return counts


if __name__ == "__main__":
    main()
