/*
 * run.c: a vCPU in the kernel: entering, being thrown out, and what it came out for.
 *
 * A kick must get a vCPU out of KVM_RUN, or keep it from going in. kvm_run.immediate_exit is read when KVM_RUN begins, and a signal
 * ends it later. Order here and in kvm_kick(): the vCPU clears immediate_exit, says that it is inside, and looks for a kick; the
 * kicker sets `kicked`, then immediate_exit, then signals if the vCPU is inside. Whatever comes first, one of them sees the
 * other. The budget's timer sends the same signal, with the address of immediate_exit as its value, because it may go off between that look
 * and KVM_RUN.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "cpu/kvm/dirty.h"
#include "cpu/kvm/ioapic.h"
#include "cpu/kvm/priv.h"

/* This many returns in a row without anything done: somebody showers the thread with signals. */
#define FRUITLESS 10000

#define EXIT_MEMORY_FAULT 39 /* KVM_EXIT_MEMORY_FAULT, newer than the oldest header */

static int kick_signal(void)
{
	return SIGRTMIN + 3;
}

static void on_signal(int sig, siginfo_t *info, void *uc)
{
	volatile __u8 *immediate_exit = info->si_value.sival_ptr;

	if (info->si_code == SI_TIMER && immediate_exit)
		*immediate_exit = 1;
}

int kvm_signal_setup(struct err *e)
{
	struct sigaction old, sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};

	if (sigaction(kick_signal(), NULL, &old))
		return err_sys(e, -errno, "engine kvm: signal %d", kick_signal());
	if ((old.sa_flags & SA_SIGINFO) && old.sa_sigaction == on_signal)
		return 0;
	if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN)
		return err_set(e, -EBUSY,
			"engine kvm: signal %d, by which vCPUs are stopped, is used by this "
			"program",
			kick_signal());
	sigemptyset(&sa.sa_mask);
	return sigaction(kick_signal(), &sa, NULL)
		       ? err_sys(e, -errno, "engine kvm: signal %d", kick_signal())
		       : 0;
}

/* ---- kicks and the gate ---- */

static void poke(struct kvm_vcpu *c)
{
	*(volatile __u8 *)&c->run->immediate_exit = 1;
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&c->inside))
		pthread_kill(atomic_load(&c->thread), kick_signal());
}

void kvm_kick(struct vcpu *v)
{
	struct kvm_vcpu *c = kvm_vcpu_of(v);

	atomic_store(&c->kicked, true);
	poke(c);
}

void kvm_gate_close(struct kvm_vm *vm)
{
	pthread_mutex_lock(&vm->gate_lock);
	atomic_store(&vm->gate_closed, true);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		if (atomic_load(&vm->vcpus[i]->inside))
			poke(vm->vcpus[i]);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		while (atomic_load(&vm->vcpus[i]->inside))
			pthread_cond_wait(&vm->gate_empty, &vm->gate_lock);
	pthread_mutex_unlock(&vm->gate_lock);
}

void kvm_gate_reopen(struct kvm_vm *vm)
{
	pthread_mutex_lock(&vm->gate_lock);
	atomic_store(&vm->gate_closed, false);
	pthread_cond_broadcast(&vm->gate_open);
	pthread_mutex_unlock(&vm->gate_lock);
}

static void leave(struct kvm_vcpu *c)
{
	atomic_store(&c->inside, false);
	if (atomic_load(&c->vm->gate_closed)) {
		pthread_mutex_lock(&c->vm->gate_lock);
		pthread_cond_broadcast(&c->vm->gate_empty);
		pthread_mutex_unlock(&c->vm->gate_lock);
	}
}

static void enter(struct kvm_vcpu *c, bool immediate)
{
	struct kvm_vm *vm = c->vm;

	for (;;) {
		*(volatile __u8 *)&c->run->immediate_exit = immediate;
		atomic_store(&c->inside, true);
		if (likely(!atomic_load(&vm->gate_closed)))
			return;
		leave(c);
		pthread_mutex_lock(&vm->gate_lock);
		while (atomic_load(&vm->gate_closed))
			pthread_cond_wait(&vm->gate_open, &vm->gate_lock);
		pthread_mutex_unlock(&vm->gate_lock);
	}
}

/* ---- the budget ---- */

void kvm_timer_drop(struct kvm_vcpu *c)
{
	if (c->has_timer)
		timer_delete(c->timer);
	c->has_timer = false;
}

