// The gated norm for gated_norm.py. Shapes: K folds, R rows, H width; P is H rounded up to whole vectors.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "matrices.h"

namespace {

// A row of skip + value * sigmoid(gate) minus its mean, padded by zeros to whole vectors, and its gate, with padding that
// is not used. Returns the row's inverse standard deviation. `valid` is 1 for elements of H and 0 for the padding.
template <class T>
INLINE T centre(const T* skip, const T* gated, const T* valid, T* centred, T* gates, int64_t h) {
  Vec<T> total{}, squares{};
  for (int64_t i = 0; i < h; i += SIZE<T>) {
    const int64_t count = h - i;
    const Vec<T> gate = sigmoid<T>(load(gated + h + i, count));
    const Vec<T> v = load(skip + i, count) + load(gated + i, count) * gate;
    store(gates + i, gate);
    store(centred + i, v);
    total += v;
  }
  const T mean = sum(total) / h;
  for (int64_t i = 0; i < h; i += SIZE<T>) {
    const Vec<T> v = load(centred + i) - mean * load(valid + i);
    store(centred + i, v);
    squares += v * v;
  }
  return 1 / std::sqrt(sum(squares) / h + T(NORM_EPSILON));
}

// in: skip, gated, weight, bias; out: normed
template <class T> void gated_norm_forward(void* const* in, void* const* out, const int64_t* sizes) {
  const int64_t n_folds = sizes[0], n_rows = sizes[1], h = sizes[2], p = vectors<T>(h) * SIZE<T>;
  const auto at = [](void* from, int64_t offset) { return static_cast<T*>(from) + offset; };
  Scratch<T> centred(p), gates(p), valid(p);
  std::fill_n(static_cast<T*>(valid), h, T(1));
  for (int64_t row = 0; row < n_folds * n_rows; row++) {
    const T inverse_std = centre<T>(at(in[0], row * h), at(in[1], row * 2 * h), valid, centred, gates, h);
    const T *weight = at(in[2], row / n_rows * h), *bias = at(in[3], row / n_rows * h);
    T* normed = at(out[0], row * h);
    for (int64_t i = 0; i < h; i += SIZE<T>) {
      const Vec<T> v = load(centred + i) * inverse_std;
      store(normed + i, Vec<T>(v * load(weight + i, h - i) + load(bias + i, h - i)), h - i);
    }
  }
}

// in: d_normed, skip, gated, weight; out: gradients of skip, gated, weight and bias
template <class T> void gated_norm_backward(void* const* in, void* const* out, const int64_t* sizes) {
  const int64_t n_folds = sizes[0], n_rows = sizes[1], h = sizes[2], p = vectors<T>(h) * SIZE<T>;
  const auto at = [](void* from, int64_t offset) { return static_cast<T*>(from) + offset; };
  Scratch<T> centred(p), gates(p), valid(p), of_block(2 * p), of_fold(2 * p);  // sums for the weight, then for the bias
  std::fill_n(static_cast<T*>(valid), h, T(1));
  for (int64_t fold = 0; fold < n_folds; fold++) {
    const T* weight = at(in[3], fold * h);
    std::memset(of_fold, 0, 2 * p * sizeof(T));
    for (int64_t first = 0; first < n_rows; first += BLOCK) {
      std::memset(of_block, 0, 2 * p * sizeof(T));
      for (int64_t row = first; row < std::min(first + BLOCK, n_rows); row++) {
        const int64_t start = (fold * n_rows + row) * h;
        const T *d_normed = at(in[0], start), *value = at(in[2], 2 * start);
        T *d_skip = at(out[0], start), *d_value = at(out[1], 2 * start), *d_gate = d_value + h;
        const T inverse_std = centre<T>(at(in[1], start), value, valid, centred, gates, h);
        Vec<T> d_total{}, d_along{};
        for (int64_t i = 0; i < h; i += SIZE<T>) {
          const Vec<T> given = load(d_normed + i, h - i), d = given * load(weight + i, h - i);
          const Vec<T> normed = load(centred + i) * inverse_std;
          store(centred + i, normed);
          d_total += d;
          d_along += d * normed;
          add_to(of_block + i, Vec<T>(given * normed));
          add_to(of_block + p + i, given);
        }
        const T across = sum(d_total) / h, along = sum(d_along) / h;
        for (int64_t i = 0; i < h; i += SIZE<T>) {
          const int64_t count = h - i;
          const Vec<T> gate = load(gates + i), d = load(d_normed + i, count) * load(weight + i, count);
          const Vec<T> v = (d - across - load(centred + i) * along) * inverse_std, of_value = v * gate;
          store(d_skip + i, v, count);
          store(d_value + i, of_value, count);
          store(d_gate + i, Vec<T>(of_value * load(value + i, count) * (T(1) - gate)), count);
        }
      }
      for (int64_t i = 0; i < 2 * p; i += SIZE<T>) add_to(of_fold + i, load(of_block + i));
    }
    copy_rows<T>(at(out[2], fold * h), h, of_fold, p, 1, h);
    copy_rows<T>(at(out[3], fold * h), h, of_fold + p, p, 1, h);
  }
}

}  // namespace
