// The LSTM scan of recurrent.py, the variable selection of selection.py, dropout, the gated norm and the update of adam.py
// for one CPU core, called by native.py.
//
// Intermediate values live in registers and in the cache: matrix products are done in tiles small enough for the
// registers, with the element-wise work on either side of them, and the backward of the selection computes again what
// the forward did not keep. Every sum has a fixed order. Vectors are those of the compiler's own extension (gcc,
// clang), on any machine.
//
// Shapes: K folds, L look-back bars, W windows, V variables, N cells, H hidden width; P and Q, H and 4H rounded up to
// whole vectors. Gates of the LSTM are laid out input | forget | output | candidate, of the selection value | gate.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define LAMBDA(...) [&](__VA_ARGS__) __attribute__((always_inline))

// ---------------------------------------------------------------- vectors

// A tile of ROWS x 3 vectors is summed in registers: 24 of the 32 of AVX-512 and of ARM, 12 of the 16 of the others.
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, ROWS = 8;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, ROWS = 4;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, ROWS = 8;
#else
constexpr int VECTOR_BYTES = 16, ROWS = 4;
#endif

template <class T> constexpr int SIZE = VECTOR_BYTES / sizeof(T);
template <class T> struct Vectors;
template <> struct Vectors<float> {
  typedef int32_t Element;
  typedef float Values __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Whole __attribute__((vector_size(VECTOR_BYTES)));
  typedef uint32_t Hash __attribute__((vector_size(VECTOR_BYTES)));
};
template <> struct Vectors<double> {
  typedef int64_t Element;
  typedef double Values __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t Whole __attribute__((vector_size(VECTOR_BYTES)));
  typedef uint32_t Hash __attribute__((vector_size(VECTOR_BYTES / 2)));
};
template <class T> using Vec = typename Vectors<T>::Values;
template <class T> using Whole = typename Vectors<T>::Whole;
template <class T> using Hash = typename Vectors<T>::Hash;

template <class T> INLINE Vec<T> all(T value) { return value - Vec<T>{}; }

template <class T> INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T> INLINE void store(T* to, Vec<T> v) { std::memcpy(to, &v, sizeof v); }
template <class T, class V> INLINE void add_to(T* to, V v) { store(to, V(load(to) + v)); }

// Where a row's length is no whole number of vectors: its first `count` elements, the others 0.
#if defined(__AVX512F__)
INLINE __mmask16 first(int64_t count) { return count >= 16 ? 0xffff : (1 << count) - 1; }
INLINE Vec<float> load(const float* from, int64_t count) {
  return (Vec<float>)_mm512_maskz_loadu_ps(first(count), from);
}
INLINE Vec<double> load(const double* from, int64_t count) {
  return (Vec<double>)_mm512_maskz_loadu_pd(first(count), from);
}
INLINE void store(float* to, Vec<float> v, int64_t count) { _mm512_mask_storeu_ps(to, first(count), (__m512)v); }
INLINE void store(double* to, Vec<double> v, int64_t count) { _mm512_mask_storeu_pd(to, first(count), (__m512d)v); }
#else
template <class T> INLINE Vec<T> load(const T* from, int64_t count) {
  if (count >= SIZE<T>) return load(from);
  Vec<T> v{};
  std::memcpy(&v, from, count * sizeof(T));
  return v;
}
template <class T> INLINE void store(T* to, Vec<T> v, int64_t count) {
  if (count >= SIZE<T>) return store(to, v);
  std::memcpy(to, &v, count * sizeof(T));
}
#endif

// Operations for which the compiler's extension has no word, or finds only slow ones. A NaN in x stays one.
#if defined(__AVX512F__)
INLINE float sum(Vec<float> v) { return _mm512_reduce_add_ps((__m512)v); }
INLINE double sum(Vec<double> v) { return _mm512_reduce_add_pd((__m512d)v); }
INLINE Vec<float> clamp(Vec<float> x, float low, float high) {
  return (Vec<float>)_mm512_max_ps(_mm512_set1_ps(low), _mm512_min_ps(_mm512_set1_ps(high), (__m512)x));
}
INLINE Vec<double> clamp(Vec<double> x, double low, double high) {
  return (Vec<double>)_mm512_max_pd(_mm512_set1_pd(low), _mm512_min_pd(_mm512_set1_pd(high), (__m512d)x));
}
INLINE Vec<float> reciprocal(Vec<float> x) {  // 14 bits by a table, then one Newton step: a fifth of a division's time
  const Vec<float> guess = (Vec<float>)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return guess * (2.0f - x * guess);
}
INLINE Vec<double> reciprocal(Vec<double> x) { return 1.0 / x; }
#else
template <class V> INLINE auto sum(V v) {
  auto total = v[0];
  for (size_t i = 1; i < sizeof v / sizeof v[0]; i++) total += v[i];
  return total;
}
template <class V, class T> INLINE V clamp(V x, T low, T high) {
  x = x > high ? high - V{} : x;
  return x < low ? low - V{} : x;
}
template <class V> INLINE V reciprocal(V x) { return 1 / x; }
#endif

