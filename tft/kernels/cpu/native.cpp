// All native kernels as one compilation unit, called by the Python files of this folder, which pass tensors and sizes in
// the order that each function documents. compiling.py compiles it, with ADAM_EPSILON and NORM_EPSILON of constants.py.
//
// Every sum has a fixed order, and each call uses one core.

#include "adam.h"
#include "dropout.h"
#include "scan.h"
#include "select.h"

#define EXPORT(T, NAME)                                                                              \
  void adam_##NAME(void* const* in, void* const* state, const int64_t* sizes) {                      \
    adam<T>(in, state, sizes);                                                                       \
  }                                                                                                  \
  void scan_forward_##NAME(void* const* in, void* const* out, const int64_t* sizes,                  \
                           const int64_t* windows) {                                                 \
    scan_forward_folds<T>(in, out, sizes, windows);                                                  \
  }                                                                                                  \
  void scan_backward_##NAME(void* const* in, void* const* out, const int64_t* sizes,                 \
                            const int64_t* windows) {                                                \
    scan_backward_folds<T>(in, out, sizes, windows);                                                 \
  }                                                                                                  \
  void select_forward_##NAME(void* const* in, void* const* out, const int64_t* sizes,                \
                                 void* const* mask, void* memory) {                                  \
    select_forward<T>(in, out, sizes, mask, memory);                                                 \
  }                                                                                                  \
  void select_backward_##NAME(void* const* in, void* const* out, const int64_t* sizes,               \
                                  void* const* mask, void* memory) {                                 \
    select_backward<T>(in, out, sizes, mask, memory);                                                \
  }                                                                                                  \
  void drop_folds_##NAME(void* const* in, void* const* out, const int64_t* sizes,                    \
                         void* const* mask) {                                                        \
    drop_folds<T>(in, out, sizes, mask);                                                             \
  }

extern "C" {
int32_t vector_bytes() { return VECTOR_BYTES; }
EXPORT(float, float32)
EXPORT(double, float64)
}
