"""RNN, LSTM and GRU in NumPy, as fast as NumPy goes: the opponent of the benchmarks.

What it is: one layer, one direction, zero initial state, forward and BPTT, with torch's parameters.
What it is not: an oracle (that is ``fastrnn.reference``) or an example to learn from.

Everything a NumPy programmer can do is done, so that a ratio to it means something:

- x W for all steps is one product before the loop, dW, dR and dx one product each after it;
- a step is one matrix product; every other array of a step is written with ``out=`` into memory
  that is kept between calls;
- sigmoid(a) = (1 + tanh(a/2))/2, and the 1/2 is folded into the weights once, so that one tanh
  call serves all gates of a step;
- in backward every factor that does not depend on dh is computed for all steps at once, which
  leaves the loop the least possible number of calls.
"""

import numpy as np

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class NumpyLayer:
    """One recurrent layer. ``forward(x) -> y``; ``backward(dy) -> dx`` fills ``grads``.

    Call ``prepare`` after the weights have changed; training has to do that in every step.
    The arrays returned belong to the layer and are overwritten by its next call.
    """

    def __init__(self, params):
        self.params = {name.removesuffix("_l0"): value for name, value in params.items()}
        self.grads = {name: np.empty_like(value) for name, value in self.params.items()}
        self.H = self.params["weight_hh"].shape[1]
        self.dtype = self.params["weight_hh"].dtype
        self._shape = None
        self.prepare()

    def prepare(self):
        """Fold the halves of the sigmoid gates into transposed copies of the weights."""
        p, half = self.params, self._half()[:, None]
        self.WT = np.ascontiguousarray((p["weight_ih"] * half).T)
        self.RT = np.ascontiguousarray((p["weight_hh"] * half).T)
        self.b_ih, self.b_hh = p["bias_ih"] * half[:, 0], p["bias_hh"] * half[:, 0]

    def forward(self, x):
        """x (T, B, I) -> y (T, B, H), a view of ``h`` (T+1, B, H) whose slot 0 is zero."""
        T, B, I = x.shape
        if self._shape != x.shape:
            self._shape = x.shape
            self._a = np.empty((T, B, self.WT.shape[1]), self.dtype)
            self._da = np.empty_like(self._a)
            self.h = np.zeros((T + 1, B, self.H), self.dtype)
            self._dh = np.empty((B, self.H), self.dtype)
            self._reserve(T, B)
        self._x = x
        np.matmul(x.reshape(T * B, I), self.WT, out=self._a.reshape(T * B, -1))
        self._a += self._hoisted_bias()
        self._steps(self._a, self.h)
        return self.h[1:]

    def _gradients(self, da_x, da_h):
        """The time-batched products: da_x reached x W + b_ih, da_h reached h R + b_hh."""
        T, B, I = self._x.shape
        da_x, da_h, g = da_x.reshape(T * B, -1), da_h.reshape(T * B, -1), self.grads
        np.matmul(da_x.T, self._x.reshape(T * B, I), out=g["weight_ih"])
        np.matmul(da_h.T, self.h[:-1].reshape(T * B, -1), out=g["weight_hh"])
        np.sum(da_x, axis=0, out=g["bias_ih"])
        if da_h is da_x:
            g["bias_hh"][:] = g["bias_ih"]
        else:
            np.sum(da_h, axis=0, out=g["bias_hh"])
        return (da_x @ self.params["weight_ih"]).reshape(T, B, I)


class NumpyRNN(NumpyLayer):
    """h_t = tanh(x_t W + h_{t-1} R + b)."""

    def _half(self):
        return np.ones(self.H, self.dtype)

    def _hoisted_bias(self):
        return self.b_ih + self.b_hh

    def _reserve(self, T, B):
        self._product = np.empty((B, self.H), self.dtype)

    def _steps(self, a, h):
        product, RT = self._product, self.RT
        for t in range(len(a)):
            np.matmul(h[t], RT, out=product)
            np.add(product, a[t], out=product)
            np.tanh(product, out=h[t + 1])

    def backward(self, dy):
        da, dh, R = self._da, self._dh, self.params["weight_hh"]
        np.multiply(self.h[1:], self.h[1:], out=self._a)
        slope = np.subtract(1, self._a, out=self._a)
        dh[:] = 0
        for t in range(len(dy) - 1, -1, -1):
            dh += dy[t]
            np.multiply(dh, slope[t], out=da[t])
            np.matmul(da[t], R, out=dh)
        return self._gradients(da, da)