/* A timer belongs to the thread that it signals; workers keep their vCPU, so that this is made once. */
static bool timer_ready(struct kvm_vcpu *c)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = kick_signal()};
	pid_t tid = (pid_t)syscall(SYS_gettid);

	if (c->has_timer && c->timer_tid == tid)
		return true;
	kvm_timer_drop(c);
	ev.sigev_value.sival_ptr = (void *)&c->run->immediate_exit;
	ev._sigev_un._tid = tid;
	if (timer_create(CLOCK_MONOTONIC, &ev, &c->timer))
		return false;
	c->has_timer = true;
	c->timer_tid = tid;
	return true;
}

static void timer_at(struct kvm_vcpu *c, uint64_t ns)
{
	struct itimerspec t = {.it_value = {.tv_sec = (time_t)(ns / 1000000000u),
				       .tv_nsec = (long)(ns % 1000000000u)}};

	timer_settime(c->timer, TIMER_ABSTIME, &t, NULL);
}

/* ---- accesses ---- */

static uint64_t load(const uint8_t *p, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, p, size);
	return v;
}

/* The next piece of the access to the handlers. */
static void post_piece(struct kvm_vcpu *c, struct cpu_exit *x)
{
	struct kvm_access *a = &c->acc;

	a->size = (uint8_t)a->step;
	if (!a->step)
		for (a->size = 8; a->size > a->left; a->size /= 2)
			;
	a->open = true;
	x->reason = a->pio ? CPU_EXIT_PIO : CPU_EXIT_MMIO;
	x->mmio.gpa = gpa(a->addr);
	x->mmio.size = a->size;
	x->mmio.write = a->write;
	x->mmio.error = false;
	x->mmio.data = a->write ? load(a->data, a->size) : 0;
}

/* Takes the answer; true when another piece was posted. */
static bool take_answer(struct kvm_vcpu *c, struct cpu_exit *x)
{
	struct kvm_access *a = &c->acc;
	/* Where nobody is, x86 reads ones. */
	uint64_t v = x->mmio.error ? UINT64_MAX : x->mmio.data;

	a->open = false;
	if (!a->write)
		memcpy(a->data, &v, a->size);
	a->data += a->size;
	a->left -= a->size;
	if (!a->step)
		a->addr += a->size; /* a string instruction stays at its port */
	if (!a->left)
		return false;
	post_piece(c, x);
	return true;
}

static bool on_pio(struct kvm_vcpu *c, struct cpu_exit *x)
{
	struct kvm_run *r = c->run;

	c->acc = (struct kvm_access){.in_kernel = true,
		.pio = true,
		.write = r->io.direction == KVM_EXIT_IO_OUT,
		.addr = r->io.port,
		.data = (uint8_t *)r + r->io.data_offset,
		.left = r->io.count * r->io.size,
		.step = r->io.size};
	if (!c->acc.left)
		return false;
	post_piece(c, x);
	return true;
}

/*
 * An access to memory that the view has but did not let the guest use so. KVM takes such a page for a device's: it waits for an
 * answer, and does not make the instruction again. So the access is made here once the view allows it; until then it is a view
 * fault. True when it was made.
 */
static bool redo(struct kvm_vcpu *c, struct cpu_exit *x)
{
	struct kvm_access *a = &c->acc;
	enum mem_access acc = a->write ? MEM_WRITE : MEM_READ;
	void *p = kvm_slots_ptr(c->vm, a->addr, a->left, acc);

	a->fault = !p;
	if (!p) {
		x->reason = CPU_EXIT_VIEW_FAULT;
		x->fault.gpa = gpa(a->addr);
		x->fault.access = acc;
		x->fault.view = c->vm->view;
		return false;
	}
	if (a->write) {
		memcpy(p, a->data, a->left);
		space_announce(c->vm->o.space, gpa(a->addr), a->left);
	} else {
		memcpy(a->data, p, a->left);
	}
	return true;
}

static bool on_mmio(struct kvm_vcpu *c, struct cpu_exit *x)
{
	struct kvm_run *r = c->run;

	c->acc = (struct kvm_access){.in_kernel = true,
		.write = r->mmio.is_write,
		.addr = r->mmio.phys_addr,
		.data = r->mmio.data,
		.left = MIN(r->mmio.len, 8u)};
	if (!c->acc.left)
		return false;
	if (c->vm->ioapic && ioapic_access(c->vm->ioapic, r->mmio.phys_addr, r->mmio.len,
				     r->mmio.is_write, r->mmio.data))
		return false;
	if (kvm_slots_mapped(c->vm, r->mmio.phys_addr))
		return !redo(c, x);
	post_piece(c, x);
	return true;
}

/* ---- the other exits ---- */