// e^x = 2^n e^r with |r| <= ln(2) / 2, where 14 terms of the series (7 for float) are all that a T can show.
// Arguments are kept to where neither the result nor its reciprocal overflows. A NaN stays one.
template <class T> INLINE Vec<T> exponential(Vec<T> x) {
  constexpr bool single = sizeof(T) == 4;
  constexpr int mantissa = single ? 23 : 52, bias = single ? 127 : 1023, terms = single ? 6 : 13;
  constexpr T limit = single ? 86 : 700;
  constexpr T magic = single ? T(0x1.8p23) : T(0x1.8p52);  // adding it rounds to a whole number, in the lowest bits
  constexpr T ln2_high = single ? T(0x1.63p-1) : T(0x1.62e42feep-1);
  constexpr T ln2_low = single ? T(-0x1.bd0106p-13) : T(0x1.a39ef35793c76p-33);
  x = clamp(x, -limit, limit);
  const Vec<T> rounded = x * T(0x1.71547652b82fep0) + magic;
  const Vec<T> n = rounded - magic;
  const Vec<T> r = x - n * ln2_high - n * ln2_low;
  constexpr double factorials[] = {1.,    1.,     2.,      6.,       24.,       120.,       720.,
                                   5040., 40320., 362880., 3628800., 39916800., 479001600., 6227020800.};
  Vec<T> power = all<T>(T(1 / factorials[terms]));
#pragma GCC unroll 16
  for (int i = terms - 1; i >= 0; i--) power = power * r + T(1 / factorials[i]);
  return power * (Vec<T>)(((Whole<T>)rounded + bias) << mantissa);
}

template <class T> INLINE Vec<T> sigmoid(Vec<T> x) { return reciprocal(T(1) + exponential<T>(-x)); }
template <class T> INLINE Vec<T> tanh(Vec<T> x) { return T(2) * sigmoid<T>(x + x) - T(1); }

// ---------------------------------------------------------------- matrices

constexpr int64_t BLOCK = 64;  // rows taken from one step of the computation to the next while in the cache

