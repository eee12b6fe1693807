"""From a folder of labelled photos to predictions for new ones, in Python.

    python examples/from_folder_to_prediction.py photos/ new/

photos/ contains one folder per class: photos/cat/1.jpg, photos/dog/2.jpg. new/ contains pictures without labels. The
study is written to ./studies/photos and the exported model to ./bundle. Editors that support "# %%" run the file cell
by cell; in a notebook, paste each part into a cell. Needs: pip install 'autotune-vision[export]'
"""

# %% The pictures. In a notebook, write the two paths here instead of sys.argv.
import sys
from pathlib import Path

import autotune

if len(sys.argv) != 3:
    sys.exit(__doc__)
photos, new = sys.argv[1:]

# %% Search. Eight trials give a first result; the default is 50. Run this cell again after an interruption to resume;
# if all trials are complete, it only opens the study. Settings are keyword arguments: metric="macro_f1", epochs=6.
study = autotune.search(photos, trials=8)

# %% The trials, best first: a pandas DataFrame where pandas is installed, else a list of dicts.
print(study.trials[:5])
print("Best trial:", study.best.words)

# %% The score on the test set, which no trial has seen. The fewer pictures it contains, the wider the interval.
test = study.test
assert test is not None  # it is None until the best trial is evaluated
low, high = test["value_interval"]
print(f"Test accuracy: {test['value']:.1%} (95 % interval {low:.1%} to {high:.1%}, {test['n']} pictures)")

# %% Export a bundle: a folder with the verified model, its labels and a standalone script predict.py. Predictions with
# a probability below the threshold are labelled "unknown". To export another model, delete the folder first.
if not Path("bundle").exists():
    study.best.export("bundle", threshold=0.6)

# %% Predict. These lines work in any program that has the bundle, and load no torch.
model = autotune.load("bundle")
for prediction in model.predict(new, top=2):
    if prediction.error:
        print(f"{prediction.path}: {prediction.error}")
    else:
        print(f"{prediction.path}: {prediction.label}, {prediction.probability:.1%}")