static uint64_t pc_of(struct kvm_vcpu *c)
{
	struct kvm_regs regs;

	if (kvm_has(&c->vm->caps, KC_SYNC_REGS))
		return c->run->s.regs.regs.rip;
	return kvm_vcpu_ioctl(c, KVM_GET_REGS, KVM_PTR(&regs)) < 0 ? 0 : regs.rip;
}

static void error_text(struct kvm_vcpu *c, struct cpu_exit *x, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void error_text(struct kvm_vcpu *c, struct cpu_exit *x, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->text, sizeof(c->text), fmt, ap);
	va_end(ap);
	x->reason = CPU_EXIT_ERROR;
	x->pc = pc_of(c);
	x->text = c->text;
}

/* The instruction at rip, read through the guest's own tables: what the kernel did not say. */
static unsigned fetch(struct kvm_vcpu *c, uint8_t *buf, unsigned max)
{
	uint64_t pc = pc_of(c);
	unsigned n = 0;

	while (n < max) {
		struct kvm_translation t = {.linear_address = pc + n};
		uint64_t piece = MIN((uint64_t)(max - n), PAGE_SIZE - ((pc + n) & PAGE_MASK));

		if (kvm_vcpu_ioctl(c, KVM_TRANSLATE, KVM_PTR(&t)) < 0 || !t.valid ||
			space_read(c->vm->o.space, gpa(t.physical_address), buf + n, piece))
			break;
		n += (unsigned)piece;
	}
	return n;
}

static void on_internal(struct kvm_vcpu *c, struct cpu_exit *x)
{
	static const char *const what[] = {[1] = "an instruction that KVM cannot emulate",
		[2] = "an exception while another one was delivered (KVM_INTERNAL_ERROR_SIMUL_EX)",
		[3] = "an event could not be delivered (KVM_INTERNAL_ERROR_DELIVERY_EV)",
		[4] = "an exit that KVM does not expect"};
	struct kvm_run *r = c->run;
	uint8_t insn[15];
	char hex[48] = "";
	unsigned n = 0, sub = r->internal.suberror;

	if (sub == KVM_INTERNAL_ERROR_EMULATION && r->emulation_failure.ndata >= 1 &&
		r->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
		n = MIN(r->emulation_failure.insn_size, (unsigned)sizeof(insn));
		memcpy(insn, r->emulation_failure.insn_bytes, n);
	}
	if (!n)
		n = fetch(c, insn, sizeof(insn));
	for (unsigned i = 0; i < n; i++)
		snprintf(hex + 3 * i, 4, "%02x ", insn[i]);
	error_text(c, x, "KVM stopped on %s (internal error %u) at rip %#llx, instruction bytes %s",
		sub < ARRAY_SIZE(what) && what[sub] ? what[sub] : "an error of its own", sub,
		(unsigned long long)pc_of(c), n ? hex : "not readable");
}

static void on_shutdown(struct kvm_vcpu *c, struct cpu_exit *x)
{
	log_error(c->vm->o.log, "kvm", "vCPU %u: triple fault at rip %#llx", c->head.index,
		(unsigned long long)pc_of(c));
	x->reason = CPU_EXIT_SYSTEM;
	x->system.event = CPU_SYSTEM_CRASH;
	x->system.code = 0;
}

static void on_system(struct kvm_vcpu *c, struct cpu_exit *x)
{
	static const int events[] = {[KVM_SYSTEM_EVENT_SHUTDOWN] = CPU_SYSTEM_SHUTDOWN,
		[KVM_SYSTEM_EVENT_RESET] = CPU_SYSTEM_REBOOT,
		[KVM_SYSTEM_EVENT_CRASH] = CPU_SYSTEM_CRASH,
		[KVM_SYSTEM_EVENT_SUSPEND] = CPU_SYSTEM_SUSPEND};
	unsigned t = c->run->system_event.type;

	if (t >= ARRAY_SIZE(events) || !t) {
		error_text(c, x, "KVM reports system event %u, which Lodge does not know", t);
		return;
	}
	x->reason = CPU_EXIT_SYSTEM;
	x->system.event = (enum cpu_system_event)events[t];
	x->system.code = 0;
}

static void on_debug(struct kvm_vcpu *c, struct cpu_exit *x)
{
	x->reason = CPU_EXIT_DEBUG;
	x->pc = c->run->debug.arch.pc;
	x->gva = c->run->debug.arch.pc;
}

/* An MSR outside the filter: the guest takes #GP, and the log says which, once in a while. */
static void on_msr(struct kvm_vcpu *c, bool write)
{
	c->run->msr.error = 1;
	c->stats.traps++;
	log_debug(c->vm->o.log, "kvm", "vCPU %u: %s of MSR %#x refused", c->head.index,
		write ? "write" : "read", c->run->msr.index);
}