template <class T> class Scratch {  // aligned, zero
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

// M x C vectors of init + a @ b, for a with element (m, k) at a[m * a_row + k * a_k] and rows of b b_row apart;
// init(m, c) gives a vector, finish(m, vectors) takes a row of C. What is between stays in registers.
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

// The same for any size: n_rows rows of n_columns vectors; init(m, c) -> vector, finish(m, c, vector).
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

// ---------------------------------------------------------------- Adam

constexpr double ADAM_EPSILON = 1e-8;

// in: gradient (K, P) and of_folds (K, 5); in place: weights and the moments (K, P); sizes: K, P
template <class T> void adam(void* const* in, void* const* state, const int64_t* sizes) {
  const int64_t n_folds = sizes[0], n = sizes[1];
  for (int64_t fold = 0; fold < n_folds; fold++) {
    const T* const own = static_cast<T*>(in[1]) + fold * 5;
    const T rate = own[0], correction = own[1], clip = own[2], of_slope = own[3], of_square = own[4];
    if (!of_slope) continue;  // this fold is not updated
    const T* __restrict gradient = static_cast<T*>(in[0]) + fold * n;
    T* __restrict weights = static_cast<T*>(state[0]) + fold * n;
    T* __restrict mean = static_cast<T*>(state[1]) + fold * n;
    T* __restrict square = static_cast<T*>(state[2]) + fold * n;
    for (int64_t i = 0; i < n; i++) {
      const T raw = gradient[i], slope = raw - raw == 0 ? raw * clip : T(0);  // 0 where it is not finite
      mean[i] += of_slope * (slope - mean[i]);
      square[i] += of_square * (slope * slope - square[i]);
      weights[i] -= mean[i] * rate / (std::sqrt(square[i]) * correction + T(ADAM_EPSILON));
    }
  }
}

// ---------------------------------------------------------------- LSTM

// Nonlinearities of the gates, in place, and the states that follow. Apart (NOINLINE), so that the compiler keeps none
// of its constants in the registers that the product needs.
template <class T>
NOINLINE void advance_scan(T* gates, const T* old_cell, T* cell, T* state, int64_t n_rows, int64_t h) {
  for (int64_t m = 0; m < n_rows; m++, gates += 4 * h, old_cell += h, cell += h, state += h)
    for (int64_t i = 0; i < h; i += SIZE<T>) {
      const int64_t count = h - i;
      T *const keep_at = gates + i, *const forget_at = keep_at + h, *const emit_at = forget_at + h;
      T* const candidate_at = emit_at + h;
      const Vec<T> keep = sigmoid<T>(load(keep_at, count)), forget = sigmoid<T>(load(forget_at, count));
      const Vec<T> emit = sigmoid<T>(load(emit_at, count)), candidate = tanh<T>(load(candidate_at, count));
      const Vec<T> now = forget * load(old_cell + i, count) + keep * candidate;
      store(keep_at, keep, count);
      store(forget_at, forget, count);
      store(emit_at, emit, count);
      store(candidate_at, candidate, count);
      store(cell + i, now, count);
      store(state + i, Vec<T>(emit * tanh<T>(now)), count);
    }
}

// Of window w at a step, its row of the gates: where they are those of cells, found through windows (W, L).
INLINE int64_t row_of(const int64_t* windows, int64_t w, int64_t step, int64_t n_steps, int64_t n_windows) {
  return windows ? windows[w * n_steps + step] : step * n_windows + w;
}

// gates (L, W, 4H), or (N, 4H) with windows. cells and active are for the backward, and null where there is none to come.
template <class T>
void scan_forward(const T* gates, const int64_t* windows, const T* weight, const T* hidden, const T* cell, T* states,
                  T* cells, T* active, int64_t n_steps, int64_t n_windows, int64_t h) {
  const int64_t n_columns = vectors<T>(4 * h), q = n_columns * SIZE<T>;
  Scratch<T> padded(h * q), own_cells(BLOCK * h), own_active(BLOCK * 4 * h);
  copy_rows<T>(padded, q, weight, 4 * h, h, 4 * h);
  for (int64_t window = 0; window < n_windows; window += BLOCK) {
    const int64_t n_rows = std::min(BLOCK, n_windows - window);
    const T *old_hidden = hidden + window * h, *old_cell = cell + window * h;
    for (int64_t step = 0; step < n_steps; step++) {
      const int64_t at = (step * n_windows + window) * h;
      const T* from[BLOCK];
      for (int64_t m = 0; m < n_rows; m++)
        from[m] = gates + 4 * h * row_of(windows, window + m, step, n_steps, n_windows);
      T *state = states + at, *now = cells ? cells + at : own_cells, *to = active ? active + 4 * at : own_active;
      product<T>(
          n_rows, n_columns, h, old_hidden, h, 1, padded, q,
          LAMBDA(int64_t m, int64_t j) { return load(from[m] + j * SIZE<T>, 4 * h - j * SIZE<T>); },
          LAMBDA(int64_t m, int64_t j, Vec<T> v) { store(to + 4 * m * h + j * SIZE<T>, v, 4 * h - j * SIZE<T>); });
      advance_scan(to, old_cell, now, state, n_rows, h);
      old_hidden = state;
      old_cell = now;
    }
  }
}

// From d_state, the gradient of the hidden state, to those of the gates before their nonlinearities and the old cell.
template <class T>
NOINLINE void retreat_scan(const T* d_state, int64_t d_row, const T* gates, const T* old_cell, const T* cell,
                           T* d_gates, T* d_cell, int64_t n_rows, int64_t h) {
  for (int64_t m = 0; m < n_rows; m++, gates += 4 * h, d_gates += 4 * h, old_cell += h, cell += h, d_state += d_row,
               d_cell += d_row)
    for (int64_t i = 0; i < h; i += SIZE<T>) {
      const int64_t count = h - i;
      const T* gate = gates + i;
      const Vec<T> keep = load(gate, count), forget = load(gate + h, count), emit = load(gate + 2 * h, count);
      const Vec<T> candidate = load(gate + 3 * h, count), squashed = tanh<T>(load(cell + i, count));
      const Vec<T> d_emitted = load(d_state + i) * emit;
      const Vec<T> d_now = load(d_cell + i) + d_emitted - d_emitted * squashed * squashed;
      T* d_gate = d_gates + i;
      store(d_gate, Vec<T>(d_now * candidate * (keep - keep * keep)), count);
      store(d_gate + h, Vec<T>(d_now * load(old_cell + i, count) * (forget - forget * forget)), count);
      store(d_gate + 2 * h, Vec<T>(d_emitted * squashed * (T(1) - emit)), count);
      store(d_gate + 3 * h, Vec<T>(d_now * keep * (T(1) - candidate * candidate)), count);
      store(d_cell + i, Vec<T>(d_now * forget));
    }
}

// d_gates (L, W, 4H), or (N, 4H) with windows, and then zero at first.
template <class T>
void scan_backward(const T* d_states, const int64_t* windows, const T* weight, const T* hidden, const T* cell,
                   const T* states, const T* cells, const T* active, T* d_gates, T* d_weight, T* d_hidden, T* d_cell,
                   int64_t n_steps, int64_t n_windows, int64_t h) {
  const int64_t n_columns = vectors<T>(h), p = n_columns * SIZE<T>;
  const int64_t n_gate_columns = vectors<T>(4 * h), q = n_gate_columns * SIZE<T>;
  Scratch<T> transposed(4 * h * p), d_state(BLOCK * p), d_carried(n_windows * p), d_weight_padded(h * q);
  Scratch<T> d_gates_padded(q > 4 * h ? n_windows * q : 1);
  Scratch<T> own(windows ? 2 * n_windows * 4 * h : 1);  // of this step and the one after, where they are not given back
  const auto d_gates_at = [&](int64_t step) -> T* {
    return windows ? own + step % 2 * n_windows * 4 * h : d_gates + step * n_windows * 4 * h;
  };
  transpose<T>(transposed, p, weight, 4 * h, h, 4 * h);
  for (int64_t step = n_steps - 1; step >= 0; step--) {
    const int64_t row = step * n_windows;  // of (L * W, ...)
    const T* old_hidden = step ? states + (row - n_windows) * h : hidden;
    const T* old_cell = step ? cells + (row - n_windows) * h : cell;
    const bool is_last = step == n_steps - 1;
    T *const now = d_gates_at(step), *const after = is_last ? now : d_gates_at(step + 1);
    for (int64_t window = 0; window < n_windows; window += BLOCK) {
      const int64_t n_rows = std::min(BLOCK, n_windows - window), at = (row + window) * h;
      product<T>(
          n_rows, n_columns, is_last ? 0 : 4 * h, after + 4 * window * h, 4 * h, 1, transposed, p,
          LAMBDA(int64_t m, int64_t j) { return load(d_states + at + m * h + j * SIZE<T>, h - j * SIZE<T>); },
          LAMBDA(int64_t m, int64_t j, Vec<T> v) { store(d_state + m * p + j * SIZE<T>, v); });
      retreat_scan<T>(d_state, p, active + 4 * at, old_cell + window * h, cells + at, now + 4 * window * h,
                      d_carried + window * p, n_rows, h);
    }
    const T* right = now;
    if (q > 4 * h) {
      copy_rows<T>(d_gates_padded, q, right, 4 * h, n_windows, 4 * h);
      right = d_gates_padded;
    }
    add_product<T>(h, n_gate_columns, n_windows, old_hidden, h, right, q, d_weight_padded);
    if (!windows) continue;
    for (int64_t w = 0; w < n_windows; w++) {
      T* to = d_gates + 4 * h * row_of(windows, w, step, n_steps, n_windows);
      const T* from = now + 4 * w * h;
      for (int64_t i = 0; i < 4 * h; i += SIZE<T>)
        store(to + i, Vec<T>(load(to + i, 4 * h - i) + load(from + i, 4 * h - i)), 4 * h - i);
    }
  }
  product<T>(
      n_windows, n_columns, 4 * h, d_gates_at(0), 4 * h, 1, transposed, p, LAMBDA(int64_t, int64_t) { return Vec<T>{}; },
      LAMBDA(int64_t m, int64_t j, Vec<T> v) { store(d_hidden + m * h + j * SIZE<T>, v, h - j * SIZE<T>); });
  copy_rows<T>(d_cell, h, d_carried, p, n_windows, h);
  copy_rows<T>(d_weight, 4 * h, d_weight_padded, q, h, 4 * h);
}

// ---------------------------------------------------------------- variable selection

constexpr double NORM_EPSILON = 1e-5;

enum Parameter {  // the fields of VariableGRNs, in their order
  CONSTANT, SLOPE, SECOND_WEIGHT, SECOND_BIAS, GATE_WEIGHT, GATE_BIAS, NORM_WEIGHT, NORM_BIAS, EMBED_WEIGHT, EMBED_BIAS,
  N_PARAMETERS
};

int64_t rows_of(int parameter, int64_t h) {  // of width H, in one variable's (H,), (2H,), (H, H) or (H, 2H)
  return parameter == SECOND_WEIGHT ? h : parameter == GATE_WEIGHT ? 2 * h : parameter == GATE_BIAS ? 2 : 1;
}

// The parameters of one variable's GRN, or their gradients, every H of them followed by zeros to P.
template <class T> class Padded {
 public:
  Padded(int64_t h, int64_t p) : h(h), p(p), memory((3 * h + 9) * p) {
    T* next = memory;
    for (int i = 0; i < N_PARAMETERS; next += rows_of(i++, h) * p) start[i] = next;
  }
  T* operator[](int parameter) const { return start[parameter]; }
  void read(void* const* from, int64_t variable) {
    for (int i = 0; i < N_PARAMETERS; i++) {
      const int64_t n = rows_of(i, h);
      copy_rows(start[i], p, static_cast<T*>(from[i]) + variable * n * h, h, n, h);
    }
  }
  void write(void* const* to, int64_t variable) const {
    for (int i = 0; i < N_PARAMETERS; i++) {
      const int64_t n = rows_of(i, h);
      copy_rows(static_cast<T*>(to[i]) + variable * n * h, h, start[i], p, n, h);
    }
  }
  void clear() { std::memset(memory, 0, (3 * h + 9) * p * sizeof(T)); }

 private:
  int64_t h, p;
  Scratch<T> memory;
  T* start[N_PARAMETERS];
};

// Of one fold; see seeded_bits in dropout.py. There is none at a scale of 0.
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

// rows (n, P) times the scale, or -0 where an element is dropped and nowhere else, but a NaN stays one; `row` is the first
// one's number
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

// The gradient of `drop`, which gave `dropped`.
template <class T> INLINE Vec<T> drop_gradient(Vec<T> d, Vec<T> dropped, const Dropout& dropout) {
  constexpr auto minus_zero = std::numeric_limits<typename Vectors<T>::Element>::min();
  return dropout.scale ? ((Whole<T>)dropped == minus_zero ? Vec<T>{} : d * T(dropout.scale)) : d;
}

// What a block of n cells goes through, but for the first layer, which is cheap to compute again.
template <class T> struct Layers {
  Layers(T* memory, int64_t n, int64_t p) : second(memory), gated(memory + n * p) {}
  T* second;  // (n, P) after the second layer and dropout
  T* gated;   // (n, 2P) the value, and the gate after its sigmoid
  static int64_t size(int64_t n, int64_t p) { return n * 3 * p; }
};

// Those of a call for its backward: of the first variables of each fold, as many as there is memory for.
template <class T> struct Kept {
  T* memory;
  int64_t n_variables, n_cells, p;
  T* at(int64_t fold, int64_t variable, int64_t cell) const {
    if (variable >= n_variables) return nullptr;
    return memory + Layers<T>::size((fold * n_variables + variable) * n_cells + cell, p);
  }
};

// To the second level of the cache, where a product leaves room: a third of a row, for each vector of that product.
template <class T> INLINE void fetch_kept(const T* from) {
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) __builtin_prefetch(from + i * SIZE<T>, 0, 2);
}

