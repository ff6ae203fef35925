"""What an activation is, what its rows may be, and the two helpers that several of them share."""

from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace


class Activation(Protocol):
    """What every activation brings; hyper-parameters are fields, so the repr is the call.

    Where its logarithm is known without taking it, and so is exact however small a is, it brings ``log``, which gives
    log a (N,K) for z, and ``log_vjp``, which gives dl_dz (N,K) for z and h = dl/dlog a (N,K).

    >>> activation: Activation = Identity()  # a = z, and da_dz is the identity
    >>> activation(z), activation.vjp(z, a=z, dl_da=y)
    (array([[ 2.,  1., -1.]]), array([[1., 0., 0.]]))
    """

    name: ClassVar[str]
    range: ClassVar[str]  # a key of RANGES

    def __call__(self, z: Array) -> Array:
        """The prediction a (N,K) for scores z (N,K)."""

    def jacobian(self, z: Array, a: Array) -> Array:
        """da_dz (N,K,K) with da_dz[n,j,k] = d a_j / d z_k."""

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        """dl_dz (N,K) with dl_dz[n,k] = sum_j dl_da[n,j] da_dz[n,j,k]."""


RANGES = {
    "simplex": "rows of positive numbers that sum to one",
    "sparse_simplex": "rows that sum to one and may hold exact zeros",
    "unit": "K independent numbers between zero and one",
    "signed_unit": "K independent numbers between minus one and one",
    "log_simplex": "logarithms of probabilities",
    "real": "any real numbers",
}


def diagonal(d: Array) -> Array:
    """diag(d_n) for every row: (N,K) to (N,K,K).

    >>> diagonal(np.array([[2.0, 3.0]]))
    array([[[2., 0.],
            [0., 3.]]])
    """
    xp = namespace(d)
    return d[..., :, None] * xp.eye(d.shape[-1], dtype=d.dtype, device=d.device)


def x_log_x(a: Array) -> Array:
    """a log a, zero at zero.

    >>> x_log_x(np.array([0.0, 1.0, np.e]))
    array([0.        , 0.        , 2.71828183])
    """
    xp = namespace(a)
    return xp.where(a > 0, a * xp.log(xp.where(a > 0, a, 1.0)), 0.0)