class NumpyLSTM(NumpyLayer):
    """Gates i f g o; c_t = f*c_{t-1} + i*g; h_t = o*tanh(c_t)."""

    def _half(self):
        return np.repeat(np.array([0.5, 0.5, 1, 0.5], self.dtype), self.H)

    def _hoisted_bias(self):
        return self.b_ih + self.b_hh

    def _reserve(self, T, B):
        H = self.H
        self._product = np.empty((B, 4 * H), self.dtype)
        self.c = np.zeros((T + 1, B, H), self.dtype)
        self.tanh_c = np.empty((T, B, H), self.dtype)
        self._dc, self._tmp = np.empty((B, H), self.dtype), np.empty((B, H), self.dtype)
        self._kc = np.empty((T, B, H), self.dtype)
        self._scale, self._shift = self._half(), 1 - self._half()

    def _steps(self, a, h):
        H, RT, product, tmp = self.H, self.RT, self._product, self._tmp
        scale, shift, c, tanh_c = self._scale, self._shift, self.c, self.tanh_c
        for t in range(len(a)):
            gates = a[t]
            np.matmul(h[t], RT, out=product)
            np.add(gates, product, out=gates)
            np.tanh(gates, out=gates)
            np.multiply(gates, scale, out=gates)
            np.add(gates, shift, out=gates)
            np.multiply(gates[:, H : 2 * H], c[t], out=c[t + 1])
            np.multiply(gates[:, :H], gates[:, 2 * H : 3 * H], out=tmp)
            np.add(c[t + 1], tmp, out=c[t + 1])
            np.tanh(c[t + 1], out=tanh_c[t])
            np.multiply(gates[:, 3 * H :], tanh_c[t], out=h[t + 1])

    def backward(self, dy):
        T, B, H = dy.shape
        da, kc = self._da.reshape(T, B, 4, H), self._kc
        i, f, g, o = (self._a.reshape(T, B, 4, H)[:, :, k] for k in range(4))
        # da = [dc*ki, dc*kf, dc*kg, dh*ko] and dc += dh*kc: all the k's in one go.
        np.multiply(self.tanh_c, self.tanh_c, out=kc)
        np.subtract(1, kc, out=kc)
        kc *= o
        np.multiply(i * (1 - i), g, out=da[:, :, 0])
        np.multiply(f * (1 - f), self.c[:-1], out=da[:, :, 1])
        np.multiply(1 - g * g, i, out=da[:, :, 2])
        np.multiply(o * (1 - o), self.tanh_c, out=da[:, :, 3])
        dh, dc, tmp, R = self._dh, self._dc, self._tmp, self.params["weight_hh"]
        flat, dc3 = self._da, dc[:, None, :]
        dh[:] = 0
        dc[:] = 0
        for t in range(T - 1, -1, -1):
            dh += dy[t]
            np.multiply(dh, kc[t], out=tmp)
            dc += tmp
            da[t, :, :3] *= dc3
            da[t, :, 3] *= dh
            dc *= f[t]
            np.matmul(flat[t], R, out=dh)
        return self._gradients(flat, flat)


class NumpyGRU(NumpyLayer):
    """Gates r z n; n = tanh(x W_n + b_in + r*(h R_n + b_hn)); h_t = z*h_{t-1} + (1-z)*n."""

    def _half(self):
        return np.repeat(np.array([0.5, 0.5, 1], self.dtype), self.H)

    def _hoisted_bias(self):
        # b_hn stays inside the loop: r multiplies it.
        bias = self.b_ih.copy()
        bias[: 2 * self.H] += self.b_hh[: 2 * self.H]
        return bias

    def _reserve(self, T, B):
        H = self.H
        self._product = np.empty((B, 3 * H), self.dtype)
        self._hn = np.empty((T, B, H), self.dtype)
        self._tmp = np.empty((B, H), self.dtype)
        self._da_h = np.empty((T, B, 3 * H), self.dtype)

    def _steps(self, a, h):
        H, RT, product, tmp, hn = self.H, self.RT, self._product, self._tmp, self._hn
        b_hn = self.b_hh[2 * H :]
        for t in range(len(a)):
            rz, n = a[t, :, : 2 * H], a[t, :, 2 * H :]
            np.matmul(h[t], RT, out=product)
            np.add(rz, product[:, : 2 * H], out=rz)
            np.tanh(rz, out=rz)
            np.multiply(rz, 0.5, out=rz)
            np.add(rz, 0.5, out=rz)
            np.add(product[:, 2 * H :], b_hn, out=hn[t])
            np.multiply(rz[:, :H], hn[t], out=tmp)
            np.add(n, tmp, out=n)
            np.tanh(n, out=n)
            np.subtract(h[t], n, out=tmp)
            np.multiply(tmp, rz[:, H:], out=tmp)
            np.add(n, tmp, out=h[t + 1])

    def backward(self, dy):
        T, B, H = dy.shape
        a = self._a.reshape(T, B, 3, H)
        r, z, n = a[:, :, 0], a[:, :, 1], a[:, :, 2]
        # da_x = [da_n*kr, dh*kz, dh*kn] and da_h differs from it by the r in its last third.
        da, da_h = self._da.reshape(T, B, 3, H), self._da_h.reshape(T, B, 3, H)
        np.multiply(r * (1 - r), self._hn, out=da_h[:, :, 0])
        np.multiply(z * (1 - z), self.h[:-1] - n, out=da_h[:, :, 1])
        np.multiply(1 - n * n, 1 - z, out=da_h[:, :, 2])
        dh, tmp, R = self._dh, self._tmp, self.params["weight_hh"]
        dh3 = dh[:, None, :]
        dh[:] = 0
        for t in range(T - 1, -1, -1):
            dh += dy[t]
            step = da_h[t]
            step[:, 1:] *= dh3
            step[:, 0] *= step[:, 2]
            da[t] = step
            step[:, 2] *= r[t]
            np.multiply(dh, z[t], out=tmp)
            np.matmul(self._da_h[t], R, out=dh)
            dh += tmp
        return self._gradients(self._da, self._da_h)


CELLS = {"rnn": NumpyRNN, "lstm": NumpyLSTM, "gru": NumpyGRU}
