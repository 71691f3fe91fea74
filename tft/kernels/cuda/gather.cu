// The backward of the gather on an NVIDIA GPU, compiled and called by gather.py.
//
// Shapes: K folds, N cells, W windows, L look-back bars, D width of a cell, S parts of a sum.

constexpr int WARP = 32;
constexpr int EACH = 8;  // columns of a lane at a time

// Adds the rows of d (K, W * L, D) to the cells that they were read from: to (S, K, N, D), each of S for a part of the
// windows. A warp has one cell, and adds the windows that read it in their order. A window's cells ascend, so that the
// cell is found by bisection, and once at most. The row of window w and bar l is w * window_stride + l * bar_stride.
extern "C" __global__ void add_rows(const float* d,
                                    const long long* windows,  // (K, W, L)
                                    float* to, int n_cells, int n_windows, int n_bars, int width, int window_stride,
                                    int bar_stride, int n_each) {
  const int lane = threadIdx.x % WARP, cell = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (cell >= n_cells) return;
  const long fold = blockIdx.y;
  windows += fold * n_windows * n_bars;
  d += fold * n_windows * n_bars * width;
  to += ((blockIdx.z * long(gridDim.y) + fold) * n_cells + cell) * width;
  const int start = blockIdx.z * n_each, stop = min(start + n_each, n_windows);
  for (int column = lane; column - lane < width; column += WARP * EACH) {
    float sums[EACH] = {};
    for (int first = start; first < stop; first += WARP) {
      int found = -1;
      if (first + lane < stop) {
        const long long* bars = windows + long(first + lane) * n_bars;
        int low = 0, high = n_bars - 1;
        if (bars[low] <= cell && cell <= bars[high]) {
          while (low < high) {
            const int middle = (low + high) / 2;
            if (bars[middle] < cell)
              low = middle + 1;
            else
              high = middle;
          }
          if (bars[low] == cell) found = low;
        }
      }
      for (unsigned int left = __ballot_sync(~0u, found >= 0); left; left &= left - 1) {
        const int of_lane = __ffs(left) - 1, bar = __shfl_sync(~0u, found, of_lane);
        const float* row = d + (long(first + of_lane) * window_stride + long(bar) * bar_stride) * width + column;
#pragma unroll
        for (int i = 0; i < EACH; i++)
          if (column + WARP * i < width) sums[i] += row[WARP * i];
      }
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (column + WARP * i < width) to[column + WARP * i] = sums[i];
  }
}