static void on_memory_fault(struct kvm_vcpu *c, struct cpu_exit *x)
{
	/* struct { __u64 flags, gpa, size; } in the union (KVM_CAP_MEMORY_FAULT_INFO). */
	const uint64_t *f = (const uint64_t *)&c->run->hw;

	x->reason = CPU_EXIT_VIEW_FAULT;
	x->fault.gpa = gpa(f[1]);
	x->fault.access = MEM_READ;
	x->fault.view = c->vm->view;
}

/* True: *x says what to do. False: back in. */
static bool post_exit(struct kvm_vcpu *c, struct cpu_exit *x)
{
	struct kvm_run *r = c->run;

	x->raw = r->exit_reason;
	if (kvm_has(&c->vm->caps, KC_SYNC_REGS))
		x->pc = r->s.regs.regs.rip;
	switch (r->exit_reason) {
	case KVM_EXIT_IO:
		return on_pio(c, x);
	case KVM_EXIT_MMIO:
		return on_mmio(c, x);
	case KVM_EXIT_INTR:
	case KVM_EXIT_NMI:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_X86_BUS_LOCK:
	case KVM_EXIT_NOTIFY:
		return false;
	case KVM_EXIT_IOAPIC_EOI:
		if (c->vm->ioapic)
			ioapic_eoi(c->vm->ioapic, r->eoi.vector);
		return false;
	case KVM_EXIT_DIRTY_RING_FULL:
		kvm_dirty_ring_full(c);
		return false;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		on_msr(c, r->exit_reason == KVM_EXIT_X86_WRMSR);
		return false;
	case KVM_EXIT_HLT:
		x->reason = CPU_EXIT_IDLE;
		x->idle.deadline_ns = UINT64_MAX;
		return true;
	case KVM_EXIT_SHUTDOWN:
		on_shutdown(c, x);
		return true;
	case KVM_EXIT_SYSTEM_EVENT:
		on_system(c, x);
		return true;
	case KVM_EXIT_DEBUG:
		on_debug(c, x);
		return true;
	case KVM_EXIT_INTERNAL_ERROR:
		on_internal(c, x);
		return true;
	case KVM_EXIT_FAIL_ENTRY:
		error_text(c, x,
			"the processor refuses to enter the guest: hardware reason %#llx (SDM "
			"volume "
			"3, VM-instruction error; a state that it takes for impossible)",
			(unsigned long long)r->fail_entry.hardware_entry_failure_reason);
		return true;
	case EXIT_MEMORY_FAULT:
		on_memory_fault(c, x);
		return true;
	default:
		error_text(c, x, "KVM exit %u, which Lodge does not know", r->exit_reason);
		return true;
	}
}

static bool on_failure(struct kvm_vcpu *c, struct cpu_exit *x, int rc)
{
	if (rc == -EINTR || rc == -EAGAIN)
		return false;
	if (rc == -EFAULT && c->run->exit_reason == EXIT_MEMORY_FAULT)
		return post_exit(c, x);
	error_text(c, x, "KVM_RUN: %s%s", strerrordesc_np(-rc) ?: "unknown error",
		rc == -EFAULT ? " (a page of guest memory could not be had: is the host out of "
				"memory?)"
			      : "");
	return true;
}

/* Until there is something to say, at most to `end`. */
static void run_loop(struct kvm_vcpu *c, uint64_t end, struct cpu_exit *x)
{
	unsigned fruitless = 0;

	for (;;) {
		int rc;

		enter(c, false);
		if (atomic_exchange(&c->kicked, false)) {
			leave(c);
			break;
		}
		rc = kvm_vcpu_ioctl(c, KVM_RUN, 0);
		leave(c);
		c->acc.in_kernel = false;
		if (rc < 0 ? on_failure(c, x, rc) : post_exit(c, x))
			return;
		fruitless = rc < 0 ? fruitless + 1 : 0;
		if (fruitless > FRUITLESS || (end != CPU_BUDGET_NONE && clock_mono_ns() >= end))
			break;
	}
	x->reason = CPU_EXIT_BUDGET;
}

/* Lets the kernel finish an instruction whose access is answered, and nothing more. */
static void finish(struct kvm_vcpu *c, struct cpu_exit *x)
{
	int rc;

	x->reason = CPU_EXIT_BUDGET;
	if (!c->acc.in_kernel)
		return;
	enter(c, true);
	rc = kvm_vcpu_ioctl(c, KVM_RUN, 0);
	leave(c);
	c->acc.in_kernel = false;
	if (rc < 0 ? on_failure(c, x, rc) : post_exit(c, x))
		return;
	x->reason = CPU_EXIT_BUDGET;
}

