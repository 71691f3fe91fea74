// The variable selection for select.py. Intermediate values stay in registers and in the cache; the backward recomputes
// those that the forward did not save.
//
// Shapes: K folds, V variables, N cells, H hidden width; P is H rounded up to whole vectors. Gates are laid out
// value | gate.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "dropout.h"
#include "matrices.h"

namespace {

enum Parameter {  // the fields of VariableGRNs, in their order
  CONSTANT, SLOPE, SECOND_WEIGHT, SECOND_BIAS, GATE_WEIGHT, GATE_BIAS, NORM_WEIGHT, NORM_BIAS, EMBED_WEIGHT, EMBED_BIAS,
  N_PARAMETERS
};

int64_t rows_of(int parameter, int64_t h) {  // rows of width H in one variable's (H,), (2H,), (H, H) or (H, 2H)
  return parameter == SECOND_WEIGHT ? h : parameter == GATE_WEIGHT ? 2 * h : parameter == GATE_BIAS ? 2 : 1;
}

// The parameters of one variable's GRN, or their gradients, with rows of width H padded by zeros to P.
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

// Intermediate values of a block of n cells, except for the first layer, which is cheap to recompute.
template <class T> struct Layers {
  Layers(T* memory, int64_t n, int64_t p) : second(memory), gated(memory + n * p) {}
  T* second;  // (n, P) after the second layer and dropout
  T* gated;   // (n, 2P) the value, and the gate after its sigmoid
  static int64_t size(int64_t n, int64_t p) { return n * 3 * p; }
};

// Intermediate values that a forward saves: those of the first variables of each fold, as many as fit the memory.
template <class T> struct Kept {
  T* memory;
  int64_t n_variables, n_cells, p;
  T* at(int64_t fold, int64_t variable, int64_t cell) const {
    if (variable >= n_variables) return nullptr;
    return memory + Layers<T>::size((fold * n_variables + variable) * n_cells + cell, p);
  }
};

// Prefetches into the L2 cache while a product computes: a third of a row for each vector of that product.
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

// NOINLINE, so that every call runs the same instructions and gives the same bits.
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

// Skip connection and layer norm of rows (n, P): writes `centred`, and 1 / standard deviation to inverse_std (n,).
// `valid` (P,) is 1 for elements of H and 0 for the padding. In passes over all rows, so that the reductions of one row
// overlap with the work on others.
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

// Gradients of the skip connection and the layer norm.
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

// in: x, weights, parameters (in the order of the enum); out: selected; sizes: K, V, N, H, number of variables saved,
// and a range of cells that starts at a multiple of BLOCK
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

// in: d_selected, x, weights, parameters; out: gradients of weights and of the parameters; sizes as in the forward, with
// a range of variables
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

}  // namespace
