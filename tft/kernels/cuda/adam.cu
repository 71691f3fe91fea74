// The update for adam.py in one pass over weights, their average, gradient and moments; `decay` may be null.
// Shapes: K folds, P parameters of one model.

struct OfFold {
  float rate, correction, clip, mean_weight, square_weight, lr, new_weight;
};

extern "C" __global__ void __launch_bounds__(N_THREADS)
    adam(float* weights, float* averaged, const float* gradient, float* mean, float* square, const float* decay,
         const OfFold* folds, int n_parameters) {
  const OfFold fold = folds[blockIdx.y];
  const int first = blockIdx.x * N_THREADS * EACH + threadIdx.x;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const int parameter = first + i * N_THREADS;
    if (parameter >= n_parameters) return;
    const long at = long(blockIdx.y) * n_parameters + parameter;
    const float raw = gradient[at], slope = isfinite(raw) ? raw * fold.clip : 0.0f;
    const float m = mean[at] + fold.mean_weight * (slope - mean[at]);
    const float s = square[at] + fold.square_weight * (slope * slope - square[at]);
    const float before = weights[at], left = decay ? before - before * (fold.lr * decay[parameter]) : before;
    const float w = left - m * fold.rate / (sqrtf(s) * fold.correction + EPSILON);
    mean[at] = m;
    square[at] = s;
    weights[at] = w;
    averaged[at] += fold.new_weight * (w - averaged[at]);
  }
}
