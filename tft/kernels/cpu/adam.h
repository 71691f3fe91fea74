// The update for adam.py. Shapes: K folds, P parameters.

#pragma once

#include <cmath>
#include <cstdint>

namespace {

// in: gradient (K, P) and coefficients (K, 5); in place: weights and the moments (K, P); sizes: K, P
template <class T> void adam(void* const* in, void* const* state, const int64_t* sizes) {
  const int64_t n_folds = sizes[0], n = sizes[1];
  for (int64_t fold = 0; fold < n_folds; fold++) {
    const T* const own = static_cast<T*>(in[1]) + fold * 5;
    const T rate = own[0], correction = own[1], clip = own[2], mean_weight = own[3], square_weight = own[4];
    if (!mean_weight) continue;  // this fold is not updated
    const T* __restrict gradient = static_cast<T*>(in[0]) + fold * n;
    T* __restrict weights = static_cast<T*>(state[0]) + fold * n;
    T* __restrict mean = static_cast<T*>(state[1]) + fold * n;
    T* __restrict square = static_cast<T*>(state[2]) + fold * n;
    for (int64_t i = 0; i < n; i++) {
      const T raw = gradient[i], slope = raw - raw == 0 ? raw * clip : T(0);  // 0 where it is not finite
      mean[i] += mean_weight * (slope - mean[i]);
      square[i] += square_weight * (slope * slope - square[i]);
      weights[i] -= mean[i] * rate / (std::sqrt(square[i]) * correction + T(ADAM_EPSILON));
    }
  }
}

}  // namespace
