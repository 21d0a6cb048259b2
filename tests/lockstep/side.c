#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "memory/frames.h"

static void need(int rc, const struct err *e)
{
	if (!rc)
		return;
	fprintf(stderr, "lockstep: %s\n", err_msg(e));
	exit(2);
}

struct side *side_new(const struct side_opts *o)
{
	struct side *s = calloc(1, sizeof(*s));
	struct err e = {0};
	struct frames_opts fo = {.nodes = 1, .name = "lockstep"};
	struct cpu_vm_opts vo = {.vcpus = 1, .timebase_hz = 10000000};

	if (!s)
		exit(2);
	s->o = *o;
	fo.node_bytes[0] = align_up(o->ram + space_spare_bytes(o->ram), 2 << 20);
	need(frames_create(&s->frames, &fo, &e), &e);
	need(space_create(&s->space, s->frames, &e), &e);
	need(space_add_ram(s->space, gpa(RAM_BASE), o->ram, 0, "ram", &e), &e);
	vo.space = s->space;
	vo.jit = o->interp ? CPU_JIT_OFF : CPU_JIT_AUTO;
	vo.jit_cache = o->cache;
	vo.jit_tiers = (enum cpu_tiers)o->tiers;
	vo.builtin_firmware = o->builtin_firmware;
	need(rv64_engine.vm_create(&s->vm, &vo, &e), &e);
	need(rv64_engine.vcpu_create(&s->v, s->vm, 0, &e), &e);
	s->h = rv64_engine.vcpu_state_obj(s->v);
	rv64_engine.time_stop(s->vm);
	return s;
}

void side_free(struct side *s)
{
	rv64_engine.vm_destroy(s->vm);
	space_destroy(s->space);
	frames_destroy(s->frames);
	free(s);
}

void side_boot(struct side *s, uint64_t pc, uint64_t a0, uint64_t a1)
{
	rv64_engine.vcpu_reset(
		s->v, &(struct cpu_boot){.pc = pc, .arg0 = a0, .arg1 = a1, .running = true});
	s->start = s->h->instret;
	rv64_engine.time_set(s->vm, 0);
}

void *side_ram(const struct side *s, uint64_t pa)
{
	struct space_page pg;

	if (space_page(s->space, 0, gpa(pa & ~(uint64_t)PAGE_MASK), MEM_READ, &pg))
		return NULL;
	return (char *)pg.host + (pa & PAGE_MASK);
}

/* ---- what surrounds it ---- */

static void print(struct side *s, char c)
{
	s->out[s->printed++ % sizeof(s->out)] = c;
	if (s->o.show)
		fputc(c, stdout);
}

static void over(struct side *s, const char *why, uint64_t code)
{
	s->over = true;
	s->why = why;
	s->code = code;
}

static void mmio(struct side *s, struct cpu_exit *x)
{
	uint64_t at = x->mmio.gpa.v;

	if (at >= UART_BASE && at < UART_BASE + 8) {
		if (x->mmio.write && at == UART_BASE)
			print(s, (char)x->mmio.data);
		if (x->mmio.write && at == UART_BASE + 1)
			s->ier = x->mmio.data & 15;
		/* Line status: empty. Interrupt identification: may be sent to, when somebody asked. */
		x->mmio.data = at == UART_BASE + 5   ? 0x60
			       : at == UART_BASE + 2 ? (s->ier & 2 ? 2 : 1)
			       : at == UART_BASE + 1 ? s->ier
						     : 0;
	} else if (at == FINISHER && x->mmio.write) {
		over(s, "the finisher was written", x->mmio.data);
	} else if (at >= 0x2000000 && at < 0x2010000) {
		x->mmio.data = 0; /* the timer block: nobody uses what it says */
	} else {
		x->mmio.error = true;
	}
}

static void console(struct side *s, struct cpu_exit *x)
{
	x->console.done = 0;
	if (!x->console.write)
		return;
	x->console.done = x->console.len;
	if (x->console.byte) {
		print(s, (char)x->console.gpa.v);
		return;
	}
	for (uint64_t i = 0; i < x->console.len; i++) {
		char c = 0;

		if (!space_read(s->space, gpa(x->console.gpa.v + i), &c, 1))
			print(s, c);
	}
}

/* Time of the guest: what it has run, and what it has slept. */
static uint64_t now(const struct side *s)
{
	return side_insns(s) / TICK_INSNS + s->skipped;
}

static void sleep_until_timer(struct side *s)
{
	uint64_t t = s->h->c.stimecmp;

	if (!(s->h->c.menvcfg & MENVCFG_STCE) || !(s->h->mie & BIT(IRQ_STI)))
		t = UINT64_MAX;
	if (t == UINT64_MAX) {
		over(s, "it sleeps for ever", 0);
		return;
	}
	if (t > now(s))
		s->skipped += t - now(s);
	rv64_engine.time_set(s->vm, now(s));
}

