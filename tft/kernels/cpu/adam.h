// The update for adam.py, in one pass over the weights. Shapes: K folds, P parameters.

#pragma once

#include <cmath>
#include <cstdint>

namespace {

template <class T> struct OfFold {
  T rate, correction, clip, mean_weight, square_weight, lr, new_weight;
};

template <bool DECAYS, class T>
void adam_fold(const OfFold<T> fold, int64_t n, const T* __restrict gradient, const T* __restrict decay,
               T* __restrict weights, T* __restrict averaged, T* __restrict mean, T* __restrict square) {
  for (int64_t i = 0; i < n; i++) {
    const T raw = gradient[i], slope = raw - raw == 0 ? raw * fold.clip : T(0);  // 0 where it is not finite
    const T m = mean[i] + fold.mean_weight * (slope - mean[i]);
    const T s = square[i] + fold.square_weight * (slope * slope - square[i]);
    const T left = DECAYS ? weights[i] - weights[i] * (fold.lr * decay[i]) : weights[i];
    const T w = left - m * fold.rate / (std::sqrt(s) * fold.correction + T(ADAM_EPSILON));
    mean[i] = m;
    square[i] = s;
    weights[i] = w;
    averaged[i] += fold.new_weight * (w - averaged[i]);
  }
}

// in: gradient (K, P), coefficients (K, 7), and decay (P) if it decays; in place: weights, their average and the moments
// (K, P); sizes: K, P, the number of inputs
template <class T> void adam(void* const* in, void* const* state, const int64_t* sizes) {
  const int64_t n_folds = sizes[0], n = sizes[1];
  const T* const decay = sizes[2] == 3 ? static_cast<T*>(in[2]) : nullptr;
  for (int64_t k = 0; k < n_folds; k++) {
    const OfFold<T> fold = static_cast<OfFold<T>*>(in[1])[k];
    if (!fold.mean_weight) continue;  // this fold is not updated
    T* own[4];
    for (int i = 0; i < 4; i++) own[i] = static_cast<T*>(state[i]) + k * n;
    const auto update = decay ? adam_fold<true, T> : adam_fold<false, T>;
    update(fold, n, static_cast<T*>(in[0]) + k * n, decay, own[0], own[1], own[2], own[3]);
  }
}

}  // namespace