/* What left, in the primary ISA's terms: KVM has folded VMX's and SVM's own codes into fewer; this unfolds them. */
static struct cpu_code code_of(const struct kvm_run *r, const struct cpu_exit *x)
{
	static const uint8_t qual[] = {
		[MEM_READ] = CPU_QUAL_R, [MEM_WRITE] = CPU_QUAL_W, [MEM_EXEC] = CPU_QUAL_X};
	unsigned debug = r->exit_reason == KVM_EXIT_DEBUG ? r->debug.arch.exception : 0;

	switch (x->reason) {
	case CPU_EXIT_MMIO:
		return (struct cpu_code){.basic = CPU_BASIC_EPT_MISCONFIG,
			.qual = x->mmio.write ? CPU_QUAL_W : CPU_QUAL_R};
	case CPU_EXIT_PIO:
		return (struct cpu_code){.basic = CPU_BASIC_IO,
			.qual = x->mmio.gpa.v << 16 | (x->mmio.write ? 0 : 8) |
				(x->mmio.size - 1u)};
	case CPU_EXIT_VIEW_FAULT:
		return (struct cpu_code){.basic = CPU_BASIC_EPT_VIOLATION,
			.qual = x->fault.access < ARRAY_SIZE(qual) ? qual[x->fault.access] : 0};
	case CPU_EXIT_IDLE:
		return (struct cpu_code){.basic = CPU_BASIC_HLT};
	case CPU_EXIT_PAUSE:
		return (struct cpu_code){.basic = CPU_BASIC_PAUSE};
	case CPU_EXIT_STOPPED:
		return (struct cpu_code){.basic = CPU_BASIC_INIT};
	case CPU_EXIT_SYSTEM:
		if (x->raw == KVM_EXIT_SHUTDOWN)
			return (struct cpu_code){.basic = CPU_BASIC_TRIPLE};
		return (struct cpu_code){.basic = CPU_BASIC_VMCALL, .qual = CPU_CALL_SYSTEM};
	case CPU_EXIT_DEBUG:
		return (struct cpu_code){.basic = CPU_BASIC_EXCEPTION,
			.vector = debug == CPU_VEC_BP ? CPU_VEC_BP : CPU_VEC_DB};
	case CPU_EXIT_BUDGET:
		return (struct cpu_code){.basic = CPU_BASIC_EXTINT, .vector = CPU_VEC_IPI};
	case CPU_EXIT_ERROR:
		if (x->raw == KVM_EXIT_FAIL_ENTRY)
			return (struct cpu_code){.basic = CPU_BASIC_ENTRY_FAIL};
		break;
	default:
		break;
	}
	return (struct cpu_code){.basic = CPU_BASIC_UNKNOWN};
}

static void run_vcpu(struct kvm_vcpu *c, uint64_t budget_ns, struct cpu_exit *x);

void kvm_run_vcpu(struct vcpu *v, uint64_t budget_ns, struct cpu_exit *x)
{
	struct kvm_vcpu *c = kvm_vcpu_of(v);
	const char *text;

	run_vcpu(c, budget_ns, x);
	text = x->reason == CPU_EXIT_ERROR ? x->text : NULL;
	x->code = code_of(c->run, x);
	cpu_exit_identify(x);
	if (text)
		x->text = text;
}

static void run_vcpu(struct kvm_vcpu *c, uint64_t budget_ns, struct cpu_exit *x)
{
	uint64_t end = budget_ns;
	bool timed;

	if (c->acc.open && take_answer(c, x))
		return;
	if (c->acc.fault && !redo(c, x))
		return;
	x->raw = KVM_EXIT_INTR;
	x->gva = 0;
	if (unlikely(atomic_load(&c->vm->broken))) {
		x->reason = CPU_EXIT_ERROR;
		x->text = c->vm->text;
		return;
	}
	atomic_store(&c->thread, pthread_self());
	if (kvm_has(&c->vm->caps, KC_SYNC_REGS))
		c->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	if (!budget_ns) {
		finish(c, x);
		c->stats.exits[x->reason]++;
		return;
	}
	timed = budget_ns != CPU_BUDGET_NONE && timer_ready(c);
	if (budget_ns != CPU_BUDGET_NONE) {
		end = clock_mono_ns() + budget_ns;
		if (timed)
			timer_at(c, end);
	}
	run_loop(c, end, x);
	if (timed)
		timer_at(c, 0);
	c->stats.exits[x->reason]++;
}