template <class T>
NOINLINE void first_layer(const Padded<T>& grn, const T* x, T* hidden, int64_t n, int64_t p) {
  for (int64_t m = 0; m < n; m++, hidden += p)
    for (int64_t i = 0; i < p; i += SIZE<T>) {
      const Vec<T> v = load(grn[CONSTANT] + i) + x[m] * load(grn[SLOPE] + i);
      store(hidden + i, Vec<T>(v > T(0) ? v : exponential<T>(v) - T(1)));
    }
}

template <class T> NOINLINE void squash_gates(T* gated, int64_t n, int64_t p) {
  for (int64_t m = 0; m < n; m++)
    for (T *gate = gated + m * 2 * p + p, *end = gate + p; gate < end; gate += SIZE<T>)
      store(gate, sigmoid<T>(load(gate)));
}

// NOINLINE, so that it is the same instructions and gives the same bits wherever it is called.
template <class T>
NOINLINE void through_layers(const Padded<T>& grn, const T* hidden, const Dropout& dropout, int64_t row,
                             const Layers<T>& to, int64_t n, int64_t h, int64_t p) {
  const int64_t n_columns = p / SIZE<T>;
  product<T>(
      n, n_columns, h, hidden, p, 1, grn[SECOND_WEIGHT], p,
      LAMBDA(int64_t, int64_t j) { return load(grn[SECOND_BIAS] + j * SIZE<T>); },
      LAMBDA(int64_t m, int64_t j, Vec<T> v) { store(to.second + m * p + j * SIZE<T>, v); });
  drop<T>(to.second, dropout, row, n, h, p);
  product<T>(
      n, 2 * n_columns, h, to.second, p, 1, grn[GATE_WEIGHT], 2 * p,
      LAMBDA(int64_t, int64_t j) { return load(grn[GATE_BIAS] + j * SIZE<T>); },
      LAMBDA(int64_t m, int64_t j, Vec<T> v) { store(to.gated + m * 2 * p + j * SIZE<T>, v); });
  squash_gates<T>(to.gated, n, p);
}

