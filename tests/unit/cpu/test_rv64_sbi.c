/*
 * The built-in firmware, with harts on threads of their own (RISC-V Supervisor Binary Interface Specification 2.0).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/util.h"
#include "bare.h"

#define BASE 0x10
#define TIME 0x54494d45
#define IPI 0x735049
#define RFENCE 0x52464e43
#define HSM 0x48534d
#define SRST 0x53525354
#define SUSP 0x53555350
#define DBCN 0x4442434e
#define PMU 0x504d55

#define DENIED -4
#define BAD_ADDRESS -5
#define BAD_PARAM -3
#define NOT_SUPPORTED -2

struct machine;
struct seat {
	struct machine *m;
	unsigned i;
};

/* Hart 0 is the test's own; the others have threads. */
struct machine {
	struct bare *b;
	_Atomic bool quit;
	pthread_t thread[4];
	struct seat seats[4];
	unsigned harts;
	_Atomic unsigned odd; /* exits that no hart should make */
};

static void *run_hart(void *arg)
{
	struct seat *s = arg;

	while (!s->m->quit) {
		struct cpu_exit x;

		rv64_engine.vcpu_run(s->m->b->v[s->i], 1000000, &x);
		if (x.reason == CPU_EXIT_STOPPED || x.reason == CPU_EXIT_IDLE)
			usleep(20);
		else if (x.reason != CPU_EXIT_BUDGET && x.reason != CPU_EXIT_PAUSE)
			s->m->odd++;
	}
	return NULL;
}

static void start(struct machine *m, unsigned harts)
{
	*m = (struct machine){.b = bare_new(harts, true), .harts = harts};
	for (unsigned i = 1; i < harts; i++) {
		m->seats[i] = (struct seat){m, i};
		assert_int_equal(pthread_create(&m->thread[i], NULL, run_hart, &m->seats[i]), 0);
	}
}

static void finish(struct machine *m)
{
	m->quit = true;
	for (unsigned i = 1; i < m->harts; i++) {
		rv64_engine.vcpu_kick(m->b->v[i]);
		pthread_join(m->thread[i], NULL);
	}
	assert_int_equal(m->odd, 0);
	bare_free(m->b);
}

/* ecall, then wfi with nothing enabled, on hart 0: leaves idle unless the call itself leaves. Returns the exit. */
static struct cpu_exit call(
	struct bare *b, uint64_t ext, uint64_t fid, uint64_t a0, uint64_t a1, uint64_t a2)
{
	struct cpu_exit x;

	bare_put(b, CODE, ECALL);
	bare_put(b, CODE + 4, 0x10500073);
	b->h->pc = CODE;
	b->h->x[10] = a0;
	b->h->x[11] = a1;
	b->h->x[12] = a2;
	b->h->x[16] = fid;
	b->h->x[17] = ext;
	bare_exit(b, 0, &x);
	return x;
}

static int64_t sbi(
	struct bare *b, uint64_t ext, uint64_t fid, uint64_t a0, uint64_t a1, uint64_t a2)
{
	struct cpu_exit x = call(b, ext, fid, a0, a1, a2);

	/* What the engine does not know is the monitor's; this one knows nothing. */
	if (x.reason == CPU_EXIT_HYPERCALL) {
		assert_int_equal(x.hcall.nr, fid << 32 | ext);
		assert_int_equal(x.hcall.args[0], a0);
		x.hcall.ret[0] = (uint64_t)NOT_SUPPORTED;
		rv64_engine.vcpu_run(b->v[0], 0, &x);
		assert_int_equal(x.reason, CPU_EXIT_BUDGET);
		bare_exit(b, 0, &x);
	}
	assert_int_equal(x.reason, CPU_EXIT_IDLE);
	return (int64_t)b->h->x[10];
}

