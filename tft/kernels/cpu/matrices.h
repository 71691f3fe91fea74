// Matrix products in tiles that fit the registers, fused with element-wise operations before and after, and scratch
// memory.
//
// Shapes: P is a width rounded up to whole vectors.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 64;  // rows that pass through all steps of a computation while they are in the cache

template <class T> class Scratch {  // aligned, initialised to zero
 public:
  explicit Scratch(int64_t n) : own(static_cast<T*>(::operator new[](n * sizeof(T), std::align_val_t(64)))) {
    std::memset(own.get(), 0, n * sizeof(T));
  }
  operator T*() const { return own.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> own;
};

// M x C vectors of init + a @ b, where element (m, k) of a is at a[m * a_row + k * a_k] and rows of b are b_row apart.
// init(m, c) returns a vector, finish(m, vectors) takes a row of C. Sums stay in registers.
template <int M, int C, class T, class Init, class Finish>
INLINE void tile(int64_t n_k, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row, Init init,
                 Finish finish) {
  Vec<T> total[M][C];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) total[m][c] = init(m, c);
#pragma GCC unroll 1
  for (int64_t k = 0; k < n_k; k++, a += a_k, b += b_row) {
    Vec<T> row[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) row[c] = load(b + c * SIZE<T>);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const Vec<T> left = all(a[m * a_row]);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) total[m][c] += left * row[c];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) finish(m, total[m]);
}

template <int C, class T, class Init, class Finish>
INLINE void tiles(int64_t n_rows, int64_t n_k, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row,
                  Init init, Finish finish) {
  int64_t m0 = 0;
  const auto from = LAMBDA(int m, int c) { return init(m0 + m, c); };
  const auto to = LAMBDA(int m, Vec<T>* v) {
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) finish(m0 + m, c, v[c]);
  };
  for (; m0 + ROWS <= n_rows; m0 += ROWS) tile<ROWS, C>(n_k, a + m0 * a_row, a_row, a_k, b, b_row, from, to);
  for (; m0 < n_rows; m0++) tile<1, C>(n_k, a + m0 * a_row, a_row, a_k, b, b_row, from, to);
}

// init + a @ b of any size: n_rows rows of n_columns vectors; init(m, c) -> vector, finish(m, c, vector).
template <class T, class Init, class Finish>
INLINE void product(int64_t n_rows, int64_t n_columns, int64_t n_k, const T* a, int64_t a_row, int64_t a_k, const T* b,
                    int64_t b_row, Init init, Finish finish) {
  for (int64_t c0 = 0; c0 < n_columns;) {
    const auto from = LAMBDA(int64_t m, int64_t c) { return init(m, c0 + c); };
    const auto to = LAMBDA(int64_t m, int64_t c, Vec<T> v) { finish(m, c0 + c, v); };
    const T* right = b + c0 * SIZE<T>;
    const int64_t left = n_columns - c0;
    if (left == 3 || left >= 5) {
      tiles<3>(n_rows, n_k, a, a_row, a_k, right, b_row, from, to);
      c0 += 3;
    } else if (left >= 2) {
      tiles<2>(n_rows, n_k, a, a_row, a_k, right, b_row, from, to);
      c0 += 2;
    } else {
      tiles<1>(n_rows, n_k, a, a_row, a_k, right, b_row, from, to);
      c0 += 1;
    }
  }
}

// to (n_rows, C vectors) += a^T @ b, for a (n_k, n_rows) and b (n_k, C vectors) with rows a_k and b_row apart
template <class T>
INLINE void add_product(int64_t n_rows, int64_t n_columns, int64_t n_k, const T* a, int64_t a_k, const T* b,
                        int64_t b_row, T* to) {
  product<T>(
      n_rows, n_columns, n_k, a, 1, a_k, b, b_row, LAMBDA(int64_t, int64_t) { return Vec<T>{}; },
      LAMBDA(int64_t m, int64_t j, Vec<T> v) { add_to(to + (m * n_columns + j) * SIZE<T>, v); });
}

template <class T> int64_t vectors(int64_t width) { return (width + SIZE<T> - 1) / SIZE<T>; }

template <class T>
void copy_rows(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t n_rows, int64_t width) {
  for (int64_t i = 0; i < n_rows; i++) std::memcpy(to + i * to_row, from + i * from_row, width * sizeof(T));
}

template <class T>
void transpose(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t n_rows, int64_t n_columns) {
  for (int64_t i = 0; i < n_rows; i++)
    for (int64_t j = 0; j < n_columns; j++) to[j * to_row + i] = from[i * from_row + j];
}

}  // namespace
