// Products on the tensor cores of an NVIDIA GPU, as exact as float32: each is computed as three in TF32, from the TF32
// parts of its operands and the remainders. Included by select.cu and scan.cu.
//
// A tile is 16 rows by 8 columns: of it lane 4g + t holds rows g and g + 8 of columns 2t and 2t + 1, as
// {(g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)}. COLUMN: a product takes term t of its eight from column 2t of a left
// operand's tile and term t + 4 from column 2t + 1, so that a product is the next one's left operand as it stands.

typedef unsigned int uint;

// Tensor cores read only the upper 19 bits of an operand.
struct Split {
  uint high, low;
  __device__ Split(float x) : high(__float_as_uint(x)) { low = __float_as_uint(x - __uint_as_float(high & 0xffffe000)); }
};
__device__ inline void mma(float (&c)[4], const uint (&a)[4], uint b0, uint b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
struct Left {
  uint high[4], low[4];
  __device__ Left(float a0, float a1, float a2, float a3) {
    const Split parts[4] = {a0, a1, a2, a3};
#pragma unroll
    for (int i = 0; i < 4; i++) high[i] = parts[i].high, low[i] = parts[i].low;
  }
};
// c += a @ b of a tile: a 16 x 8, b 8 x 8
__device__ inline void add(float (&c)[4], const Left& a, Split b0, Split b1) {
  mma(c, a.low, b0.high, b1.high);
  mma(c, a.high, b0.low, b1.low);
  mma(c, a.high, b0.high, b1.high);
}

__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