static void base(void **state)
{
	static const uint32_t known[] = {BASE, TIME, IPI, RFENCE, HSM, SRST, SUSP, DBCN, PMU};
	struct bare *b = bare_new(2, true);

	assert_int_equal(b->h->priv, PRIV_S);
	assert_int_equal(sbi(b, BASE, 0, 0, 0, 0), 0);
	assert_int_equal(b->h->x[11], 2 << 24); /* 2.0 */
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		assert_int_equal(sbi(b, BASE, 3, known[i], 0, 0), 0);
		assert_int_equal(b->h->x[11], 1);
		/* a function that none of them has */
		assert_int_equal(sbi(b, known[i], 99, 0, 0, 0), NOT_SUPPORTED);
	}
	assert_int_equal(sbi(b, BASE, 3, 0x535345, 0, 0), 0); /* SSE */
	assert_int_equal(b->h->x[11], 0);
	assert_int_equal(sbi(b, 0x535345, 0, 0, 0, 0), NOT_SUPPORTED);
	assert_int_equal(sbi(b, PMU, 0, 0, 0, 0), 0);
	assert_int_equal(b->h->x[11], 0); /* no counters */
	bare_free(b);
}

static void timer_and_ipi(void **state)
{
	struct bare *b = bare_new(2, true);
	uint64_t far = rv64_engine.time_get(b->vm) + 1000000000;

	assert_int_equal(sbi(b, TIME, 0, 0, 0, 0), 0);
	assert_int_equal(rv64_mip(b->h) & BIT(IRQ_STI), BIT(IRQ_STI));
	assert_int_equal(sbi(b, TIME, 0, far, 0, 0), 0); /* takes the pending one back */
	assert_int_equal(rv64_mip(b->h) & BIT(IRQ_STI), 0);
	assert_int_equal(b->h->c.stimecmp, far);
	assert_int_equal(sbi(b, IPI, 0, 2, 0, 0), 0);
	assert_int_equal(bare_hart(b, 1)->mip, BIT(IRQ_SSI));
	assert_int_equal(b->h->mip, 0);
	assert_int_equal(sbi(b, IPI, 0, 0, UINT64_MAX, 0), 0); /* all */
	assert_int_equal(b->h->mip, BIT(IRQ_SSI));
	assert_int_equal(sbi(b, IPI, 0, 1, 1, 0), 0); /* base 1 */
	assert_int_equal(sbi(b, IPI, 0, 4, 0, 0), BAD_PARAM);
	assert_int_equal(sbi(b, IPI, 0, 1, 128, 0), BAD_PARAM);
	assert_int_equal(sbi(b, IPI, 0, 1, UINT64_MAX - 1, 0), BAD_PARAM);
	assert_int_equal(sbi(b, RFENCE, 0, 8, 0, 0), BAD_PARAM);
	assert_int_equal(
		sbi(b, RFENCE, 1, 3, 0, 0), 0); /* hart 1 does not run: it flushes when it enters */
	assert_int_equal(bare_hart(b, 1)->poll & POLL_ASKED, POLL_ASKED);
	assert_int_equal(bare_hart(b, 1)->asks.n, 1);
	bare_free(b);
}

