// Dropout for dropout.py in one pass; see seeded_bits in dropout_mask.py for the hash. Shapes: K folds, N elements per
// fold.

extern "C" __global__ void __launch_bounds__(N_THREADS)
    drop(const float* x, int fold_stride, const long long* seeds, const double* thresholds, const double* scales,
         float* to, int n_elements) {
  const long fold = blockIdx.y;
  const unsigned low = unsigned(seeds[fold]), high = unsigned(seeds[fold] >> 32);
  const int threshold = int(thresholds[fold]);
  const float scale = float(scales[fold]);
  const int first = blockIdx.x * N_THREADS * EACH + threadIdx.x;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const int element = first + i * N_THREADS;
    if (element >= n_elements) return;
    unsigned hash = low + unsigned(element);
    hash = (hash ^ hash >> 16) * 0x7feb352du;
    hash = (hash ^ hash >> 15 ^ high) * 0x846ca68bu;
    const int bits = int(hash ^ hash >> 16) >> 16;
    to[fold * n_elements + element] = x[fold * fold_stride + element] * (bits >= threshold ? scale : 0.0f);
  }
}