// Skip and layer norm of rows (n, P): to `centred`, and 1 / standard deviation to inverse_std (n,). `valid` (P,) is 1
// for an element of H and 0 after. In passes over all rows, so that one row is worked on while the reductions of
// another are waited for.
template <class T>
INLINE void normalise(const Padded<T>& grn, const T* x, const T* valid, const T* gated, T* centred, T* inverse_std,
                      int64_t n, int64_t h, int64_t p) {
  const T share = T(1) / h;
  T* mean = inverse_std;  // until the second pass
  for (int64_t m = 0; m < n; m++) {
    Vec<T> total{};
    for (int64_t i = 0; i < p; i += SIZE<T>) {
      const T *const value = gated + m * 2 * p + i, *const gate = value + p;
      const Vec<T> embedded = load(grn[EMBED_BIAS] + i) + x[m] * load(grn[EMBED_WEIGHT] + i);
      const Vec<T> skip = embedded + load(value) * load(gate);
      store(centred + m * p + i, skip);
      total += skip;
    }
    mean[m] = sum(total) * share;
  }
  for (int64_t m = 0; m < n; m++) {
    Vec<T> squares{};
    for (int64_t i = 0; i < p; i += SIZE<T>) {
      const Vec<T> v = load(centred + m * p + i) - mean[m] * load(valid + i);
      store(centred + m * p + i, v);
      squares += v * v;
    }
    inverse_std[m] = sum(squares) * share + T(NORM_EPSILON);
  }
  for (int64_t m = 0; m < n; m++) inverse_std[m] = 1 / std::sqrt(inverse_std[m]);
}

