/*
 * priv.h: what the files of the kvm engine share.
 *
 *   engine.c  life, ops table      run.c    KVM_RUN, exits, kicks       slots.c  second-level maps as memory slots
 *   irq.c     GSIs, messages, fds  ioapic.c the split irqchip's IOAPIC  model.c  CPUID
 *   image.c   state in and out     state.c  its tables                  boot.c   reset and boot states
 *
 * Threads. `lock` serialises what changes the VM's shape (slots, routes, doorbells) and is never held while a vCPU runs. A vCPU
 * enters the kernel only while the gate is open (kvm_gate_*): who changes slots closes it, and then none is inside.
 * Lock order: lock, then gate_lock.
 */
#ifndef LODGE_CPU_KVM_PRIV_H
#define LODGE_CPU_KVM_PRIV_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/util.h"
#include "cpu/cpu.h"
#include "cpu/kvm/caps.h"
#include "cpu/kvm/engine.h"
#include "cpu/kvm/host.h"
#include "cpu/kvm/image.h"

#define KVM_PINS 24 /* of the IOAPIC */
#define KVM_ROUTES 1024 /* the kernel's KVM_MAX_IRQ_ROUTES is 4096 */
#define KVM_TEXT 256

/* KVM_PRE_FAULT_MEMORY and its argument (KVM API documentation, 4.143), newer than the oldest header. */
struct kvm_prefill_arg {
	uint64_t gpa, size, flags, padding[5];
};
#define KVM_PREFILL _IOWR(KVMIO, 0xd5, struct kvm_prefill_arg)

struct kvm_vm;
struct kvm_ioapic;
struct kvm_route;
struct kvm_dirty;

struct kvm_route {
	bool there;
	uint64_t addr;
	uint32_t data;
};

struct kvm_slot {
	uint64_t gpa, len;
	void *host;
	unsigned perm; /* VIEW_* */
	uint32_t id;
};

/* A guest access that came out in one KVM exit and goes to the handlers in pieces of 1, 2, 4 or 8 bytes. */
struct kvm_access {
	bool open; /* a piece waits for its answer */
	bool in_kernel; /* the kernel has yet to finish the instruction */
	bool fault; /* memory that the view did not let the guest use so: to be made when it does */
	bool pio, write;
	uint8_t size; /* of the piece */
	uint64_t addr; /* of the piece */
	uint8_t *data; /* where the piece is, in the shared page */
	uint32_t left; /* bytes that are left, with this piece */
	uint32_t step; /* PIO: width of the port; MMIO: 0 */
};

struct kvm_vcpu {
	struct vcpu_head head;
	struct kvm_vm *vm;
	int fd;
	struct kvm_run *run;
	_Atomic bool kicked;
	_Atomic bool inside; /* in KVM_RUN, or about to be */
	_Atomic(pthread_t) thread; /* that runs it, while it is inside */
	timer_t timer;
	bool has_timer;
	pid_t timer_tid;
	struct kvm_access acc;
	struct kvm_dirty_gfn *ring;
	uint32_t ring_next;
	struct kvm_image image, pristine;
	struct cpu_stats stats; /* of the thread that runs it */
	char text[KVM_TEXT];
};

enum kvm_pin { KVM_PIN_UNKNOWN, KVM_PIN_LOW, KVM_PIN_HIGH };

struct kvm_vm {
	struct cpu_vm_opts o;
	struct kvm_sys sys;
	struct kvm_caps caps;
	int dev, fd;
	size_t run_size, xsave_size;
	struct kvm_vcpu *vcpus[CPU_MAX_VCPUS];
	unsigned nvcpus;
	unsigned apic_core_shift, apic_pkg_shift;
	char model[64];
	struct kvm_leaves *cpuid; /* of vCPU 0; what differs is put in by kvm_cpuid_for() */
	struct kvm_i_msr *msrs; /* indices that can be read */
	uint32_t nmsrs;
	bool split, has_pit;
	bool counters; /* the CPU model has performance counters */

	pthread_mutex_t lock;
	struct kvm_slot *slots; /* by address */
	unsigned nslots, max_slots, view;
	struct space_listener listener;
	struct kvm_dirty *dirty;

	struct kvm_route *routes; /* the first KVM_PINS rows are the pins' */
	bool routes_changed; /* by the IOAPIC, and the kernel has not heard yet */
	uint32_t route_used[KVM_ROUTES / 32];
	int irqfd[KVM_ROUTES]; /* eventfd of the route; -1 */
	struct kvm_ioapic *ioapic;
	/* What the kernel was last told of each pin; devices tell us more often than it changes. */
	_Atomic uint8_t pin[KVM_PINS]; /* enum kvm_pin */

	pthread_mutex_t gate_lock;
	pthread_cond_t gate_open, gate_empty;
	_Atomic bool gate_closed;

	_Atomic bool broken; /* `text` says why; every run() then ends in CPU_EXIT_ERROR */
	char text[KVM_TEXT];

	struct kvm_chips chips, pristine;
	uint64_t stopped_clock;
	bool time_stopped;
};

static inline struct kvm_vcpu *kvm_vcpu_of(struct vcpu *v)
{
	return (struct kvm_vcpu *)v;
}

static inline struct kvm_vm *kvm_vm_of(struct cpu_vm *vm)
{
	return (struct kvm_vm *)vm;
}

