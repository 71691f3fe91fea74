// The LSTM on an NVIDIA GPU, compiled and called by scan.py.
//
// A block takes 16 windows of one fold through all bars. A warp has 8 columns of the state and what belongs to them of
// all four gates, so that the cell state never leaves its registers; between two bars only the hidden state (forward)
// or the gates' gradients (backward) go through shared memory, where each warp takes them from for its own product.
//
// Shapes: K folds, L look-back bars, W windows, H hidden width (given by the compiler's command line), P = H rounded up
// to 8, the rest zeros: zero gates and a zero state stay a zero state. Gates are laid out input | forget | output |
// candidate along the last dimension of size 4H. Tiles are those of mma.cuh.

#include "mma.cuh"

constexpr int P = (H + 7) / 8 * 8;
constexpr int TILES = P / 8;  // and warps of a block
constexpr int ROWS = 16;      // windows of a block
constexpr bool KEPT = P <= 64;  // the weight is held in shared memory; otherwise it is read from the cache at every bar
enum Gate { INPUT, FORGET, OUTPUT, CANDIDATE, N_GATES };

// Lengths of rows in shared memory for which no two lanes of a load share a bank
constexpr int STATE_ROW = P + (P % 16 ? 16 : 8);
constexpr int GATES_ROW = N_GATES * P + 8;
constexpr int FORWARD_WEIGHT_ROW = N_GATES * P + 4, BACKWARD_WEIGHT_ROW = N_GATES * P + 8;

struct Forward {  // shared memory of a block
  float states[2][ROWS * STATE_ROW];
  float weight[KEPT ? P * FORWARD_WEIGHT_ROW : 1];
};
struct Backward {
  float d_gates[2][ROWS * GATES_ROW];
  float weight[KEPT ? P * BACKWARD_WEIGHT_ROW : 1];
};

__device__ void clear(void* memory, int bytes) {
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) static_cast<float*>(memory)[i] = 0.0f;
}
__device__ void read(float* to, const float* weight, int length) {
  if (!KEPT) return;
  for (int i = threadIdx.x; i < H * N_GATES * H; i += blockDim.x) {
    const int row = i / (N_GATES * H), column = i % (N_GATES * H);
    to[row * length + column / H * P + column % H] = weight[i];
  }
}
// index of a hidden row and a gate column, both of the padded width
__device__ inline float weight_at(const float* kept, const float* weight, int row, int gate, int column, int length) {
  if (KEPT) return kept[row * length + gate * P + column];
  return row < H && column < H ? __ldg(weight + row * N_GATES * H + gate * H + column) : 0.0f;
}

// Odd polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel: relative error about 1e-7 everywhere
__device__ inline float tanh_of(float x) {
  const float square = x * x;
  float near = -0.05266802757978439f + square * 0.016432009637355804f;
  near = -0.3333294093608856f + square * (0.13320642709732056f + square * near);
  near = x + x * square * near;
  const float far = 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * fminf(fabsf(x), 20.0f)));
  return fabsf(x) < 0.55f ? near : copysignf(far, x);
}

// This lane's part of a tile: rows first + g and first + g + 8 of W, two columns of H
struct Place {
  int row, column;
  bool rows[2], columns[2];
  __device__ Place(int n_windows) {
    row = blockIdx.x * ROWS + (threadIdx.x >> 2 & 7), column = threadIdx.x / 32 * 8 + 2 * (threadIdx.x & 3);
    rows[0] = row < n_windows, rows[1] = row + 8 < n_windows;
    columns[0] = column < H, columns[1] = column + 1 < H;
  }
  // of rows `length` apart, at `offset` of each
  __device__ void load(float (&to)[4], const float* from, long length, int offset) const {
    const long both[2] = {row, row + 8};
    load(to, from, both, length, offset);
  }
  __device__ void load(float (&to)[4], const float* from, const long (&both)[2], long length, int offset) const {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const float* own = from + both[r] * length + offset + column;
      if (H % 2 == 0) {
        const bool seen = rows[r] && columns[0];
        const float2 pair = seen ? *reinterpret_cast<const float2*>(own) : make_float2(0.0f, 0.0f);
        to[2 * r] = pair.x, to[2 * r + 1] = pair.y;
      } else {
        to[2 * r] = rows[r] && columns[0] ? own[0] : 0.0f;
        to[2 * r + 1] = rows[r] && columns[1] ? own[1] : 0.0f;
      }
    }
  }
  __device__ void store(float* to, const float (&from)[4], long length, int offset) const {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float* own = to + (row + 8 * r) * length + offset + column;
      if (H % 2 == 0) {
        if (rows[r] && columns[0]) *reinterpret_cast<float2*>(own) = make_float2(from[2 * r], from[2 * r + 1]);
      } else {
        if (rows[r] && columns[0]) own[0] = from[2 * r];
        if (rows[r] && columns[1]) own[1] = from[2 * r + 1];
      }
    }
  }
};
// To and from rows of shared memory, at the places that the product of a warp reads
__device__ inline void share(float* to, int length, int column, const float (&from)[4]) {
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
  *reinterpret_cast<float2*>(to + g * length + column + 2 * t) = make_float2(from[0], from[1]);
  *reinterpret_cast<float2*>(to + (g + 8) * length + column + 2 * t) = make_float2(from[2], from[3]);
}
__device__ inline Left shared_tile(const float* from, int length, int column) {
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
  const float2 upper = *reinterpret_cast<const float2*>(from + g * length + column + 2 * t);
  const float2 lower = *reinterpret_cast<const float2*>(from + (g + 8) * length + column + 2 * t);
  return Left(upper.x, lower.x, upper.y, lower.y);
}