template <class T>
NOINLINE void add_selected(const Padded<T>& grn, const T* x, const T* weights, const T* valid, const T* gated,
                           T* centred, T* selected, int64_t n, int64_t h, int64_t p) {
  T inverse_std[BLOCK];
  normalise(grn, x, valid, gated, centred, inverse_std, n, h, p);
  for (int64_t m = 0; m < n; m++)
    for (int64_t i = 0; i < p; i += SIZE<T>) {
      T* to = selected + m * p + i;
      const Vec<T> normed = load(centred + m * p + i) * inverse_std[m];
      store(to, Vec<T>(load(to) + weights[m] * (normed * load(grn[NORM_WEIGHT] + i) + load(grn[NORM_BIAS] + i))));
    }
}

// Its gradients.
template <class T>
NOINLINE void backward_selected(const Padded<T>& grn, const Padded<T>& d_grn, const T* x, const T* weights,
                                const T* d_selected, const T* valid, const T* gated, T* d_gated, T* centred,
                                T* d_weights, int64_t n, int64_t h, int64_t p) {
  T inverse_std[BLOCK], scale[BLOCK], across[BLOCK], along[BLOCK];
  normalise(grn, x, valid, gated, centred, inverse_std, n, h, p);
  const T share = T(1) / h;
  for (int64_t m = 0; m < n; m++) {
    Vec<T> d_total{}, d_along{}, d_bias{};
    for (int64_t i = 0; i < p; i += SIZE<T>) {
      const Vec<T> d = load(d_selected + m * p + i), d_normed = d * load(grn[NORM_WEIGHT] + i);
      d_total += d_normed;
      d_along += d_normed * load(centred + m * p + i);
      d_bias += d * load(grn[NORM_BIAS] + i);
    }
    const T d_scaled = sum(d_along) * inverse_std[m];
    d_weights[m] = d_scaled + sum(d_bias);
    scale[m] = inverse_std[m] * weights[m];
    across[m] = sum(d_total) * share;
    along[m] = d_scaled * inverse_std[m] * share;
  }
  for (int64_t i = 0; i < p; i += SIZE<T>) {
    Vec<T> norm_weight{}, norm_bias{}, embed_weight{}, embed_bias{}, value_bias{}, gate_bias{};
    for (int64_t m = 0; m < n; m++) {
      const Vec<T> v = load(centred + m * p + i), d = load(d_selected + m * p + i);
      norm_weight += scale[m] * v * d;
      norm_bias += weights[m] * d;
      const Vec<T> d_centred = d * load(grn[NORM_WEIGHT] + i) - across[m] * load(valid + i) - along[m] * v;
      const Vec<T> d_skip = scale[m] * d_centred;
      embed_weight += x[m] * d_skip;
      embed_bias += d_skip;
      const int64_t at = m * 2 * p + i;
      const Vec<T> value = load(gated + at), gate = load(gated + at + p);
      const Vec<T> d_value = d_skip * gate, d_gate = d_value * value * (T(1) - gate);
      value_bias += d_value;
      gate_bias += d_gate;
      store(d_gated + at, d_value);
      store(d_gated + at + p, d_gate);
    }
    add_to(d_grn[NORM_WEIGHT] + i, norm_weight);
    add_to(d_grn[NORM_BIAS] + i, norm_bias);
    add_to(d_grn[EMBED_WEIGHT] + i, embed_weight);
    add_to(d_grn[EMBED_BIAS] + i, embed_bias);
    add_to(d_grn[GATE_BIAS] + i, value_bias);
    add_to(d_grn[GATE_BIAS] + p + i, gate_bias);
  }
}

template <class T>
NOINLINE void backward_biases(const Padded<T>& d_grn, const T* x, const T* hidden, const T* d_second, const T* d_hidden,
                              int64_t n, int64_t p) {
  for (int64_t i = 0; i < p; i += SIZE<T>) {
    Vec<T> second{}, constant{}, slope{};
    for (int64_t m = 0; m < n; m++) {
      const Vec<T> v = load(hidden + m * p + i);
      const Vec<T> d_first = load(d_hidden + m * p + i) * (v > T(0) ? all(T(1)) : v + T(1));  // e^a = elu(a) + 1
      second += load(d_second + m * p + i);
      constant += d_first;
      slope += x[m] * d_first;
    }
    add_to(d_grn[SECOND_BIAS] + i, second);
    add_to(d_grn[CONSTANT] + i, constant);
    add_to(d_grn[SLOPE] + i, slope);
  }
}

