// Variable selection on an NVIDIA GPU, compiled and called by select.py.
//
// A warp takes 16 cells of one variable through the whole chain in its registers, in the layout in which the tensor
// cores leave a product and take the next one's left operand (mma.cuh). Right operands lie in shared memory. Every sum
// has a fixed order.
//
// Shapes: K folds, V variables, N cells, H hidden width (given by the compiler's command line), P = H rounded up to 16,
// the rest zeros, S parts of a sum. Tiles are those of mma.cuh, their rows cells.

#include "mma.cuh"

constexpr int P = (H + 15) / 16 * 16;
constexpr int TILES = P / 8;
constexpr int FORWARD_WARPS = 6;
constexpr int BACKWARD_WARPS = TILES;  // each has its own columns of the weights' gradients
constexpr int ROWS = 16;               // of a warp
constexpr int CHUNK = ROWS * BACKWARD_WARPS;

typedef float Rows[TILES][4];  // 16 cells, P columns

// ---------------------------------------------------------------- shared memory

// Rows of a weight are a multiple of 32 floats, with groups of 8 columns swapped by row: so that neither rows nor
// columns of a tile share a bank.
constexpr int NARROW = (P + 31) / 32 * 32, WIDE = (2 * P + 31) / 32 * 32;
__device__ inline int swapped(int row) { return 8 * ((row & 3) ^ (row >> 2 & 1)); }
__device__ inline int at(int row, int column, int length) { return row * length + (column ^ swapped(row)); }

enum Vector { CONSTANT, SLOPE, SECOND_BIAS, VALUE_BIAS, GATE_BIAS, NORM_WEIGHT, NORM_BIAS, EMBED_WEIGHT, EMBED_BIAS };
constexpr int N_VECTORS = 9;

struct Grn {  // of one variable
  float second[P * NARROW];
  float gate[P * WIDE];  // value in columns 0 to P, gate from P on
  float vectors[N_VECTORS][P];
};

struct Parameters {  // of all folds and variables; or their gradients
  float *constant, *slope, *second_weight, *second_bias, *gate_weight, *gate_bias;
  float *norm_weight, *norm_bias, *embed_weight, *embed_bias;
};

constexpr int STEP = H % 4 ? 1 : 4;  // floats copied at once
__device__ inline void copy(float* to, const float* from) {
  const uint shared = __cvta_generic_to_shared(to);
  if (STEP == 4)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(from));
}
__device__ inline void commit() { asm volatile("cp.async.commit_group;"); }
template <int LEFT> __device__ inline void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// Elements beyond H are not written: they are zero from the start.
__device__ void read(Grn& to, const Parameters& from, long own) {
  constexpr int n = H / STEP;
  for (int i = threadIdx.x; i < H * n; i += blockDim.x) {
    const int row = i / n, column = i % n * STEP;
    copy(to.second + at(row, column, NARROW), from.second_weight + own * H * H + row * H + column);
    const float* gates = from.gate_weight + own * 2 * H * H + row * 2 * H + column;
    copy(to.gate + at(row, column, WIDE), gates);
    copy(to.gate + at(row, P + column, WIDE), gates + H);
  }
  const float* sources[N_VECTORS] = {from.constant + own * H,      from.slope + own * H,
                                     from.second_bias + own * H,   from.gate_bias + own * 2 * H,
                                     from.gate_bias + own * 2 * H + H, from.norm_weight + own * H,
                                     from.norm_bias + own * H,     from.embed_weight + own * H,
                                     from.embed_bias + own * H};
#pragma unroll
  for (int v = 0; v < N_VECTORS; v++)
    for (int i = threadIdx.x; i < n; i += blockDim.x) copy(to.vectors[v] + i * STEP, sources[v] + i * STEP);
}

__device__ void clear(void* memory, int bytes) {
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) static_cast<float*>(memory)[i] = 0.0f;
}

// ---------------------------------------------------------------- products

// to += rows @ weight, for the P columns from `column` on
__device__ inline void add_product(Rows& to, const Rows& rows, const float* weight, int column, int length) {
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
#pragma unroll
  for (int k = 0; k < TILES; k++) {
    const Left a(rows[k][0], rows[k][2], rows[k][1], rows[k][3]);
    const int row = 8 * k + 2 * t;
#pragma unroll
    for (int n = 0; n < TILES; n++)
      add(to[n], a, weight[at(row, column + 8 * n + g, length)], weight[at(row + 1, column + 8 * n + g, length)]);
  }
}
// to += rows @ weight^T, for the weight's P columns from `column` on
__device__ inline void add_transposed(Rows& to, const Rows& rows, const float* weight, int column, int length) {
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
#pragma unroll
  for (int k = 0; k < TILES; k++) {
    const Left a(rows[k][0], rows[k][2], rows[k][1], rows[k][3]);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      const float2 b = *reinterpret_cast<const float2*>(weight + at(8 * n + g, column + 8 * k + 2 * t, length));
      add(to[n], a, b.x, b.y);
    }
  }
}