static void reset_and_console(void **state)
{
	struct bare *b = bare_new(1, true);
	struct cpu_exit x = call(b, SRST, 0, 0, 0, 0);

	assert_int_equal(x.reason, CPU_EXIT_SYSTEM);
	assert_int_equal(x.system.event, CPU_SYSTEM_SHUTDOWN);
	x = call(b, SRST, 0, 0, 1, 0);
	assert_int_equal(x.system.event, CPU_SYSTEM_CRASH);
	x = call(b, SRST, 0, 1, 0, 0);
	assert_int_equal(x.system.event, CPU_SYSTEM_REBOOT);
	assert_int_equal(sbi(b, SRST, 0, 3, 0, 0), BAD_PARAM);
	assert_int_equal(sbi(b, SRST, 0, 0, 2, 0), BAD_PARAM);
	/* console: the answer is how many bytes went */
	x = call(b, DBCN, 0, 5, RAM, 0);
	assert_int_equal(x.reason, CPU_EXIT_CONSOLE);
	assert_int_equal(x.console.gpa.v, RAM);
	assert_int_equal(x.console.len, 5);
	assert_true(x.console.write && !x.console.byte);
	x.console.done = 3;
	rv64_engine.vcpu_run(b->v[0], 0, &x);
	assert_int_equal(b->h->x[10], 0);
	assert_int_equal(b->h->x[11], 3);
	assert_int_equal(b->h->pc, CODE + 4);
	x = call(b, DBCN, 2, 'x', 0, 0);
	assert_true(x.console.byte && x.console.write);
	assert_int_equal(x.console.gpa.v, 'x');
	rv64_engine.vcpu_run(b->v[0], 0, &x);
	x = call(b, DBCN, 1, 5, RAM, 0);
	assert_false(x.console.write);
	rv64_engine.vcpu_run(b->v[0], 0, &x);
	assert_int_equal(b->h->x[11], 0);
	assert_int_equal(sbi(b, DBCN, 0, 0, RAM, 0), 0);
	assert_int_equal(sbi(b, DBCN, 0, 1, RAM, 1), BAD_PARAM); /* high half of the address */
	assert_int_equal(sbi(b, DBCN, 0, 1, 0x1000, 0), BAD_PARAM); /* no memory */
	assert_int_equal(sbi(b, DBCN, 0, RAM_SIZE + 1, RAM, 0), BAD_PARAM);
	assert_int_equal(sbi(b, DBCN, 0, UINT64_MAX, RAM, 0), BAD_PARAM);
	bare_free(b);
}

