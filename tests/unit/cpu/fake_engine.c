#include "fake_engine.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"

struct fake_vcpu {
	struct vcpu_head head;
	struct cpu_vm *vm;
	const struct fake_step *steps;
	unsigned n, next;
	bool open; /* the step before `next` waits for its answer */
	_Atomic bool kicked;
	_Atomic uint32_t lines, msi;
	_Atomic uint64_t mtimecmp;
	uint64_t regs[33];
	struct cpu_stats stats;
};

struct cpu_vm {
	struct cpu_vm_opts o;
	struct fake_vcpu *v[CPU_MAX_VCPUS];
	unsigned n;
	_Atomic uint64_t time;
};

static struct fake_vcpu *of(const struct vcpu *v)
{
	return (struct fake_vcpu *)v;
}

static int available(struct err *e)
{
	return 0;
}

static int vm_create(struct cpu_vm **out, const struct cpu_vm_opts *o, struct err *e)
{
	if (!o->vcpus || o->vcpus > CPU_MAX_VCPUS)
		return err_set(
			e, -EINVAL, "%u vCPUs: 1 to %d are possible", o->vcpus, CPU_MAX_VCPUS);
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return err_set(e, -ENOMEM, "fake engine: out of memory");
	(*out)->o = *o;
	return 0;
}

static void vm_destroy(struct cpu_vm *vm)
{
	for (unsigned i = 0; vm && i < vm->n; i++)
		free(vm->v[i]);
	free(vm);
}

static int vcpu_create(struct vcpu **out, struct cpu_vm *vm, unsigned index, struct err *e)
{
	struct fake_vcpu *f;

	if (index != vm->n || index >= vm->o.vcpus)
		return err_set(e, -EINVAL, "vCPU %u: they are made in order", index);
	f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(e, -ENOMEM, "vCPU %u: out of memory", index);
	f->head = (struct vcpu_head){&fake_engine, index};
	f->vm = vm;
	f->mtimecmp = UINT64_MAX;
	vm->v[vm->n++] = f;
	*out = (struct vcpu *)f;
	return 0;
}

static void vcpu_reset(struct vcpu *v, const struct cpu_boot *boot)
{
	struct fake_vcpu *f = of(v);

	f->next = 0;
	f->open = false;
	f->kicked = false;
	f->lines = f->msi = 0;
	f->regs[32] = boot->pc;
}

static void vcpu_run(struct vcpu *v, uint64_t budget_ns, struct cpu_exit *x)
{
	struct fake_vcpu *f = of(v);

	if (f->open) {
		const struct fake_step *s = &f->steps[f->next - 1];

		f->open = false;
		if (s->check)
			s->check(s->ctx, x);
	}
	*x = (struct cpu_exit){.reason = CPU_EXIT_BUDGET, .pc = f->regs[32]};
	if (budget_ns && !atomic_exchange(&f->kicked, false)) {
		if (f->next < f->n) {
			*x = f->steps[f->next++].exit;
			f->open = true;
		} else {
			x->reason = CPU_EXIT_STOPPED;
		}
	}
	f->stats.exits[x->reason]++;
}

static void vcpu_kick(struct vcpu *v)
{
	of(v)->kicked = true;
}

static void wake(struct fake_vcpu *f)
{
	f->kicked = true;
	if (f->vm->o.wake)
		f->vm->o.wake(f->vm->o.wake_ctx, f->head.index);
}

static void vcpu_irq(struct vcpu *v, enum cpu_irq line, bool level)
{
	if (level)
		atomic_fetch_or(&of(v)->lines, 1u << line);
	else
		atomic_fetch_and(&of(v)->lines, ~(1u << line));
	wake(of(v));
}

static void vcpu_msi(struct vcpu *v, enum cpu_msi_file file, uint32_t id)
{
	of(v)->msi = id;
	wake(of(v));
}

static void vcpu_mtimecmp(struct vcpu *v, uint64_t when)
{
	of(v)->mtimecmp = when;
	wake(of(v));
}

