"""The autoencoder as a scikit-learn transformer."""

from __future__ import annotations

from pyddl.estimators.from_table import from_table
from pyddl.estimators.roles import Encodes, Scores

__all__ = ["Autoencoder"]


@from_table("autoencoder")
class Autoencoder(Encodes, Scores):
    """Autoencoder [1]_, dense or convolutional: an encoder to a small code, and a decoder that mirrors it.

    Denoising with ``corrupt`` [2]_, sparse with ``sparsity``, convolutional with ``conv``: X has a picture in each row
    then, of the shape ``image_shape``, or is a source that says so.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    parameters_ : dict of str to ndarray, float32
        ``encoder.0.weight`` (outputs, inputs), ``encoder.0.bias`` (outputs,), ...; the same on every rank.
    metrics_ : list of dict
        A line per epoch: ``train_loss``, ``test_loss`` (with ``validation``), ``samples_per_second``, ...
    loss_curve_ : list of float
        Training loss of each epoch, mean over samples: nats (bce) or squared units (mse), summed over features.
    seed_ : int
        Seed that was used.
    result_ : Result
        All that the trainer left.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    With ``loss="bce"`` values of X outside [0, 1] are clipped, in training and afterwards, and `fit` warns: scale X
    first. (The trainer and the command line refuse such data.) Sample weights are not supported. Under mpirun `fit` and
    `partial_fit` are collective, and for the main thread only; all else is local.

    References
    ----------
    .. [1] Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313.
    .. [2] Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, 3371-3408.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).random((200, 16))
    >>> autoencoder = Autoencoder(hidden=(8, 2), epochs=3, batch_size=20, random_state=0)
    >>> autoencoder
    Autoencoder(hidden=(8, 2), epochs=3, batch_size=20, random_state=0)
    >>> codes = autoencoder.fit_transform(X)
    >>> codes.shape, autoencoder.inverse_transform(codes).shape
    ((200, 2), (200, 16))
    >>> pictures = Autoencoder(conv="conv4,pool2", image_shape=(4, 4), hidden=(3,), epochs=2, random_state=0).fit(X)
    >>> pictures.transform(X).shape, sorted(pictures.parameters_)[:2]
    ((200, 3), ['decoder.0.bias', 'decoder.0.weight'])
    """