/* The three descriptors' requests. 0 or more, or -errno; EINTR comes back only from KVM_RUN. */
int kvm_vm_ioctl(struct kvm_vm *vm, unsigned long nr, uintptr_t arg);
int kvm_vcpu_ioctl(const struct kvm_vcpu *c, unsigned long nr, uintptr_t arg);
#define KVM_PTR(p) ((uintptr_t)(p))
/* "engine kvm: KVM_X: text" */
int kvm_fail(struct err *e, int rc, unsigned long nr, const char *what);
/* No call can report it: the VM stops with this text at its next run(). Logged. ANY thread. */
void kvm_break(struct kvm_vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int kvm_enable_cap(struct kvm_vm *vm, unsigned cap, uint64_t a0);

/* run.c */
int kvm_signal_setup(struct err *e);
void kvm_run_vcpu(struct vcpu *v, uint64_t budget_ns, struct cpu_exit *x);
void kvm_kick(struct vcpu *v);
void kvm_timer_drop(struct kvm_vcpu *c);
/* Between the two no vCPU is inside the kernel. Not from a vCPU that is inside; nests not. */
void kvm_gate_close(struct kvm_vm *vm);
void kvm_gate_reopen(struct kvm_vm *vm);

/* irq.c: the controllers have been given another state: pins are told anew. */
void kvm_pins_forget(struct kvm_vm *vm);

/* slots.c: with `lock` held where not said otherwise. */
int kvm_slots_init(struct kvm_vm *vm, struct err *e); /* takes the lock */
void kvm_slots_free(struct kvm_vm *vm);
/* Makes slots equal to the current view. */
int kvm_slots_sync(struct kvm_vm *vm, struct err *e);
int kvm_prefill(struct vcpu *v, gpa_t a, uint64_t len, struct err *e); /* takes the lock */
int kvm_slot_set(struct kvm_vm *vm, const struct kvm_slot *s, bool there);
/* These two take the lock. Does the current view have memory there, whatever its permissions? */
bool kvm_slots_mapped(struct kvm_vm *vm, uint64_t addr);
/* Where [addr, addr+len) is, if the view permits the access; NULL. */
void *kvm_slots_ptr(struct kvm_vm *vm, uint64_t addr, uint64_t len, enum mem_access acc);
int kvm_view(struct cpu_vm *v, unsigned tag, struct err *e);

/* irq.c */
int kvm_irq_init(struct kvm_vm *vm, struct err *e);
void kvm_irq_free(struct kvm_vm *vm);
void kvm_irq(struct cpu_vm *v, unsigned gsi, bool level);
void kvm_msi(struct cpu_vm *v, uint64_t addr, uint32_t data);
void kvm_nmi(struct vcpu *v);
int kvm_doorbell_add(struct cpu_vm *v, const struct cpu_doorbell *d, struct err *e);
void kvm_doorbell_remove(struct cpu_vm *v, const struct cpu_doorbell *d);
int kvm_irqfd_add(struct cpu_vm *v, const struct cpu_irqfd *f, struct err *e);
int kvm_irqfd_change(struct cpu_vm *v, int id, uint64_t addr, uint32_t data, struct err *e);
void kvm_irqfd_remove(struct cpu_vm *v, int id);

/* model.c */
int kvm_model_init(struct kvm_vm *vm, struct err *e);
int kvm_cpuid_for(struct kvm_vm *vm, unsigned index, struct kvm_leaves *out);
void kvm_leaves_save(struct kvm_vm *vm, struct kvm_i_leaf *out, uint32_t *n);
int kvm_leaves_check(struct kvm_vm *vm, const struct kvm_i_leaf *l, uint32_t n, const char *model,
	struct err *e);
unsigned kvm_apic_id(struct cpu_vm *v, unsigned index);

/* image.c */
int kvm_msrs_find(struct kvm_vm *vm, struct kvm_vcpu *c, struct err *e);
int kvm_image_get(struct kvm_vcpu *c, struct kvm_image *im, struct err *e);
int kvm_image_put(struct kvm_vcpu *c, const struct kvm_image *im, struct err *e);
/* Where the kernel has a TSC offset (since 5.16); else the TSC has stood still in a move. */
void kvm_tsc_move(struct kvm_vcpu *c, int64_t ns);
int kvm_image_copy(struct kvm_image *to, const struct kvm_image *from);
void kvm_image_free(struct kvm_image *im);

/* chips.c */
int kvm_chips_get(struct kvm_vm *vm, struct kvm_chips *ch, struct err *e);
int kvm_chips_put(struct kvm_vm *vm, const struct kvm_chips *ch, struct err *e);

int kvm_chips_reset(struct kvm_vm *vm, struct err *e);
uint64_t kvm_clock(struct kvm_vm *vm); /* ns */
void kvm_clock_set(struct kvm_vm *vm, uint64_t ns);
uint64_t kvm_time_get(struct cpu_vm *v);
void kvm_time_set(struct cpu_vm *v, uint64_t t);
void kvm_time_stop(struct cpu_vm *v);
void kvm_time_start(struct cpu_vm *v);

/* state.c */
extern const struct state_desc kvm_image_state, kvm_vm_state;

/* msr.c; counters: the CPU model has performance counters */
int kvm_msr_filter(struct kvm_vm *vm, bool counters, struct err *e);
/* What firmware of a real machine leaves in MSRs and kernels look for. Before the vCPU's first image is taken. */
void kvm_msr_firmware(struct kvm_vcpu *c, struct kvm_leaves *cpuid);

/* debug.c */
int kvm_translate(struct vcpu *v, uint64_t gva, enum mem_access acc, gpa_t *out);
int kvm_reg_get(struct vcpu *v, unsigned n, uint64_t *val);
int kvm_reg_set(struct vcpu *v, unsigned n, uint64_t val);
int kvm_debug(struct vcpu *v, const struct cpu_debug *d, struct err *e);

/* boot.c */
void kvm_reset(struct vcpu *v, const struct cpu_boot *boot);

#endif
