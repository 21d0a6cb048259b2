/*
 * side.h: one of the two machines that run in step: RAM, one hart, a UART that only prints, the test finisher. No board.
 *
 * Time is the guest's own: it stands still while instructions run, and moves between slices by what was retired
 * (TICK_INSNS instructions a tick); a hart that sleeps skips to its next timer. So nothing depends on the host.
 */
#ifndef LODGE_TESTS_LOCKSTEP_SIDE_H
#define LODGE_TESTS_LOCKSTEP_SIDE_H

#include "cpu/rv64/block.h"
#include "cpu/rv64/engine.h"
#include "cpu/rv64/priv.h"

#define RAM_BASE 0x80000000ull
#define UART_BASE 0x10000000ull
#define FINISHER 0x100000ull
#define TICK_INSNS 50u

struct side_opts {
	uint64_t ram;
	bool interp; /* never translated */
	unsigned
		tiers; /* 0: hot code by the thread, which is not the same in two runs; 1: the first; 2: both for everything */
	uint64_t cache; /* bytes of translated code; 0: the default */
	bool builtin_firmware;
	bool show; /* what it prints goes to standard output */
};

struct side {
	struct side_opts o;
	struct frames *frames;
	struct space *space;
	struct cpu_vm *vm;
	struct vcpu *v;
	struct hart *h;
	uint64_t start; /* instret at its first instruction */
	uint64_t skipped; /* ticks slept through */
	struct cpu_exit x; /* the last; answered when it asked for an answer */
	uint64_t ier; /* of the UART */
	bool hold; /* time stands still over several side_run(): they are one slice */
	bool over;
	const char *why; /* when it is over */
	uint64_t code;
	char out[64 << 10]; /* the end of what it printed */
	uint64_t printed;
};

/* Ends the program with a message when the host is out of memory: this is a test. */
struct side *side_new(const struct side_opts *o);
void side_free(struct side *s);
void side_boot(struct side *s, uint64_t pc, uint64_t a0, uint64_t a1);
/* The program is at s->start + n instructions afterwards, or over. */
void side_run(struct side *s, uint64_t n);
static inline uint64_t side_insns(const struct side *s)
{
	return s->h->instret - s->start;
}
/* Host address of guest RAM. */
void *side_ram(const struct side *s, uint64_t pa);

/* What differs, as text (one line each); 0: nothing. `before`: state to show beside it, or NULL. */
struct regs {
	uint64_t x[32], f[32], pc;
	uint64_t priv, frm, fflags, fs, instret;
	uint64_t mstatus, mip, mie, mideleg, medeleg, resv_va, resv_val, hsm;
	struct rv64_csrs c;
};
void regs_of(const struct side *s, struct regs *st);
unsigned regs_diff(const struct regs *a, const struct regs *b, const struct regs *before);
/* First address at which RAM differs, or 0. Looks at pages that either side has touched. */
uint64_t ram_diff(const struct side *a, const struct side *b);

#endif
