// The LSTM for scan.py.
//
// Shapes: K folds, L look-back bars, W windows, N cells, H hidden width; P and Q are H and 4H rounded up to
// whole vectors.
// Gates are laid out input | forget | output | candidate.

#pragma once

#include <algorithm>
#include <cstdint>

#include "matrices.h"

namespace {

// Applies the gates' nonlinearities in place, and computes the new states. NOINLINE, so that its constants do not occupy
// registers that the product needs.
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

// Row of the gates of window w at a step, looked up in windows (W, L) if the gates are those of distinct cells.
INLINE int64_t row_of(const int64_t* windows, int64_t w, int64_t step, int64_t n_steps, int64_t n_windows) {
  return windows ? windows[w * n_steps + step] : step * n_windows + w;
}

// gates (L, W, 4H), or (N, 4H) with windows. cells and active are saved for the backward, and null in forecasts.
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

// Gradients of the gates before their nonlinearities and of the previous cell state, from d_state, that of the hidden
// state.
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

// d_gates (L, W, 4H), or (N, 4H) with windows; in that case it must be zero at first.
template <class T>
void scan_backward(const T* d_states, const int64_t* windows, const T* weight, const T* hidden, const T* cell,
                   const T* states, const T* cells, const T* active, T* d_gates, T* d_weight, T* d_hidden, T* d_cell,
                   int64_t n_steps, int64_t n_windows, int64_t h) {
  const int64_t n_columns = vectors<T>(h), p = n_columns * SIZE<T>;
  const int64_t n_gate_columns = vectors<T>(4 * h), q = n_gate_columns * SIZE<T>;
  Scratch<T> transposed(4 * h * p), d_state(BLOCK * p), d_carried(n_windows * p), d_weight_padded(h * q);
  Scratch<T> d_gates_padded(q > 4 * h ? n_windows * q : 1);
  Scratch<T> own(windows ? 2 * n_windows * 4 * h : 1);  // gradients of this step and the next, if they are not returned
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

// Functions of all folds, from pointers to the first one's tensors; with windows (K, W, L), gates are (K, N, 4H).
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
