// The gated norm for gated_norm.py, one warp per row: values stay in registers, and the backward recomputes them.
//
// Sums over columns are added in the same order in every lane, sums over rows by part: no two blocks write to the same
// place.
//
// Shapes: K folds, R rows, D columns (WIDTH, given by the compiler's command line, as is WARPS, of a block), P parts.
// Rows of a tensor (K, R, ...) are addressed by the strides between folds and between rows.

constexpr int EACH = (WIDTH + 31) / 32;
typedef float Row[EACH];  // lane l has columns l, l + 32, ...

__device__ inline int column(int i) { return threadIdx.x % 32 + 32 * i; }
__device__ inline bool there(int i) { return WIDTH % 32 == 0 || i < EACH - 1 || column(i) < WIDTH; }

// 0 beyond the last column
__device__ inline void read(Row& to, const float* from) {
#pragma unroll
  for (int i = 0; i < EACH; i++) to[i] = there(i) ? from[column(i)] : 0.0f;
}
__device__ inline void write(float* to, const Row& from) {
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (there(i)) to[column(i)] = from[i];
}
__device__ inline float mean(const Row& row) {
  float x = 0.0f;
#pragma unroll
  for (int i = 0; i < EACH; i++) x += row[i];
#pragma unroll
  for (int lane = 16; lane; lane /= 2) x += __shfl_xor_sync(~0u, x, lane);
  return x * (1.0f / WIDTH);
}

// Replaces skip by the normalised row and gate by its sigmoid; returns the inverse standard deviation.
__device__ inline float normalise(Row& skip, const Row& value, Row& gate) {
  Row square;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    gate[i] = __fdividef(1.0f, 1.0f + __expf(-gate[i]));
    skip[i] += value[i] * gate[i];
  }
  const float centre = mean(skip);
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    skip[i] = there(i) ? skip[i] - centre : 0.0f;
    square[i] = skip[i] * skip[i];
  }
  const float inverse_std = rsqrtf(mean(square) + EPSILON);
#pragma unroll
  for (int i = 0; i < EACH; i++) skip[i] *= inverse_std;
  return inverse_std;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    gated_norm_forward(const float* skip, int skip_fold, int skip_row, const float* gated, int gated_fold,
                       int gated_row, const float* weight, const float* bias,  // (K, D)
                       float* to,                                              // (K, R, D)
                       int n_rows) {
  const long fold = blockIdx.y, row = long(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (row >= n_rows) return;
  Row normed, value, gate, scale, shift;
  const float* from = gated + fold * gated_fold + row * gated_row;
  read(normed, skip + fold * skip_fold + row * skip_row);
  read(value, from);
  read(gate, from + WIDTH);
  read(scale, weight + fold * WIDTH);
  read(shift, bias + fold * WIDTH);
  normalise(normed, value, gate);
#pragma unroll
  for (int i = 0; i < EACH; i++) normed[i] = normed[i] * scale[i] + shift[i];
  write(to + (fold * n_rows + row) * WIDTH, normed);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    gated_norm_backward(const float* d_normed, int d_fold, int d_row, const float* skip, int skip_fold, int skip_row,
                        const float* gated, int gated_fold, int gated_row, const float* weight,  // (K, D)
                        float* d_skip, float* d_gated,                                           // (K, R, D), (K, R, 2D)
                        float* parts,  // (2, K, P, D): gradients of the weight, then of the bias
                        int n_rows, int n_each) {
  __shared__ float sums[WARPS][2][WIDTH];
  const long fold = blockIdx.y, first = long(blockIdx.x) * n_each;
  const int warp = threadIdx.x / 32;
  Row scale, d_weight = {}, d_bias = {};
  read(scale, weight + fold * WIDTH);
  for (long row = first + warp; row < min(first + n_each, long(n_rows)); row += WARPS) {
    Row d, normed, value, gate, along;
    const float* from = gated + fold * gated_fold + row * gated_row;
    read(d, d_normed + fold * d_fold + row * d_row);
    read(normed, skip + fold * skip_fold + row * skip_row);
    read(value, from);
    read(gate, from + WIDTH);
    const float inverse_std = normalise(normed, value, gate);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      d_weight[i] += d[i] * normed[i];
      d_bias[i] += d[i];
      d[i] *= scale[i];
      along[i] = d[i] * normed[i];
    }
    const float mean_d = mean(d), mean_along = mean(along);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      d[i] = (d[i] - mean_d - normed[i] * mean_along) * inverse_std;
      value[i] *= d[i] * gate[i] * (1.0f - gate[i]);
      gate[i] *= d[i];
    }
    const long at = (fold * n_rows + row) * WIDTH;
    write(d_skip + at, d);
    write(d_gated + 2 * at, gate);
    write(d_gated + 2 * at + WIDTH, value);
  }
  write(sums[warp][0], d_weight);
  write(sums[warp][1], d_bias);
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * WIDTH; i += 32 * WARPS) {
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) total += sums[w][i / WIDTH][i % WIDTH];
    parts[((i / WIDTH * long(gridDim.y) + fold) * gridDim.x + blockIdx.x) * WIDTH + i % WIDTH] = total;
  }
}
