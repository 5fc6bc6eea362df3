"""Scaling, whitening and an autoencoder in a scikit-learn pipeline: codes for a classifier.

    python examples/scikit_learn.py
    mpirun -n 2 python examples/scikit_learn.py

scikit-learn scales (`MinMaxScaler` for loss bce, `StandardScaler` for mse) and whitens by `PCA(whiten=True)`;
`pyddl.ZCA` whitens without rotating, so that images stay images. Under mpirun all ranks train the autoencoder together;
the rest is computed by each.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyddl

digits = pyddl.data.load("digits")
X, y = np.asarray(digits), digits.labels
X_test, y_test = np.asarray(digits.test), digits.test.labels

autoencoder = pyddl.Autoencoder(hidden=(64, 16), loss="mse", epochs=40, batch_size=64, random_state=0)
pipeline = make_pipeline(StandardScaler(), pyddl.ZCA(epsilon=0.1), autoencoder, LogisticRegression(max_iter=500))
search = GridSearchCV(pipeline, {"autoencoder__learning_rate": [1e-3, 3e-3]}, cv=2, error_score="raise").fit(X, y)

if pyddl.world().rank == 0:
    pixels = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X, y)
    print(f"accuracy from 64 pixels: {pixels.score(X_test, y_test):.3f}")
    print(f"accuracy from 16 codes:  {search.score(X_test, y_test):.3f}")
    print(f"best learning rate: {search.best_params_['autoencoder__learning_rate']}")