// Cells of a chunk, one after the other, for sums over them: rows 8 or 24 banks apart.
constexpr int NARROW_STAGE = P + 8, WIDE_STAGE = 2 * P + 8;
__device__ inline void stage(float* to, int length, int column, const Rows& rows) {
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
  float* own = to + (threadIdx.x / 32 * ROWS + g) * length + column + 2 * t;
#pragma unroll
  for (int j = 0; j < TILES; j++) {
    *reinterpret_cast<float2*>(own + 8 * j) = make_float2(rows[j][0], rows[j][1]);
    *reinterpret_cast<float2*>(own + 8 * length + 8 * j) = make_float2(rows[j][2], rows[j][3]);
  }
}
// to += left^T @ right over all cells of a chunk: P rows, and COUNT tiles of columns from `column` on
template <int COUNT>
__device__ inline void add_over_cells(float (&to)[TILES / 2][COUNT][4], const float* left, const float* right,
                                      int length, int column) {
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
#pragma unroll 2
  for (int cell = t; cell < CHUNK; cell += 8) {
    const float *l = left + cell * NARROW_STAGE + g, *r = right + cell * length + column + g;
    const float *l4 = l + 4 * NARROW_STAGE, *r4 = r + 4 * length;
#pragma unroll
    for (int m = 0; m < TILES / 2; m++) {
      const Left a(l[16 * m], l[16 * m + 8], l4[16 * m], l4[16 * m + 8]);
#pragma unroll
      for (int n = 0; n < COUNT; n++) add(to[m][n], a, r[8 * n], r4[8 * n]);
    }
  }
}

// ---------------------------------------------------------------- the chain, element by element

struct Dropout {  // of one fold; see seeded_bits in dropout_mask.py
  uint low, high;
  int threshold;
  float scale;
  bool any;
  __device__ Dropout(const long long* seeds, const int* thresholds, const float* scales, int fold) : any(seeds) {
    if (!any) return;
    low = uint(seeds[fold]), high = uint(seeds[fold] >> 32), threshold = thresholds[fold], scale = scales[fold];
  }
  __device__ bool keeps(uint element) const {
    uint x = low + element;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15 ^ high) * 0x846ca68bu;
    return int(x ^ x >> 16) >> 16 >= threshold;
  }
};

// A lane's place in a tile
__device__ inline int column_of(int j, int i) { return 8 * j + 2 * (threadIdx.x & 3) + (i & 1); }
__device__ inline float of(const Grn& grn, Vector which, int j, int i) { return grn.vectors[which][column_of(j, i)]; }
__device__ inline float sum_of_row(float x) {  // over the four lanes that share it
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ inline float hidden_of(const Grn& grn, const float (&x)[2], int j, int i) {
  const float v = of(grn, CONSTANT, j, i) + x[i / 2] * of(grn, SLOPE, j, i);
  return v > 0.0f ? v : __expf(v) - 1.0f;
}

__device__ inline void first_layer(Rows& hidden, const Grn& grn, const float (&x)[2]) {
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) hidden[j][i] = hidden_of(grn, x, j, i);
}

// After dropout; a bit of `keeps` for each element that stays
__device__ inline void second_layer(Rows& kept, uint& keeps, const Grn& grn, const float (&x)[2],
                                    const Dropout& dropout, uint row) {
  Rows hidden;
  first_layer(hidden, grn, x);
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) kept[j][i] = of(grn, SECOND_BIAS, j, i);
  add_product(kept, hidden, grn.second, 0, NARROW);
  keeps = ~0u;
  if (!dropout.any) return;
  keeps = 0;
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool stays = dropout.keeps((row + 8 * (i / 2)) * H + column_of(j, i));
      kept[j][i] = stays ? kept[j][i] * dropout.scale : 0.0f;
      keeps |= uint(stays) << (4 * j + i);
    }
}