extern "C" __global__ void __launch_bounds__(32 * TILES, P <= 48 ? 3 : 1)
    scan_forward(const float* gates,        // (K, N, 4H), N = L * W without windows
                 const long long* windows,  // (K, W, L) rows of gates, or null
                 const float* weight,       // (K, H, 4H)
                 const float* hidden,       // (K, W, H)
                 const float* cell,         // (K, W, H)
                 float* states,             // (K, L, W, H), out
                 float* entering,           // (K, L, W, H), out: the states that a bar begins with; null with the next two
                 float* cells,              // (K, L, W, H), out
                 float* active,             // (K, L, W, 4H), out
                 int n_rows, int n_steps, int n_windows) {
  extern __shared__ float4 memory[];
  Forward& shared = *reinterpret_cast<Forward*>(memory);
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3, own = threadIdx.x / 32 * 8;
  const long fold = blockIdx.y, bar = long(n_windows) * H;
  const Place place(n_windows);
  const bool keep = active;
  gates += fold * n_rows * N_GATES * H;
  states += fold * n_steps * bar;
  if (windows) windows += fold * n_windows * n_steps;
  if (keep) entering += fold * n_steps * bar, cells += fold * n_steps * bar, active += fold * n_steps * bar * N_GATES;
  weight += fold * H * N_GATES * H;
  clear(&shared, sizeof shared);
  __syncthreads();
  read(shared.weight, weight, FORWARD_WEIGHT_ROW);

  float state[4], kept[4], next[N_GATES][4];
  place.load(state, hidden + fold * bar, H, 0);
  place.load(kept, cell + fold * bar, H, 0);
  share(shared.states[0], STATE_ROW, own, state);
  const auto load_gates = [&](int step) {
    long rows[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int window = place.row + 8 * r;
      rows[r] = windows && place.rows[r] ? windows[long(window) * n_steps + step] : long(step) * n_windows + window;
    }
#pragma unroll
    for (int i = 0; i < N_GATES; i++) place.load(next[i], gates, rows, N_GATES * H, i * H);
  };
  load_gates(0);
  __syncthreads();
  for (int step = 0; step < n_steps; step++) {
    float now[N_GATES][4];
#pragma unroll
    for (int i = 0; i < N_GATES; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) now[i][e] = next[i][e];
    if (step + 1 < n_steps) load_gates(step + 1);  // on their way while this bar is computed
    if (keep) place.store(entering, state, H, 0);
    const float* before = shared.states[step & 1];
#pragma unroll
    for (int k = 0; k < TILES; k++) {
      const Left a = shared_tile(before, STATE_ROW, 8 * k);
      const int row = 8 * k + 2 * t;
#pragma unroll
      for (int i = 0; i < N_GATES; i++)
        add(now[i], a, weight_at(shared.weight, weight, row, i, own + g, FORWARD_WEIGHT_ROW),
            weight_at(shared.weight, weight, row + 1, i, own + g, FORWARD_WEIGHT_ROW));
    }
#pragma unroll
    for (int e = 0; e < 4; e++) {
      now[INPUT][e] = sigmoid(now[INPUT][e]);
      now[FORGET][e] = sigmoid(now[FORGET][e]);
      now[OUTPUT][e] = sigmoid(now[OUTPUT][e]);
      now[CANDIDATE][e] = tanh_of(now[CANDIDATE][e]);
      kept[e] = now[FORGET][e] * kept[e] + now[INPUT][e] * now[CANDIDATE][e];
      state[e] = now[OUTPUT][e] * tanh_of(kept[e]);
    }
    share(shared.states[(step + 1) & 1], STATE_ROW, own, state);
#pragma unroll
    for (int i = 0; i < N_GATES; i++)
      if (keep) place.store(active, now[i], N_GATES * H, i * H);
    if (keep) {
      place.store(cells, kept, H, 0);
      entering += bar, cells += bar, active += bar * N_GATES;
    }
    place.store(states, state, H, 0);
    states += bar;
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(32 * TILES, P <= 48 ? 3 : 1)
    scan_backward(const float* d_states,  // (K, L, W, H)
                  const float* weight,    // (K, H, 4H)
                  const float* cell,      // (K, W, H)
                  const float* cells,     // (K, L, W, H)
                  const float* active,    // (K, L, W, 4H)
                  float* d_gates,         // (K, L, W, 4H), out
                  float* d_hidden,        // (K, W, H), out
                  float* d_cell,          // (K, W, H), out
                  int n_steps, int n_windows) {
  extern __shared__ float4 memory[];
  Backward& shared = *reinterpret_cast<Backward*>(memory);
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3, own = threadIdx.x / 32 * 8;
  const long fold = blockIdx.y, bar = long(n_windows) * H;
  const Place place(n_windows);
  const long last = (fold + 1) * n_steps * bar - bar;
  d_states += last, cells += last, active += last * N_GATES, d_gates += last * N_GATES;
  cell += fold * bar;
  weight += fold * H * N_GATES * H;
  clear(&shared, sizeof shared);
  __syncthreads();
  read(shared.weight, weight, BACKWARD_WEIGHT_ROW);

  float d_state[4] = {}, d_kept[4] = {}, after[4], next_d[4], next_cell[4], next[N_GATES][4];
  place.load(after, cells, H, 0);
  place.load(next_d, d_states, H, 0);
  place.load(next_cell, n_steps > 1 ? cells - bar : cell, H, 0);
#pragma unroll
  for (int i = 0; i < N_GATES; i++) place.load(next[i], active, N_GATES * H, i * H);
  __syncthreads();
  for (int step = n_steps - 1; step >= 0; step--) {
    float* to = shared.d_gates[step & 1];
    {
      float d[N_GATES][4];
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float keep = next[INPUT][e], forget = next[FORGET][e], emit = next[OUTPUT][e];
        const float candidate = next[CANDIDATE][e], before = next_cell[e], squashed = tanh_of(after[e]);
        const float d_hidden_now = d_state[e] + next_d[e], d_emitted = d_hidden_now * emit;
        const float d_now = d_kept[e] + d_emitted - d_emitted * squashed * squashed;
        d[INPUT][e] = d_now * candidate * (keep - keep * keep);
        d[FORGET][e] = d_now * before * (forget - forget * forget);
        d[OUTPUT][e] = d_emitted * squashed * (1.0f - emit);
        d[CANDIDATE][e] = d_now * keep * (1.0f - candidate * candidate);
        d_kept[e] = d_now * forget;
        after[e] = before;
      }
#pragma unroll
      for (int i = 0; i < N_GATES; i++) {
        share(to, GATES_ROW, i * P + own, d[i]);
        place.store(d_gates, d[i], N_GATES * H, i * H);
      }
    }
    d_states -= bar, cells -= bar, active -= bar * N_GATES, d_gates -= bar * N_GATES;
    if (step) {  // on their way while the product is computed
      place.load(next_d, d_states, H, 0);
      place.load(next_cell, step > 1 ? cells - bar : cell, H, 0);
#pragma unroll
      for (int i = 0; i < N_GATES; i++) place.load(next[i], active, N_GATES * H, i * H);
    }
    __syncthreads();
    // d_gates @ weight^T, a sum for each gate: chains short enough to overlap
    float sums[N_GATES][4] = {};
#pragma unroll
    for (int k = 0; k < TILES; k++)
#pragma unroll
      for (int i = 0; i < N_GATES; i++) {
        const int column = 8 * k + 2 * t;
        add(sums[i], shared_tile(to, GATES_ROW, i * P + 8 * k),
            weight_at(shared.weight, weight, own + g, i, column, BACKWARD_WEIGHT_ROW),
            weight_at(shared.weight, weight, own + g, i, column + 1, BACKWARD_WEIGHT_ROW));
      }
#pragma unroll
    for (int e = 0; e < 4; e++) d_state[e] = (sums[0][e] + sums[1][e]) + (sums[2][e] + sums[3][e]);
  }
  place.store(d_hidden + fold * bar, d_state, H, 0);
  place.store(d_cell + fold * bar, d_kept, H, 0);
}
