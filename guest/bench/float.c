/* Floating point rows. Only + - * / and square roots: their results are the same everywhere. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

static uint64_t bits(double v)
{
	uint64_t b;

	memcpy(&b, &v, sizeof(b));
	return b;
}

/* The square root as an instruction, which errno would keep from being one. */
static double root(double v)
{
#ifdef __riscv
	__asm__("fsqrt.d %0, %0" : "+f"(v));
#else
	__asm__("sqrtsd %0, %0" : "+x"(v));
#endif
	return v;
}

/* One unit: 128 x 128 doubles. */
uint64_t bench_matmul(uint64_t n)
{
	enum { N = 128 };
	double *a = bench_alloc(N * N * sizeof(*a)), *b = bench_alloc(N * N * sizeof(*b));
	double *c = bench_alloc(N * N * sizeof(*c));
	uint64_t sum = 0;

	for (int i = 0; i < N * N; i++) {
		a[i] = (double)(i % 31) / 7;
		b[i] = (double)(i % 17) / 5;
	}
	while (n--) {
		for (int i = 0; i < N; i++) {
			for (int j = 0; j < N; j++) {
				double s = 0;

				for (int k = 0; k < N; k++)
					s += a[i * N + k] * b[k * N + j];
				c[i * N + j] = s;
			}
		}
		for (int i = 0; i < N * N; i += 101)
			sum = bench_fold(sum, bits(c[i]));
		a[n % (N * N)] += 1;
	}
	free(a);
	free(b);
	free(c);
	return sum;
}

/* One unit: a row of 256 points, up to 128 steps each. */
uint64_t bench_mandelbrot(uint64_t n)
{
	uint64_t sum = 0;

	while (n--) {
		double ci = (double)(n % 200) / 100 - 1;

		for (int x = 0; x < 256; x++) {
			double cr = (double)x / 100 - 2, zr = 0, zi = 0;
			uint32_t step = 0;

			while (step < 128 && zr * zr + zi * zi < 4) {
				double t = zr * zr - zi * zi + cr;

				zi = 2 * zr * zi + ci;
				zr = t;
				step++;
			}
			sum += step;
		}
		sum = bench_fold(sum, n);
	}
	return sum;
}

struct body {
	double at[3], v[3], mass;
};

/* One unit: 1000 steps of five bodies. */
uint64_t bench_nbody(uint64_t n)
{
	struct body b[5];
	uint64_t sum = 0;

	for (int i = 0; i < 5; i++) {
		b[i] = (struct body){{i * 3.1, i * i * 0.7, i * 0.3},
			{0.1 * i, 0.3 - 0.1 * i, 0.02 * i}, i ? 0.01 / i : 40};
	}
	for (n *= 1000; n--;) {
		for (int i = 0; i < 5; i++) {
			for (int j = i + 1; j < 5; j++) {
				double d[3], square = 0, far;

				for (int k = 0; k < 3; k++) {
					d[k] = b[i].at[k] - b[j].at[k];
					square += d[k] * d[k];
				}
				far = 0.001 / (square * root(square));
				for (int k = 0; k < 3; k++) {
					b[i].v[k] -= d[k] * b[j].mass * far;
					b[j].v[k] += d[k] * b[i].mass * far;
				}
			}
		}
		for (int i = 0; i < 5; i++) {
			for (int k = 0; k < 3; k++)
				b[i].at[k] += 0.001 * b[i].v[k];
		}
	}
	for (int i = 0; i < 5; i++)
		sum = bench_fold(sum, bits(b[i].at[0]) ^ bits(b[i].v[1]));
	return sum;
}

/* One unit: y = a * x + y over 4096 floats. */
uint64_t bench_saxpy(uint64_t n)
{
	enum { N = 4096 };
	float *x = bench_alloc(N * sizeof(*x)), *y = bench_alloc(N * sizeof(*y));
	uint64_t sum = 0;

	for (int i = 0; i < N; i++) {
		x[i] = (float)(i % 113) / 16;
		y[i] = (float)(i % 71) / 8;
	}
	while (n--) {
		float a = (n & 1) ? 0.5f : -0.5f;

		for (int i = 0; i < N; i++)
			y[i] += a * x[i];
		/* The compiler may not know what the next turn finds. */
		__asm__ volatile("" : : "r"(x), "r"(y) : "memory");
	}
	for (int i = 0; i < N; i += 7)
		sum = bench_fold(sum, bits((double)y[i]));
	free(x);
	free(y);
	return sum;
}

#ifdef __riscv
#define FUSED
#else
#define FUSED __attribute__((target("fma")))
#endif

/* One unit: polynomials of degree 12 at 512 points, by fused multiply and add. */
FUSED uint64_t bench_fma(uint64_t n)
{
	double c[13], sum = 0;
	uint64_t check = 0;

	for (int i = 0; i < 13; i++)
		c[i] = 1.0 / (i + 1);
	while (n--) {
		for (int i = 0; i < 512; i++) {
			double x = (double)i / 512 + (double)(n & 15), p = c[12];

			for (int k = 11; k >= 0; k--)
				p = __builtin_fma(p, x, c[k]);
			sum = __builtin_fma(sum, 0.5, p);
		}
		check = bench_fold(check, bits(sum));
	}
	return check;
}
