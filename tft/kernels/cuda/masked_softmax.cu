// The softmax for masked_softmax.py, one warp per row. Shapes: R rows, S columns, U rows of `usable`, each for R / U =
// n_each consecutive rows. WIDTH = S, WARPS of a block and the type Usable are given by the compiler's command line.

constexpr int EACH = (WIDTH + 31) / 32;
typedef float Row[EACH];  // lane l has columns l, l + 32, ...

__device__ inline int column(int i) { return threadIdx.x % 32 + 32 * i; }
__device__ inline bool there(int i) { return WIDTH % 32 == 0 || i < EACH - 1 || column(i) < WIDTH; }
__device__ inline float sum(const Row& row) {
  float x = 0.0f;
#pragma unroll
  for (int i = 0; i < EACH; i++) x += row[i];
#pragma unroll
  for (int lane = 16; lane; lane /= 2) x += __shfl_xor_sync(~0u, x, lane);
  return x;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    masked_softmax_forward(const float* logits, const Usable* usable, float* to, int n_rows, int n_each) {
  const int row = blockIdx.x * WARPS + threadIdx.x / 32;
  if (row >= n_rows) return;
  const float* from = logits + long(row) * WIDTH;
  const Usable* own = usable + long(row / n_each) * WIDTH;
  const float none = __int_as_float(0xff800000);  // minus infinity
  Row values;
  float largest = none;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    values[i] = there(i) && own[column(i)] != Usable(0) ? from[column(i)] : none;
    largest = fmaxf(largest, values[i]);
  }
#pragma unroll
  for (int lane = 16; lane; lane /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lane));
#pragma unroll
  for (int i = 0; i < EACH; i++) values[i] = values[i] == none ? 0.0f : expf(values[i] - largest);
  const float total = sum(values);
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (there(i)) to[long(row) * WIDTH + column(i)] = values[i] == 0.0f ? 0.0f : values[i] / total;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    masked_softmax_backward(const float* d_weights, const float* weights, float* d_logits, int n_rows) {
  const int row = blockIdx.x * WARPS + threadIdx.x / 32;
  if (row >= n_rows) return;
  const long at = long(row) * WIDTH;
  Row d, weight, along;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    d[i] = there(i) ? d_weights[at + column(i)] : 0.0f;
    weight[i] = there(i) ? weights[at + column(i)] : 0.0f;
    along[i] = weight[i] == 0.0f ? 0.0f : weight[i] * d[i];
  }
  const float total = sum(along);
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (there(i)) d_logits[at + column(i)] = weight[i] == 0.0f ? 0.0f : weight[i] * (d[i] - total);
}