// in: x, weights, parameters (in the order of the enum); out: selected; sizes: K, V, N, H, variables that are kept, and a range
// of cells, the first a multiple of BLOCK
template <class T>
void select_forward(void* const* in, void* const* out, const int64_t* sizes, void* const* mask, void* memory) {
  const int64_t n_folds = sizes[0], n_variables = sizes[1], n_cells = sizes[2], h = sizes[3];
  const int64_t p = vectors<T>(h) * SIZE<T>, first = sizes[5], stop = sizes[6];
  const Kept<T> kept{static_cast<T*>(memory), sizes[4], n_cells, p};
  Padded<T> grn(h, p);
  Scratch<T> selected((stop - first) * p), valid(p), hidden(BLOCK * p), own_layers(Layers<T>::size(BLOCK, p));
  std::fill_n(static_cast<T*>(valid), h, T(1));
  for (int64_t fold = 0; fold < n_folds; fold++) {
    const Dropout dropout = dropout_of(mask, fold);
    std::memset(selected, 0, (stop - first) * p * sizeof(T));
    for (int64_t variable = 0; variable < n_variables; variable++) {
      const int64_t own = fold * n_variables + variable;  // row of (K * V, ...)
      grn.read(in + 2, own);
      for (int64_t cell = first; cell < stop; cell += BLOCK) {
        const int64_t n = std::min(BLOCK, stop - cell), at = own * n_cells + cell;
        const T *x = static_cast<T*>(in[0]) + at, *weights = static_cast<T*>(in[1]) + at;
        T* const to = kept.at(fold, variable, cell);
        const Layers<T> layers(to ? to : own_layers, n, p);
        first_layer<T>(grn, x, hidden, n, p);
        through_layers<T>(grn, hidden, dropout, variable * n_cells + cell, layers, n, h, p);
        add_selected<T>(grn, x, weights, valid, layers.gated, hidden, selected + (cell - first) * p, n, h, p);
      }
    }
    copy_rows<T>(static_cast<T*>(out[0]) + (fold * n_cells + first) * h, h, selected, p, stop - first, h);
  }
}

// in: d_selected, x, weights, parameters; out: gradients of weights and of the parameters; sizes as before, but for a range of
// variables
template <class T>
void select_backward(void* const* in, void* const* out, const int64_t* sizes, void* const* mask, void* memory) {
  const int64_t n_folds = sizes[0], n_variables = sizes[1], n_cells = sizes[2], h = sizes[3];
  const int64_t n_columns = vectors<T>(h), p = n_columns * SIZE<T>;
  const Kept<T> kept{static_cast<T*>(memory), sizes[4], n_cells, p};
  Padded<T> grn(h, p), d_grn(h, p);
  Scratch<T> d_selected(n_cells * p), valid(p), hidden(BLOCK * p), own_layers(Layers<T>::size(BLOCK, p));
  Scratch<T> d_gated(BLOCK * 2 * p), d_second(BLOCK * p), d_hidden(BLOCK * p);
  Scratch<T> second_transposed(h * p), gate_transposed(2 * p * p);
  std::fill_n(static_cast<T*>(valid), h, T(1));
  const auto zero = LAMBDA(int64_t, int64_t) { return Vec<T>{}; };
  for (int64_t fold = 0; fold < n_folds; fold++) {
    const Dropout dropout = dropout_of(mask, fold);
    copy_rows<T>(d_selected, p, static_cast<T*>(in[0]) + fold * n_cells * h, h, n_cells, h);
    for (int64_t variable = sizes[5]; variable < sizes[6]; variable++) {
      const int64_t own = fold * n_variables + variable;  // row of (K * V, ...)
      grn.read(in + 3, own);
      d_grn.clear();
      transpose<T>(second_transposed, p, grn[SECOND_WEIGHT], p, h, h);
      transpose<T>(gate_transposed, p, grn[GATE_WEIGHT], 2 * p, h, 2 * p);
      for (int64_t cell = 0; cell < n_cells; cell += BLOCK) {
        const int64_t n = std::min(BLOCK, n_cells - cell), at = own * n_cells + cell;
        const T *x = static_cast<T*>(in[1]) + at, *weights = static_cast<T*>(in[2]) + at;
        T* const from = kept.at(fold, variable, cell);
        const Layers<T> layers(from ? from : own_layers, n, p);
        first_layer<T>(grn, x, hidden, n, p);
        if (!from) through_layers<T>(grn, hidden, dropout, variable * n_cells + cell, layers, n, h, p);
        backward_selected<T>(grn, d_grn, x, weights, d_selected + cell * p, valid, layers.gated, d_gated, d_second,
                             static_cast<T*>(out[0]) + at, n, h, p);
        add_product<T>(h, 2 * n_columns, n, layers.second, p, d_gated, 2 * p, d_grn[GATE_WEIGHT]);
        product<T>(n, n_columns, 2 * p, d_gated, 2 * p, 1, gate_transposed, p, zero,
                   LAMBDA(int64_t m, int64_t j, Vec<T> v) {
                     const int64_t to = m * p + j * SIZE<T>;
                     store(d_second + to, drop_gradient<T>(v, load(layers.second + to), dropout));
                     if (from) fetch_kept<T>(from + Layers<T>::size(n, p) + (m * n_columns + j) * 3 * SIZE<T>);
                   });
        add_product<T>(h, n_columns, n, hidden, p, d_second, p, d_grn[SECOND_WEIGHT]);
        product<T>(n, n_columns, h, d_second, p, 1, second_transposed, p, zero,
                   LAMBDA(int64_t m, int64_t j, Vec<T> v) { store(d_hidden + m * p + j * SIZE<T>, v); });
        backward_biases<T>(d_grn, x, hidden, d_second, d_hidden, n, p);
      }
      d_grn.write(out + 1, own);
    }
  }
}

