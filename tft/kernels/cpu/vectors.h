// Vectors by the extension of gcc and clang, as long as the vector registers of the target machine, and operations on
// them.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define LAMBDA(...) [&](__VA_ARGS__) __attribute__((always_inline))

namespace {

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

// The first `count` elements of a vector, the others 0, for rows that are no whole number of vectors.
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

// Operations that the compiler's extension lacks or compiles to slow code. A NaN in x stays NaN.
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

// e^x = 2^n e^r with |r| <= ln(2) / 2, where 14 terms of the series (7 for float) reach the precision of T.
// Arguments are clamped so that neither the result nor its reciprocal overflows. A NaN stays NaN.
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

}  // namespace
