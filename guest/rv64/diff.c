/*
 * diff.c: the monitor of the differential test (tests/diff/README.md). It runs chunks of random instructions that
 * gen.py made, each in a mode, address space and protection of its own; every trap, and the whole state at it, goes
 * into a running hash that is printed now and then. Two machines agree when they print the same.
 */
#include "diff.h"
#include "rt.h"

#define TRAPS_MAX 300

static struct diff_ctx ctx;
static uint64_t hash = 0xcbf29ce484222325;
static uint64_t events;
static uint64_t rnd_state;

static const struct diff_head *const head = (const struct diff_head *)DIFF_HEAD;

static inline void mix(uint64_t v)
{
	hash = (hash ^ v) * 0x100000001b3;
	hash ^= hash >> 29;
}

static inline uint64_t rnd(void)
{
	uint64_t z = rnd_state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* What the two machines must agree on: not FS/VS (when they get dirty is the machine's choice) nor what extensions add. */
#define STATUS_MASK 0x7e19aaul

static void put_regs(const char *name, const uint64_t *v)
{
	for (unsigned i = 0; i < 32; i++) {
		put_text(name);
		put_text(i < 10 ? "0" : "");
		put_dec(i);
		put_text("=");
		put_hex(v[i]);
		put_text(i % 4 == 3 ? "\n" : " ");
	}
}

static uint64_t insn_at(uint64_t pc)
{
	const uint16_t *p = (const uint16_t *)pc;

	if (pc < 0x80000000 || pc > 0x87fffffc || pc & 1)
		return 0;
	return p[0] | ((p[0] & 3) == 3 ? (uint64_t)p[1] << 16 : 0);
}

static void put_field(const char *name, uint64_t v)
{
	put_text(name);
	put_hex(v);
}

static int stale(uint64_t insn)
{
	return (insn & 0x707f) == 0x73 || (insn & 0x707f) == 0x200f;
}

static void fold_state(int dump)
{
	/* A breakpoint's trap value may be zero or the pc. */
	uint64_t tval = ctx.cause == 3 ? 0 : ctx.tval;
	uint64_t insn = insn_at(ctx.pc);
	uint64_t scause = csr_read(scause), sepc = csr_read(sepc), stval = csr_read(stval);

	/* Cache-block operations may name the address they were given or the block's. */
	if ((insn & 0x707f) == 0x200f && ctx.cause != 2)
		tval &= ~63ul;
	if (ctx.pc == DIFF_HANDLER && (insn_at(sepc) & 0x707f) == 0x200f && scause != 2) {
		stval &= ~63ul;
		csr_write(stval, stval);
	}
	if (head->quirks & QUIRK_STALE_TVAL) {
		if (ctx.cause == 2 && stale(insn))
			tval = insn;
		if (ctx.pc == DIFF_HANDLER && scause == 2 && stale(insn_at(sepc))) {
			stval = insn_at(sepc);
			csr_write(stval, stval);
		}
	}
	for (int i = 1; i < 32; i++)
		mix(ctx.x[i]);
	for (int i = 0; i < 32; i++)
		mix(ctx.f[i]);
	mix(ctx.fcsr);
	mix(ctx.pc);
	mix(ctx.cause);
	mix(tval);
	mix(ctx.status & STATUS_MASK);
	mix(scause);
	mix(sepc);
	mix(stval);
	if (!dump)
		return;
	put_field("event pc ", ctx.pc);
	put_field(" insn ", insn);
	put_field(" cause ", ctx.cause);
	put_field(" tval ", tval);
	put_field(" status ", ctx.status & STATUS_MASK);
	put_field(" fcsr ", ctx.fcsr);
	put_field(" scause ", scause);
	put_field(" sepc ", sepc);
	put_field(" stval ", stval);
	put_text("\n");
	put_regs("x", ctx.x);
	put_regs("f", ctx.f);
}

static void fold_memory(const struct diff_chunk *c, int dump)
{
	const uint64_t *p = (const uint64_t *)DIFF_SCRATCH;
	const uint64_t *t = (const uint64_t *)DIFF_TABLES;
	const uint64_t *clean = (const uint64_t *)DIFF_PRISTINE;

	for (uint64_t i = 0; (c->flags & DIFF_TABLES_TOO) && i < 1024; i++) {
		mix(t[i]);
		if (dump && t[i] != clean[i]) {
			put_text("pte ");
			put_dec(i);
			put_field(" ", clean[i]);
			put_field(" became ", t[i]);
			put_text("\n");
		}
	}
	/* While dumping, a hash each 64 bytes, so that the place of a difference is seen. */
	for (uint64_t i = 0; dump && i < head->scratch_bytes / 8; i += 8) {
		uint64_t h = 0;

		for (uint64_t j = 0; j < 8; j++)
			h = h * 0x100000001b3 ^ p[i + j];
		put_field("line ", DIFF_SCRATCH + i * 8);
		put_field(" ", h);
		put_text("\n");
	}
	if (c->flags & DIFF_FOLD)
		for (uint64_t i = 0; i < head->scratch_bytes / 8; i++)
			mix(p[i]);
}

/* Registers that change with each pass: some interesting values, some random ones, and some stay what they were. */
static void stir(void)
{
	const uint64_t *pool = (const uint64_t *)DIFF_POOL;

	for (int i = 1; i < 32; i++) {
		uint64_t r = rnd();

		if ((r & 3) == 0)
			ctx.x[i] = pool[r >> 56];
		else if ((r & 7) == 1)
			ctx.x[i] = rnd() >> (r >> 58);
		r >>= 3;
		if ((r & 3) == 0)
			ctx.f[i] = pool[(r >> 40) & 255];
		else if ((r & 3) == 1)
			ctx.f[i] = 0xffffffff00000000 | pool[(r >> 40) & 255] >> (r & 4 ? 32 : 0);
		else if ((r & 7) == 2)
			ctx.f[i] = rnd();
		else if ((r & 15) == 3)
			ctx.f[i] = 0xffffffff00000000 | rnd();
	}
}

static void set_up(const struct diff_chunk *c)
{
	static const uint8_t bases[7] = {2, 8, 9, 18, 19, 20, 21};
	uint64_t *t = (uint64_t *)DIFF_TABLES;
	const uint64_t *clean = (const uint64_t *)DIFF_PRISTINE;

	for (uint64_t i = 0; (c->flags & DIFF_TABLES_TOO) && i < 1024; i++)
		t[i] = clean[i];
	stir();
	for (int i = 0; i < 7; i++)
		ctx.x[bases[i]] = c->base[i];
	csr_write(mie, 0);
	csr_write(mip, 0);
	csr_write(medeleg, c->medeleg);
	csr_write(mideleg, 0);
	csr_write(menvcfg, c->menvcfg);
	csr_write(senvcfg, c->senvcfg);
	csr_write(mcounteren, c->counteren & 7);
	csr_write(scounteren, c->counteren >> 3 & 7);
	csr_write(satp, c->satp);
	csr_write(stvec, DIFF_HANDLER);
	csr_write(scause, 0);
	csr_write(sepc, 0);
	csr_write(stval, 0);
	csr_write(sscratch, 0);
	csr_write(pmpcfg0, 0x1f00000000000000);
	csr_write(pmpaddr0, c->pmpaddr[0]);
	csr_write(pmpaddr1, c->pmpaddr[1]);
	csr_write(pmpaddr2, c->pmpaddr[2]);
	csr_write(pmpaddr7, 0x3fffffffffffff);
	csr_write(pmpcfg0, 0x1f00000000000000 | c->pmpcfg);
	__asm__ volatile("sfence.vma\n fence.i" ::: "memory");
	ctx.pc = c->entry;
	ctx.fcsr = c->fcsr;
	ctx.status = c->mstatus | c->mode << 11;
}

static int inside(const struct diff_chunk *c, uint64_t pc)
{
	return pc >= c->entry && pc < c->end;
}

/*
 * Where to go on after an event at pc: behind the instruction; when control has left the chunk or cannot be where
 * it is, at x1, which is the link of jumps out of the chunk, else at its end.
 */
static uint64_t resume_at(const struct diff_chunk *c)
{
	uint64_t pc = ctx.pc, cause = ctx.cause;

	if (cause >> 63) {
		csr_write(mie, 0);
		csr_write(mip, 0);
		return pc;
	}
	if (pc == DIFF_HANDLER && c->medeleg) {
		pc = csr_read(sepc);
		cause = csr_read(scause);
	}
	if (inside(c, pc) && cause != 1 && cause != 12 && cause != 20 && cause != 0)
		return pc + ((*(const uint16_t *)pc & 3) == 3 ? 4 : 2);
	return inside(c, ctx.x[1]) && ctx.x[1] != pc && pc != c->end ? ctx.x[1] & ~1ul : c->end;
}

static void run_chunk(uint64_t run, const struct diff_chunk *c)
{
	int dump = run >= head->dump_from && run < head->dump_to;
	unsigned traps = 0;

	rnd_state = head->seed * 0x2545f4914f6cdd1d + run;
	if (dump) {
		put_text("chunk ");
		put_dec(run);
		put_text(" mode ");
		put_dec(c->mode);
		put_field(" entry ", c->entry);
		put_field(" satp ", c->satp);
		put_field(" mstatus ", c->mstatus);
		put_field(" menvcfg ", c->menvcfg);
		put_field(" medeleg ", c->medeleg);
		put_field(" pmpcfg ", c->pmpcfg);
		put_text("\n");
	}
	set_up(c);
	do {
		diff_enter(&ctx);
		events++;
		fold_state(dump);
		if ((ctx.pc == c->end || (ctx.pc == DIFF_HANDLER && csr_read(sepc) == c->end)) &&
			!(ctx.cause >> 63))
			break;
		ctx.pc = resume_at(c);
		/* Back into the chunk's own mode: sret, mret and traps may have left it. */
		ctx.status = (ctx.status & ~0x1800ul) | c->mode << 11;
		if (!(ctx.status & 0x6000) && (c->mstatus & 0x6000))
			ctx.status |= c->mstatus & 0x6000;
	} while (++traps < TRAPS_MAX);
	csr_write(satp, 0);
	csr_write(pmpcfg0, 0x1f00000000000000);
	__asm__ volatile("sfence.vma" ::: "memory");
	fold_memory(c, dump);
}

int main(uint64_t hart)
{
	const struct diff_chunk *c = (const struct diff_chunk *)DIFF_CHUNKS;
	uint64_t run = 0, last = head->nchunks * head->passes - 1;

	if (hart)
		return 0;
	if (head->magic != DIFF_MAGIC)
		fail("no program behind the monitor", head->magic);
	for (uint64_t i = 0; i < 4096; i += 8)
		*(volatile uint64_t *)(0x88000000 - 4096 +
				       i) = i; /* some accesses cross the end of memory */
	*(volatile uint64_t *)0x2004000 = ~0ul; /* mtimecmp of hart 0 */
	csr_write(menvcfg, 1ul << 63);
	csr_write(0x14d, ~0ul); /* stimecmp */
	for (uint64_t pass = 0; pass < head->passes; pass++)
		for (uint64_t i = 0; i < head->nchunks; i++, run++) {
			run_chunk(run, &c[i]);
			if (run % head->every == head->every - 1 || run == last) {
				put_text("HASH ");
				put_dec(run);
				put_field(" ", hash);
				put_text("\n");
			}
		}
	put_text("events ");
	put_dec(events);
	put_text("\n");
	return 0;
}