// value, gate after the sigmoid, normalised row, and inverse standard deviation
__device__ inline void gated(Rows& value, Rows& gate, Rows& normed, float (&inverse_std)[2], const Grn& grn,
                             const Rows& kept, const float (&x)[2]) {
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) value[j][i] = of(grn, VALUE_BIAS, j, i), gate[j][i] = of(grn, GATE_BIAS, j, i);
  add_product(value, kept, grn.gate, 0, WIDE);
  add_product(gate, kept, grn.gate, P, WIDE);
  float mean[2] = {}, square[2] = {};
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      gate[j][i] = sigmoid(gate[j][i]);
      normed[j][i] = of(grn, EMBED_BIAS, j, i) + x[i / 2] * of(grn, EMBED_WEIGHT, j, i) + value[j][i] * gate[j][i];
      mean[i / 2] += normed[j][i];
    }
#pragma unroll
  for (int r = 0; r < 2; r++) mean[r] = sum_of_row(mean[r]) * (1.0f / H);
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      normed[j][i] = P == H || column_of(j, i) < H ? normed[j][i] - mean[i / 2] : 0.0f;
      square[i / 2] += normed[j][i] * normed[j][i];
    }
#pragma unroll
  for (int r = 0; r < 2; r++) inverse_std[r] = rsqrtf(sum_of_row(square[r]) * (1.0f / H) + EPSILON);
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) normed[j][i] *= inverse_std[i / 2];
}

// ---------------------------------------------------------------- kernels

// The weighted sum (S, K, N, H) of a part of the variables; a block has 96 cells of one fold.
extern "C" __global__ void __launch_bounds__(32 * FORWARD_WARPS, 2)
    select_forward(const float* x,        // (K, V, N)
                   const float* weights,  // (K, V, N)
                   const Parameters parameters, const long long* seeds, const int* thresholds, const float* scales,
                   float* parts, int n_variables, int n_cells, int n_each) {
  extern __shared__ float4 memory[];
  Grn* grns = reinterpret_cast<Grn*>(memory);  // one in use, the next one on its way
  const int fold = blockIdx.y, first = blockIdx.z * n_each, last = min(first + n_each, n_variables) - 1;
  const int g = threadIdx.x >> 2 & 7;
  const int cell = (blockIdx.x * FORWARD_WARPS + threadIdx.x / 32) * ROWS + g;
  const bool there[2] = {cell < n_cells, cell + 8 < n_cells};
  const Dropout dropout(seeds, thresholds, scales, fold);
  clear(grns, 2 * sizeof(Grn));
  __syncthreads();
  read(grns[0], parameters, long(fold) * n_variables + first);
  commit();

  Rows total = {};
  for (int variable = first; variable <= last; variable++) {
    const long own = long(fold) * n_variables + variable;
    if (variable < last) read(grns[(variable - first + 1) & 1], parameters, own + 1);
    commit();
    float own_x[2], own_weight[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      own_x[r] = there[r] ? x[own * n_cells + cell + 8 * r] : 0.0f;
      own_weight[r] = there[r] ? weights[own * n_cells + cell + 8 * r] : 0.0f;
    }
    wait<1>();
    __syncthreads();
    const Grn& grn = grns[(variable - first) & 1];
    Rows kept, value, gate, normed;
    float inverse_std[2];
    uint keeps;
    second_layer(kept, keeps, grn, own_x, dropout, uint(variable) * n_cells + cell);
    gated(value, gate, normed, inverse_std, grn, kept, own_x);
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        total[j][i] += own_weight[i / 2] * (normed[j][i] * of(grn, NORM_WEIGHT, j, i) + of(grn, NORM_BIAS, j, i));
    __syncthreads();
  }
  float* to = parts + (long(blockIdx.z) * gridDim.y + fold) * n_cells * H;
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (there[i / 2] && (P == H || column_of(j, i) < H)) to[(cell + 8 * (i / 2)) * H + column_of(j, i)] = total[j][i];
}

struct Backward {
  Grn grn;
  float left[CHUNK * NARROW_STAGE];               // input of a layer
  float right[CHUNK * WIDE_STAGE];                // gradient of its output
  float sums[BACKWARD_WARPS][N_VECTORS][P];       // of the vectors, by warp
};