void side_run(struct side *s, uint64_t n)
{
	struct cpu_exit *x = &s->x;
	uint64_t target = s->start + n;
	unsigned idle = 0;

	if (!s->hold)
		rv64_engine.time_set(s->vm, now(s));
	while (!s->over && s->h->instret < target) {
		uint64_t before = s->h->instret;

		rv64_run_exactly(s->v, target - s->h->instret, x);
		switch (x->reason) {
		case CPU_EXIT_BUDGET:
			if (s->h->instret < target)
				over(s, "it traps without end", s->h->pc);
			break;
		case CPU_EXIT_PAUSE:
			break;
		case CPU_EXIT_IDLE:
			sleep_until_timer(s);
			break;
		case CPU_EXIT_MMIO:
			mmio(s, x);
			break;
		case CPU_EXIT_CONSOLE:
			console(s, x);
			break;
		case CPU_EXIT_SYSTEM:
			over(s, "it powers off", (uint64_t)x->system.event);
			break;
		case CPU_EXIT_ERROR:
			over(s, x->text, x->pc);
			break;
		default:
			over(s, cpu_exit_name(x->reason), x->pc);
			break;
		}
		idle = s->h->instret == before ? idle + 1 : 0;
		if (idle > 10000)
			over(s, "it makes no progress", s->h->pc);
	}
}

/* ---- comparison ---- */

void regs_of(const struct side *s, struct regs *st)
{
	struct hart *h = s->h;

	memset(st, 0, sizeof(*st));
	memcpy(st->x, h->x, sizeof(st->x));
	memcpy(st->f, h->f, sizeof(st->f));
	st->pc = h->pc;
	st->priv = h->priv;
	st->frm = h->fp.frm;
	st->fflags = fp_host_flags(&h->fp);
	st->fs = h->fs;
	st->instret = side_insns(s);
	st->mstatus = h->mstatus;
	st->mip = h->mip;
	st->mie = h->mie;
	st->mideleg = h->mideleg;
	st->medeleg = h->medeleg;
	st->resv_va = h->resv_va;
	st->resv_val = h->resv_val;
	st->hsm = h->hsm.state;
	st->c = h->c;
}

#define W(name) \
	{ \
#name, offsetof(struct regs, name) \
	}
static const struct {
	const char *name;
	size_t at;
} words[] = {W(pc), W(priv), W(frm), W(fflags), W(fs), W(instret), W(mstatus), W(mip), W(mie),
	W(mideleg), W(medeleg), W(resv_va), W(resv_val), W(hsm), W(c.mtvec), W(c.mscratch),
	W(c.mepc), W(c.mcause), W(c.mtval), W(c.mcounteren), W(c.mcountinhibit), W(c.menvcfg),
	W(c.miselect), W(c.stvec), W(c.sscratch), W(c.sepc), W(c.scause), W(c.stval),
	W(c.scounteren), W(c.senvcfg), W(c.siselect), W(c.satp), W(c.stimecmp), W(c.instret_base),
	W(c.cycle_base)};

static uint64_t word(const struct regs *st, size_t at)
{
	uint64_t v;

	memcpy(&v, (const char *)st + at, sizeof(v));
	return v;
}

static unsigned one(const char *name, uint64_t a, uint64_t b, uint64_t before, bool with)
{
	if (a == b)
		return 0;
	printf("    %-14s A %#018llx  B %#018llx", name, (unsigned long long)a,
		(unsigned long long)b);
	if (with)
		printf("  (before: %#llx)", (unsigned long long)before);
	printf("\n");
	return 1;
}

unsigned regs_diff(const struct regs *a, const struct regs *b, const struct regs *before)
{
	const struct regs *p = before ? before : a;
	unsigned n = 0;
	char name[16];

	if (!memcmp(a, b, sizeof(*a)))
		return 0;
	for (unsigned i = 0; i < 32; i++) {
		snprintf(name, sizeof(name), "x%u", i);
		n += one(name, a->x[i], b->x[i], p->x[i], before);
	}
	for (unsigned i = 0; i < 32; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		n += one(name, a->f[i], b->f[i], p->f[i], before);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		n += one(words[i].name, word(a, words[i].at), word(b, words[i].at),
			word(p, words[i].at), before);
	for (unsigned i = 0; i < PMP_ENTRIES; i++) {
		snprintf(name, sizeof(name), "pmpaddr%u", i);
		n += one(name, a->c.pmpaddr[i], b->c.pmpaddr[i], p->c.pmpaddr[i], before);
		snprintf(name, sizeof(name), "pmpcfg %u", i);
		n += one(name, a->c.pmpcfg[i], b->c.pmpcfg[i], p->c.pmpcfg[i], before);
	}
	if (!n)
		printf("    padding of the state\n"), n++;
	return n;
}

/* Of one side's touched ranges. */
static uint64_t diff_from(const struct side *a, const struct side *b)
{
	const char *base = frames_base(a->frames), *pa = side_ram(a, RAM_BASE),
		   *pb = side_ram(b, RAM_BASE);
	off_t first = pa - base, at = first, end = first + (off_t)a->o.ram, hole;
	int fd = frames_fd(a->frames);

	while (at < end && (at = lseek(fd, at, SEEK_DATA)) >= 0 && at < end) {
		hole = lseek(fd, at, SEEK_HOLE);
		hole = MIN(hole, end);
		for (; at < hole; at += PAGE_SIZE) {
			const char *x = pa + (at - first), *y = pb + (at - first);

			if (!memcmp(x, y, PAGE_SIZE))
				continue;
			for (unsigned i = 0; i < PAGE_SIZE; i++)
				if (x[i] != y[i])
					return RAM_BASE + (uint64_t)(at - first) + i;
		}
	}
	return 0;
}

uint64_t ram_diff(const struct side *a, const struct side *b)
{
	uint64_t at = diff_from(a, b);

	return at ? at : diff_from(b, a);
}
