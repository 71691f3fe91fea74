// The update for adam.py in one pass over weights, gradient and moments. Shapes: K folds, P parameters of one model.

struct OfFold {
  float rate, correction, clip, mean_weight, square_weight;
};

extern "C" __global__ void __launch_bounds__(N_THREADS)
    adam(float* weights, const float* gradient, float* mean, float* square, const OfFold* folds, int n_parameters) {
  const OfFold fold = folds[blockIdx.y];
  const int first = blockIdx.x * N_THREADS * EACH + threadIdx.x;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    if (first + i * N_THREADS >= n_parameters) return;
    const long at = long(blockIdx.y) * n_parameters + first + i * N_THREADS;
    const float raw = gradient[at], slope = isfinite(raw) ? raw * fold.clip : 0.0f;
    const float m = mean[at] + fold.mean_weight * (slope - mean[at]);
    const float s = square[at] + fold.square_weight * (slope * slope - square[at]);
    mean[at] = m;
    square[at] = s;
    weights[at] -= m * fold.rate / (sqrtf(s) * fold.correction + EPSILON);
  }
}