// ---------------------------------------------------------------- dropout

// in: x (K, N); out: x with elements dropped
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

// ---------------------------------------------------------------- gated norm

// A row of skip + value * sigmoid(gate), less its mean, followed by zeros to whole vectors, and its gate, followed by what
// nobody reads; returns the row's inverse deviation. `valid` is 1 for an element of H and 0 after.
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

// ---------------------------------------------------------------- called by native.py, which knows the orders

// of folds laid one after the other, from pointers to the first; of gates (K, N, 4H) where there are windows (K, W, L)
template <class T>
void scan_forward_folds(void* const* in, void* const* out, const int64_t* sizes, const int64_t* windows) {
  const int64_t n_folds = sizes[0], l = sizes[1], w = sizes[2], h = sizes[3], n = sizes[4];
  const auto at = [](void* p, int64_t offset) { return p ? static_cast<T*>(p) + offset : nullptr; };
  for (int64_t k = 0; k < n_folds; k++)
    scan_forward<T>(
        at(in[0], k * n * 4 * h), windows ? windows + k * w * l : nullptr, at(in[1], k * h * 4 * h),
        at(in[2], k * w * h), at(in[3], k * w * h), at(out[0], k * l * w * h), at(out[1], k * l * w * h),
        at(out[2], k * l * w * 4 * h), l, w, h);
}

template <class T>
void scan_backward_folds(void* const* in, void* const* out, const int64_t* sizes, const int64_t* windows) {
  const int64_t n_folds = sizes[0], l = sizes[1], w = sizes[2], h = sizes[3], n = sizes[4];
  const auto at = [](void* p, int64_t offset) { return static_cast<T*>(p) + offset; };
  for (int64_t k = 0; k < n_folds; k++)
    scan_backward<T>(
        at(in[0], k * l * w * h), windows ? windows + k * w * l : nullptr, at(in[1], k * h * 4 * h),
        at(in[2], k * w * h), at(in[3], k * w * h), at(in[4], k * l * w * h), at(in[5], k * l * w * h),
        at(in[6], k * l * w * 4 * h), at(out[0], k * n * 4 * h), at(out[1], k * h * 4 * h), at(out[2], k * w * h),
        at(out[3], k * w * h), l, w, h);
}

}  // namespace

#define EXPORT(T, NAME)                                                                              \
  void adam_##NAME(void* const* in, void* const* state, const int64_t* sizes) {                      \
    adam<T>(in, state, sizes);                                                                       \
  }                                                                                                  \
  void scan_forward_##NAME(void* const* in, void* const* out, const int64_t* sizes,                  \
                           const int64_t* windows) {                                                 \
    scan_forward_folds<T>(in, out, sizes, windows);                                                  \
  }                                                                                                  \
  void scan_backward_##NAME(void* const* in, void* const* out, const int64_t* sizes,                 \
                            const int64_t* windows) {                                                \
    scan_backward_folds<T>(in, out, sizes, windows);                                                 \
  }                                                                                                  \
  void select_forward_##NAME(void* const* in, void* const* out, const int64_t* sizes,                \
                                 void* const* mask, void* memory) {                                  \
    select_forward<T>(in, out, sizes, mask, memory);                                                 \
  }                                                                                                  \
  void select_backward_##NAME(void* const* in, void* const* out, const int64_t* sizes,               \
                                  void* const* mask, void* memory) {                                 \
    select_backward<T>(in, out, sizes, mask, memory);                                                \
  }                                                                                                  \
  void gated_norm_forward_##NAME(void* const* in, void* const* out, const int64_t* sizes) {          \
    gated_norm_forward<T>(in, out, sizes);                                                           \
  }                                                                                                  \
  void gated_norm_backward_##NAME(void* const* in, void* const* out, const int64_t* sizes) {         \
    gated_norm_backward<T>(in, out, sizes);                                                          \
  }                                                                                                  \
  void drop_folds_##NAME(void* const* in, void* const* out, const int64_t* sizes,                    \
                         void* const* mask) {                                                        \
    drop_folds<T>(in, out, sizes, mask);                                                             \
  }

extern "C" {
EXPORT(float, float32)
EXPORT(double, float64)
}