static void suspend(void **state)
{
	struct bare *b = bare_new(2, true);
	struct cpu_exit x;

	assert_int_equal(sbi(b, SUSP, 0, 1, RAM, 0), BAD_PARAM);
	assert_int_equal(sbi(b, SUSP, 0, 0, 0x1000, 0), BAD_ADDRESS);
	atomic_store(&bare_hart(b, 1)->hsm.state, HSM_STARTED);
	assert_int_equal(sbi(b, SUSP, 0, 0, RAM, 0), DENIED);
	atomic_store(&bare_hart(b, 1)->hsm.state, HSM_STOPPED);
	x = call(b, SUSP, 0, 0, RAM + 0x5000, 77);
	assert_int_equal(x.reason, CPU_EXIT_SYSTEM);
	assert_int_equal(x.system.event, CPU_SYSTEM_SUSPEND);
	/* asleep until somebody runs it again, which is how a suspended machine is woken; it needs no interrupt */
	rv64_engine.vcpu_run(b->v[0], 0, &x);
	assert_int_equal(b->h->hsm.state, HSM_SUSPENDED);
	bare_put(b, RAM + 0x5000, 0x0000006f);
	b->h->c.satp = 8ull << 60;
	rv64_engine.vcpu_run(b->v[0], 100000, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_int_equal(b->h->pc, RAM + 0x5000);
	assert_int_equal(b->h->x[10], 0);
	assert_int_equal(b->h->x[11], 77);
	assert_int_equal(b->h->c.satp, 0);
	/* HSM suspend, retentive: comes back behind the call; nothing of the guest runs meanwhile */
	b->h->mie = 0;
	bare_put(b, CODE, ECALL);
	bare_put(b, CODE + 4, 0x00100293); /* li x5, 1 */
	bare_put(b, CODE + 8, 0x10500073);
	rv64_code_fence_i(b->h);
	b->h->pc = CODE;
	b->h->x[5] = 0;
	b->h->x[10] = 0;
	b->h->x[16] = 3;
	b->h->x[17] = HSM;
	bare_exit(b, 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_IDLE);
	assert_int_equal(b->h->x[5], 0);
	assert_int_equal(b->h->hsm.state, HSM_SUSPENDED);
	b->h->mie = BIT(IRQ_SSI);
	atomic_fetch_or(&b->h->mip, BIT(IRQ_SSI));
	rv64_engine.vcpu_run(b->v[0], 100000, &x);
	assert_int_equal(b->h->x[5], 1);
	assert_int_equal(b->h->x[10], 0);
	bare_free(b);
}

#define REMOTE (RAM + 0x6000)
#define MARK (RAM + 0x8000)

/* What the remote harts run: MARK[hart] = argument, then hart_stop. */
static void put_remote(struct bare *b)
{
	static const uint32_t code[] = {
		0x000082b7, /* lui x5, 8 */
		0x00100313, /* li x6, 1 */
		0x01f31313, /* slli x6, x6, 31 */
		0x006282b3, /* add x5, x5, x6: MARK */
		0x00351313, /* slli x6, a0, 3 */
		0x006282b3, /* add x5, x5, x6 */
		0x00b2b023, /* sd a1, 0(x5) */
		0x004858b7, /* lui a7, 0x485 */
		0x34d88893, /* addi a7, a7, 0x34d: HSM */
		0x00100813, /* li a6, 1: stop */
		ECALL, 0x00000013, 0xffdff06f, /* j .-4: must not get here */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
		bare_put(b, REMOTE + 4 * i, code[i]);
}

static void harts_start_and_stop(void **state)
{
	struct machine m;
	struct bare *b;

	start(&m, 3);
	b = m.b;
	put_remote(b);
	assert_int_equal(sbi(b, HSM, 2, 1, 0, 0), 0);
	assert_int_equal(b->h->x[11], HSM_STOPPED);
	assert_int_equal(sbi(b, HSM, 2, 0, 0, 0), 0);
	assert_int_equal(b->h->x[11], HSM_STARTED);
	assert_int_equal(sbi(b, HSM, 2, 3, 0, 0), BAD_PARAM);
	assert_int_equal(sbi(b, HSM, 0, 3, REMOTE, 0), BAD_PARAM);
	assert_int_equal(sbi(b, HSM, 0, 1, 0x1000, 0), BAD_ADDRESS);
	assert_int_equal(sbi(b, HSM, 0, 0, REMOTE, 0), -6); /* already available */
	/* Again as soon as it says that it is stopped: a start must never be lost. */
	for (uint64_t n = 1; n <= 400; n++)
		for (unsigned i = 1; i < 3; i++) {
			uint64_t t0 = clock_mono_ns();

			while (sbi(b, HSM, 0, i, REMOTE, n) == -6)
				assert_true(clock_mono_ns() - t0 < 60000000000);
			assert_int_equal(b->h->x[10], 0);
			while (bare_get64(b, MARK + 8 * i) != n)
				if (clock_mono_ns() - t0 > 60000000000)
					fail_msg("hart %u, start %lu was lost; state %u", i,
						(unsigned long)n, bare_hart(b, i)->hsm.state);
		}
	finish(&m);
}

/*
 * A fence on all harts while each other one fences too: nobody may wait for ever, and each call returns only when the
 * others can no longer use what was.
 */
static void fences_meet(void **state)
{
	struct machine m;
	struct bare *b;
	static const uint32_t code[] = {
		0x00000513, /* li a0, 0 */
		0xfff00593, /* li a1, -1: all */
		0x00100813, /* li a6, 1: sfence.vma */
		0x524658b7, /* lui a7, 0x52465 */
		0xe4388893, /* addi a7, a7, -0x1bd: RFENCE */
		ECALL, 0xfe9ff06f, /* j .-24 */
	};
	uint64_t t0 = clock_mono_ns();

	start(&m, 3);
	b = m.b;
	for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
		bare_put(b, REMOTE + 4 * i, code[i]);
	for (unsigned i = 1; i < 3; i++)
		assert_int_equal(sbi(b, HSM, 0, i, REMOTE, 0), 0);
	for (unsigned n = 0;
		n < 300 || bare_hart(b, 1)->instret < 600 || bare_hart(b, 2)->instret < 600; n++) {
		assert_true(clock_mono_ns() - t0 < 60000000000);
		assert_int_equal(sbi(b, RFENCE, n % 3, 0, UINT64_MAX, 0), 0);
	}
	assert_int_equal(b->h->x[10], 0);
	finish(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base),
		cmocka_unit_test(timer_and_ipi),
		cmocka_unit_test(reset_and_console),
		cmocka_unit_test(suspend),
		cmocka_unit_test(harts_start_and_stop),
		cmocka_unit_test(fences_meet),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