// COUNT sums over 16 cells, of which this lane has those of two: of each quarter of the lanes that share a column, to
// the places in `to` of its own quarter of them. COUNT is 6 or 12.
template <int COUNT> __device__ inline void add_sums(float* to, float (&values)[COUNT], const int* vector, int column) {
  const bool upper = threadIdx.x & 16, odd = threadIdx.x & 8;
  constexpr int HALF = COUNT / 2;
  float half[HALF];
#pragma unroll
  for (int i = 0; i < HALF; i++) {
    const float sent = upper ? values[i] : values[HALF + i];
    half[i] = (upper ? values[HALF + i] : values[i]) + __shfl_xor_sync(~0u, sent, 16);
  }
  constexpr int LEFT = HALF / (HALF % 2 ? 1 : 2);
  float left[LEFT];
#pragma unroll
  for (int i = 0; i < LEFT; i++) {
    if (LEFT == HALF) {
      left[i] = half[i] + __shfl_xor_sync(~0u, half[i], 8);
    } else {
      const float sent = odd ? half[i] : half[LEFT + i];
      left[i] = (odd ? half[LEFT + i] : half[i]) + __shfl_xor_sync(~0u, sent, 8);
    }
    left[i] += __shfl_xor_sync(~0u, left[i], 4);
  }
  if (threadIdx.x & 4 || (LEFT == HALF && odd)) return;
  const int start = upper * HALF + (LEFT == HALF ? 0 : odd * LEFT);
#pragma unroll
  for (int i = 0; i < LEFT; i++) to[vector[(start + i) / 2] * P + column + (start + i) % 2] += left[i];
}

// Gradients of the weights (K, V, N), and of the parameters from a part of the cells; a block has one variable of one
// fold, and its cells a chunk at a time.
extern "C" __global__ void __launch_bounds__(32 * BACKWARD_WARPS, P > 48 ? 1 : 2)
    select_backward(const float* d_selected,  // (K, N, H)
                    const float* x,           // (K, V, N)
                    const float* weights,     // (K, V, N)
                    const Parameters parameters, const long long* seeds, const int* thresholds, const float* scales,
                    float* d_weights,       // (K, V, N), out
                    Parameters gradients,   // of part 0, out
                    int part_stride, int n_variables, int n_cells, int n_each) {
  extern __shared__ float4 memory[];
  Backward& shared = *reinterpret_cast<Backward*>(memory);
  const Grn& grn = shared.grn;
  const long own = blockIdx.x;
  const int fold = own / n_variables, variable = own % n_variables;
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3, warp = threadIdx.x / 32;
  const int first = blockIdx.y * n_each, stop = min(first + n_each, n_cells);
  const Dropout dropout(seeds, thresholds, scales, fold);
  const float scale = dropout.any ? dropout.scale : 1.0f;
  d_selected += long(fold) * n_cells * H;
  clear(&shared, sizeof shared);
  __syncthreads();
  read(shared.grn, parameters, own);
  commit();
  wait<0>();
  __syncthreads();

  float d_gate_weight[TILES / 2][2][4] = {}, d_second_weight[TILES / 2][1][4] = {};
  float* sums = shared.sums[warp][0];
  for (int start = first; start < stop; start += CHUNK) {
    const int cell = start + warp * ROWS + g;
    const bool there[2] = {cell < stop, cell + 8 < stop};
    float own_x[2], own_weight[2], inverse_std[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      own_x[r] = there[r] ? x[own * n_cells + cell + 8 * r] : 0.0f;
      own_weight[r] = there[r] ? weights[own * n_cells + cell + 8 * r] : 0.0f;
    }
    // Recompute the forward
    Rows value, gate, normed;
    uint keeps;
    {
      Rows kept;
      second_layer(kept, keeps, grn, own_x, dropout, uint(variable) * n_cells + cell);
      stage(shared.left, NARROW_STAGE, 0, kept);
      gated(value, gate, normed, inverse_std, grn, kept, own_x);
    }
    // The weighted sum and the layer norm
    const auto d_of = [&](int j, int i) {
      const bool seen = there[i / 2] && (P == H || column_of(j, i) < H);
      return seen ? d_selected[(cell + 8 * (i / 2)) * H + column_of(j, i)] : 0.0f;
    };
    float along[2] = {}, across[2] = {}, of_bias[2] = {};
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float d = d_of(j, i), d_normed = d * of(grn, NORM_WEIGHT, j, i);  // without its selection weight
        along[i / 2] += d_normed * normed[j][i];
        across[i / 2] += d_normed;
        of_bias[i / 2] += d * of(grn, NORM_BIAS, j, i);
      }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      along[r] = sum_of_row(along[r]);
      across[r] = sum_of_row(across[r]) * (1.0f / H);
      of_bias[r] = sum_of_row(of_bias[r]);
      if (there[r] && t == 0) d_weights[own * n_cells + cell + 8 * r] = along[r] + of_bias[r];
      along[r] *= 1.0f / H;
    }
    // and the gate, whose gradients take the places of value and gate
