// Dropout for dropout.py, and for the blocks of rows of select.h. Shapes: K folds, N elements, H width, P is H rounded up
// to whole vectors.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "matrices.h"

namespace {

// The dropout of one fold; see seeded_bits in dropout_mask.py. A scale of 0 means no dropout.
struct Dropout {
  uint32_t low, high;
  int32_t threshold;
  double scale;
};

Dropout dropout_of(void* const* mask, int64_t fold) {  // seeds, thresholds, scales
  if (!mask) return {};
  const auto at = [=](int i) { return static_cast<int64_t*>(mask[i])[fold]; };
  const uint64_t seed = at(0);
  return {uint32_t(seed), uint32_t(seed >> 32), int32_t(at(1)), static_cast<double*>(mask[2])[fold]};
}

// Multiplies rows (n, P) by the scale and sets dropped elements to -0, which marks them; no other element becomes -0, and
// a NaN stays NaN. `row` is the number of the first row.
template <class T> NOINLINE void drop(T* rows, const Dropout& dropout, int64_t row, int64_t n, int64_t h, int64_t p) {
  if (!dropout.scale) return;
  Hash<T> lane;
  for (int i = 0; i < SIZE<T>; i++) lane[i] = i;
  uint32_t first = uint32_t(row * h) + dropout.low;
  for (int64_t m = 0; m < n; m++, rows += p, first += h)
    for (int64_t i = 0; i < p; i += SIZE<T>) {
      Hash<T> x = lane + (first + uint32_t(i));
      x = (x ^ (x >> 16)) * 0x7feb352du;
      x = (x ^ (x >> 15) ^ dropout.high) * 0x846ca68bu;
      const auto bits = __builtin_convertvector(x ^ (x >> 16), Whole<T>) << (8 * sizeof(T) - 32) >> (8 * sizeof(T) - 16);
      const auto stays = bits >= typename Vectors<T>::Element(dropout.threshold);
      const Vec<T> v = load(rows + i), none = v * T(0);
      store(rows + i, Vec<T>(stays ? v * T(dropout.scale) + T(0) : -(none * none)));
    }
}

// The gradient of `drop`, whose result was `dropped`.
template <class T> INLINE Vec<T> drop_gradient(Vec<T> d, Vec<T> dropped, const Dropout& dropout) {
  constexpr auto minus_zero = std::numeric_limits<typename Vectors<T>::Element>::min();
  return dropout.scale ? ((Whole<T>)dropped == minus_zero ? Vec<T>{} : d * T(dropout.scale)) : d;
}

// in: x (K, N); out: x after dropout
template <class T> void drop_folds(void* const* in, void* const* out, const int64_t* sizes, void* const* mask) {
  const int64_t n_folds = sizes[0], n_elements = sizes[1], step = BLOCK * SIZE<T>;
  Scratch<T> values(step);
  for (int64_t fold = 0; fold < n_folds; fold++) {
    const Dropout dropout = dropout_of(mask, fold);
    const T* from = static_cast<T*>(in[0]) + fold * n_elements;
    T* to = static_cast<T*>(out[0]) + fold * n_elements;
    for (int64_t first = 0; first < n_elements; first += step) {
      const int64_t n = std::min(step, n_elements - first);
      copy_rows<T>(values, step, from + first, step, 1, n);
      drop<T>(values, dropout, first, 1, 1, vectors<T>(n) * SIZE<T>);
      copy_rows<T>(to + first, step, values, step, 1, n);
    }
  }
}

}  // namespace