static uint64_t vcpu_mtimecmp_get(struct vcpu *v)
{
	return of(v)->mtimecmp;
}

/* Time stands still but for what time_set() says: tests repeat. */
static uint64_t time_get(struct cpu_vm *vm)
{
	return vm->time;
}

static void time_set(struct cpu_vm *vm, uint64_t t)
{
	vm->time = t;
}

static void time_nothing(struct cpu_vm *vm)
{
}

static const struct state_field fields[] = {
	STATE_U32(struct fake_vcpu, next, 1),
	STATE_U64S(struct fake_vcpu, regs, 1),
	STATE_END,
};
static const struct state_desc state_of_vcpu = {
	.type = "fake-vcpu", .version = 1, .fields = fields};
static const struct state_field vm_fields[] = {STATE_U64(struct cpu_vm, time, 1), STATE_END};
static const struct state_desc state_of_vm = {.type = "fake-vm", .version = 1, .fields = vm_fields};

static const struct state_desc *vcpu_state(void)
{
	return &state_of_vcpu;
}

static const struct state_desc *vm_state(void)
{
	return &state_of_vm;
}

static void *vcpu_state_obj(struct vcpu *v)
{
	return v;
}

static void *vm_state_obj(struct cpu_vm *vm)
{
	return vm;
}

static void vcpu_stats(struct vcpu *v, struct cpu_stats *st)
{
	*st = of(v)->stats;
}

static int vcpu_translate(struct vcpu *v, uint64_t gva, enum mem_access acc, gpa_t *out)
{
	*out = gpa(gva);
	return 0;
}

static int vcpu_reg_get(struct vcpu *v, unsigned n, uint64_t *val)
{
	if (n > 32)
		return -ENOENT;
	*val = of(v)->regs[n];
	return 0;
}

static int vcpu_reg_set(struct vcpu *v, unsigned n, uint64_t val)
{
	if (n > 32)
		return -ENOENT;
	of(v)->regs[n] = val;
	return 0;
}

static const char *isa_string(struct cpu_vm *vm)
{
	return "rv64imac";
}

static const char *mmu_type(struct cpu_vm *vm)
{
	return "riscv,none";
}

static unsigned msi_ids(struct cpu_vm *vm)
{
	return 255;
}

void fake_script(struct vcpu *v, const struct fake_step *steps, unsigned n)
{
	of(v)->steps = steps;
	of(v)->n = n;
	of(v)->next = 0;
	of(v)->open = false;
}

unsigned fake_steps_done(const struct vcpu *v)
{
	return of(v)->next - of(v)->open;
}

uint32_t fake_lines(const struct vcpu *v)
{
	return of(v)->lines;
}

uint32_t fake_last_msi(const struct vcpu *v)
{
	return of(v)->msi;
}

const struct cpu_engine_ops fake_engine = {
	.name = "fake",
	.isa = "riscv64",
	.available = available,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_reset = vcpu_reset,
	.vcpu_run = vcpu_run,
	.vcpu_kick = vcpu_kick,
	.vcpu_irq = vcpu_irq,
	.vcpu_msi = vcpu_msi,
	.vcpu_mtimecmp = vcpu_mtimecmp,
	.vcpu_mtimecmp_get = vcpu_mtimecmp_get,
	.time_get = time_get,
	.time_set = time_set,
	.time_stop = time_nothing,
	.time_start = time_nothing,
	.vcpu_state = vcpu_state,
	.vm_state = vm_state,
	.vcpu_state_obj = vcpu_state_obj,
	.vm_state_obj = vm_state_obj,
	.vcpu_stats = vcpu_stats,
	.vcpu_translate = vcpu_translate,
	.vcpu_reg_get = vcpu_reg_get,
	.vcpu_reg_set = vcpu_reg_set,
	.isa_string = isa_string,
	.mmu_type = mmu_type,
	.msi_ids = msi_ids,
};