#pragma unroll
    for (int j = 0; j < TILES; j++) {
      float of_columns[12] = {};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int r = i / 2, e = i % 2;
        const float d = d_of(j, i), weighted = own_weight[r] * d;
        float d_skip = d * of(grn, NORM_WEIGHT, j, i) - across[r] - normed[j][i] * along[r];
        d_skip = P == H || column_of(j, i) < H ? d_skip * inverse_std[r] * own_weight[r] : 0.0f;
        const float d_value = d_skip * gate[j][i], d_gate = d_value * value[j][i] * (1.0f - gate[j][i]);
        value[j][i] = d_value;
        gate[j][i] = d_gate;
        of_columns[e] += weighted;
        of_columns[2 + e] += weighted * normed[j][i];
        of_columns[4 + e] += d_skip;
        of_columns[6 + e] += own_x[r] * d_skip;
        of_columns[8 + e] += d_value;
        of_columns[10 + e] += d_gate;
      }
      constexpr int vectors[6] = {NORM_BIAS, NORM_WEIGHT, EMBED_BIAS, EMBED_WEIGHT, VALUE_BIAS, GATE_BIAS};
      add_sums(sums, of_columns, vectors, 8 * j + 2 * t);
    }
    stage(shared.right, WIDE_STAGE, 0, value);
    stage(shared.right, WIDE_STAGE, P, gate);
    __syncthreads();
    add_over_cells<2>(d_gate_weight, shared.left, shared.right, WIDE_STAGE, 16 * warp);
    Rows d_second = {};
    add_transposed(d_second, value, grn.gate, 0, WIDE);
    add_transposed(d_second, gate, grn.gate, P, WIDE);
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) d_second[j][i] = keeps >> (4 * j + i) & 1 ? d_second[j][i] * scale : 0.0f;
    __syncthreads();
    // The second layer and the first
    {
      Rows hidden;
      first_layer(hidden, grn, own_x);
      stage(shared.left, NARROW_STAGE, 0, hidden);
      stage(shared.right, NARROW_STAGE, 0, d_second);
    }
    __syncthreads();
    add_over_cells<1>(d_second_weight, shared.left, shared.right, NARROW_STAGE, 8 * warp);
    Rows d_first = {};
    add_transposed(d_first, d_second, grn.second, 0, NARROW);
#pragma unroll
    for (int j = 0; j < TILES; j++) {
      float of_columns[6] = {};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float h = hidden_of(grn, own_x, j, i);
        const float d = d_first[j][i] * (h > 0.0f ? 1.0f : h + 1.0f);  // e^a = elu(a) + 1
        of_columns[i % 2] += d_second[j][i];
        of_columns[2 + i % 2] += d;
        of_columns[4 + i % 2] += own_x[i / 2] * d;
      }
      constexpr int vectors[3] = {SECOND_BIAS, CONSTANT, SLOPE};
      add_sums(sums, of_columns, vectors, 8 * j + 2 * t);
    }
    __syncthreads();
  }

  const long part = long(blockIdx.y) * part_stride;
#pragma unroll
  for (int m = 0; m < TILES / 2; m++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = 16 * m + g + 8 * (i / 2);
      if (row >= H) continue;
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const int column = 16 * warp + column_of(n, i), inside = column % P;  // value | gate
        if (inside < H)
          gradients.gate_weight[part + (own * H + row) * 2 * H + column / P * H + inside] = d_gate_weight[m][n][i];
      }
      const int column = 8 * warp + column_of(0, i);
      if (column < H) gradients.second_weight[part + (own * H + row) * H + column] = d_second_weight[m][0][i];
    }
  for (int i = threadIdx.x; i < N_VECTORS * H; i += blockDim.x) {
    const int vector = i / H, column = i % H;
    float total = 0.0f;
    for (int w = 0; w < BACKWARD_WARPS; w++) total += shared.sums[w][vector][column];
    float* const of_vectors[N_VECTORS] = {gradients.constant,      gradients.slope,       gradients.second_bias,
                                          gradients.gate_bias,     gradients.gate_bias,   gradients.norm_weight,
                                          gradients.norm_bias,     gradients.embed_weight, gradients.embed_bias};
    const bool of_gate = vector == VALUE_BIAS || vector == GATE_BIAS;
    of_vectors[vector][part + own * (of_gate ? 2 * H : H) + (vector == GATE_BIAS ? H : 0) + column] = total;
  }
}
