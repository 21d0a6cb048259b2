#include "cpu/kvm/dirty.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "cpu/kvm/priv.h"
#include "memory/uffd.h"

#define RING_PAGES 4096u
#define RING_LEAST 1024u /* the kernel keeps 64 back, and 512 where the processor logs by itself */

enum way { WAY_OFF, WAY_LOG, WAY_HOOK };

struct kvm_dirty {
	enum way way;
	bool ring, protect2, serving;
	unsigned ring_pages;
	size_t ring_bytes;
	struct uffd *uffd; /* NULL: this host has none, or none for us */
	bool missing; /* it can bring pages that are not there */
	pthread_mutex_t aside_lock; /* the innermost: where a page is brought from */
	char why_not[160];
	pthread_mutex_t hook_lock;
	struct kvm_slot *armed; /* what is registered, by address */
	unsigned narmed;
};

bool kvm_dirty_on(const struct kvm_vm *vm)
{
	return vm->dirty->way == WAY_LOG;
}

static bool logs(const struct kvm_slot *s)
{
	return s->id != UINT32_MAX && s->perm & VIEW_W;
}

/* ---- bitmap ---- */

static void tell_bits(struct kvm_vm *vm, const struct kvm_slot *s, const uint64_t *bits)
{
	for (uint64_t w = 0; w < (s->len / PAGE_SIZE + 63) / 64; w++)
		for (uint64_t b = bits[w]; b; b &= b - 1)
			space_wrote(vm->o.space, vm->view,
				gpa(s->gpa + (w * 64 + (unsigned)__builtin_ctzll(b)) * PAGE_SIZE));
}

static int take_bitmap(struct kvm_vm *vm, const struct kvm_slot *s)
{
	uint64_t pages = s->len / PAGE_SIZE;
	cleanup(free_ptr) uint64_t *bits = calloc((pages + 63) / 64, sizeof(*bits));
	struct kvm_dirty_log get = {.slot = s->id, .dirty_bitmap = bits};
	struct kvm_clear_dirty_log clear = {
		.slot = s->id, .num_pages = (uint32_t)pages, .dirty_bitmap = bits};
	int rc;

	if (!bits)
		return -ENOMEM;
	rc = kvm_vm_ioctl(vm, KVM_GET_DIRTY_LOG, KVM_PTR(&get));
	if (rc >= 0 && vm->dirty->protect2)
		rc = kvm_vm_ioctl(vm, KVM_CLEAR_DIRTY_LOG, KVM_PTR(&clear));
	if (rc >= 0)
		tell_bits(vm, s, bits);
	return rc;
}

/* ---- ring ---- */

static const struct kvm_slot *slot_by_id(const struct kvm_vm *vm, uint32_t id)
{
	for (unsigned i = 0; i < vm->nslots; i++)
		if (vm->slots[i].id == id)
			return &vm->slots[i];
	return NULL;
}

/* An entry passes from kernel to us by F_DIRTY and back by F_RESET (KVM API documentation, "KVM_CAP_DIRTY_LOG_RING"). */
static unsigned take_ring(struct kvm_vm *vm, struct kvm_vcpu *c)
{
	unsigned n = 0;

	for (;; n++) {
		struct kvm_dirty_gfn *g = &c->ring[c->ring_next % vm->dirty->ring_pages];
		const struct kvm_slot *s;

		if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			return n;
		s = slot_by_id(vm, g->slot & 0xffff);
		if (s && g->offset < s->len / PAGE_SIZE)
			space_wrote(vm->o.space, vm->view, gpa(s->gpa + g->offset * PAGE_SIZE));
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		c->ring_next++;
	}
}

static int take_rings(struct kvm_vm *vm)
{
	unsigned n = 0;

	for (unsigned i = 0; i < vm->nvcpus; i++)
		n += take_ring(vm, vm->vcpus[i]);
	return n ? kvm_vm_ioctl(vm, KVM_RESET_DIRTY_RINGS, 0) : 0;
}

void kvm_dirty_ring_full(struct kvm_vcpu *c)
{
	struct kvm_vm *vm = c->vm;
	int rc;

	pthread_mutex_lock(&vm->lock);
	rc = take_rings(vm);
	pthread_mutex_unlock(&vm->lock);
	if (rc < 0)
		kvm_break(vm, "write tracking: %s", strerrordesc_np(-rc));
}

/* ---- hook ---- */

/*
 * Memory over a file (a machine that was restored) cannot be protected: it is set aside (frames.h), and each page is brought, protected,
 * when somebody touches it, or when the sweep of a snapshot comes to it. The latter does it by itself, because the fault thread may be
 * waiting for it.
 */
static void bring(struct kvm_vm *vm, uintptr_t host, size_t len)
{
	struct frames *f = space_frames(vm->o.space);
	uint64_t first = (host - (uintptr_t)frames_base(f)) / PAGE_SIZE, n;

	pthread_mutex_lock(&vm->dirty->aside_lock);
	for (uint64_t left = len / PAGE_SIZE; left; left -= n, first += n) {
		const void *from;
		void *to;

		n = left;
		from = frames_aside(f, mfn(first), &n);
		to = frames_ptr(f, mfn(first));
		/* It fails where arm() failed, with the gate closed: nothing waits there, and nothing was written yet. */
		if (from && uffd_fill_missing(vm->dirty->uffd, to, from, n * PAGE_SIZE, true))
			memcpy(to, from, n * PAGE_SIZE);
	}
	pthread_mutex_unlock(&vm->dirty->aside_lock);
}

static void fetch(struct space_listener *l, const void *host)
{
	struct kvm_vm *vm = container_of(l, struct kvm_vm, listener);

	if (vm->dirty->way == WAY_HOOK)
		bring(vm, (uintptr_t)host, PAGE_SIZE);
}

/*
 * In the fault thread: somebody is about to write a protected page. A frame that is mapped at several addresses is announced under each: the
 * fault does not say which was used. The lock makes "announce, unprotect" one step against "re-arm, protect".
 */
static void on_fault(void *ctx, const struct uffd_fault *f)
{
	struct kvm_vm *vm = ctx;
	struct kvm_dirty *d = vm->dirty;

	if (f->kind == UFFD_MISSING) {
		bring(vm, f->page, PAGE_SIZE); /* who wants to write comes again */
		return;
	}
	pthread_mutex_lock(&d->hook_lock);
	for (unsigned i = 0; i < d->narmed; i++) {
		const struct kvm_slot *s = &d->armed[i];
		uint64_t off = f->page - (uintptr_t)s->host;

		if (f->page >= (uintptr_t)s->host && off < s->len)
			space_wrote(vm->o.space, vm->view, gpa(s->gpa + off));
	}
	uffd_protect(d->uffd, (void *)f->page, PAGE_SIZE, false);
	pthread_mutex_unlock(&d->hook_lock);
}

static mfn_t frame_of(struct kvm_vm *vm, const struct kvm_slot *s)
{
	uintptr_t base = (uintptr_t)frames_base(space_frames(vm->o.space));

	return mfn(((uintptr_t)s->host - base) / PAGE_SIZE);
}

static void disarm(struct kvm_vm *vm)
{
	struct kvm_dirty *d = vm->dirty;

	/* Before the lock: it can take long, and the guest's writes are served meanwhile. */
	for (unsigned i = 0; i < d->narmed; i++)
		bring(vm, (uintptr_t)d->armed[i].host, d->armed[i].len);
	pthread_mutex_lock(&d->hook_lock);
	pthread_mutex_lock(&d->aside_lock);
	for (unsigned i = 0; i < d->narmed; i++) {
		uffd_unregister(d->uffd, d->armed[i].host, d->armed[i].len);
		frames_aside_end(space_frames(vm->o.space), frame_of(vm, &d->armed[i]),
			d->armed[i].len / PAGE_SIZE);
	}
	pthread_mutex_unlock(&d->aside_lock);
	free(d->armed);
	d->armed = NULL;
	d->narmed = 0;
	pthread_mutex_unlock(&d->hook_lock);
}

/* What is aside is missing, and comes protected. */
static int arm_slot(struct kvm_vm *vm, const struct kvm_slot *s, struct err *e)
{
	struct frames *f = space_frames(vm->o.space);
	struct kvm_dirty *d = vm->dirty;
	uint64_t pages = s->len / PAGE_SIZE, n;
	mfn_t m = frame_of(vm, s);
	int rc = d->missing ? frames_set_aside(f, m, pages, e) : 0;

	for (uint64_t i = 0; !rc && i < pages; i += n) {
		char *at = (char *)s->host + i * PAGE_SIZE;
		bool aside;

		n = pages - i;
		aside = frames_aside(f, mfn(m.n + i), &n) != NULL;
		rc = uffd_register(
			d->uffd, at, n * PAGE_SIZE, aside ? UFFD_WP | UFFD_MISSING : UFFD_WP, e);
		if (!rc && !aside && uffd_protect(d->uffd, at, n * PAGE_SIZE, true))
			rc = err_set(e, -EIO, "write tracking: memory cannot be protected");
	}
	return rc;
}

/* With the gate closed: nobody is in memory that is set aside. */
static int arm(struct kvm_vm *vm, struct err *e)
{
	struct kvm_dirty *d = vm->dirty;
	int rc = 0;

	pthread_mutex_lock(&d->hook_lock);
	d->armed = calloc(vm->nslots + 1, sizeof(*d->armed));
	if (!d->armed)
		rc = err_set(e, -ENOMEM, "write tracking: out of memory");
	for (unsigned i = 0; !rc && i < vm->nslots; i++) {
		if (!(vm->slots[i].perm & VIEW_W))
			continue;
		d->armed[d->narmed++] = vm->slots[i];
		rc = arm_slot(vm, &vm->slots[i], e);
	}
	pthread_mutex_unlock(&d->hook_lock);
	if (rc)
		disarm(vm);
	return rc;
}

void kvm_dirty_rearm(struct kvm_vm *vm, uint64_t addr, uint64_t len)
{
	struct kvm_dirty *d = vm->dirty;

	if (d->way != WAY_HOOK)
		return;
	pthread_mutex_lock(&d->hook_lock);
	for (unsigned i = 0; i < d->narmed; i++) {
		const struct kvm_slot *s = &d->armed[i];
		uint64_t from = MAX(addr, s->gpa), to = MIN(addr + len, s->gpa + s->len);

		if (from < to &&
			uffd_protect(d->uffd, (char *)s->host + (from - s->gpa), to - from, true))
			log_error(vm->o.log, "kvm", "write tracking: memory cannot be protected");
	}
	pthread_mutex_unlock(&d->hook_lock);
}

/* ---- the listener's side ---- */

static void take(struct kvm_vm *vm)
{
	struct kvm_dirty *d = vm->dirty;
	int rc = 0;

	if (d->way != WAY_LOG)
		return;
	if (d->ring) {
		/* What a processor logs for itself reaches the rings when it leaves the guest. */
		kvm_gate_close(vm);
		rc = take_rings(vm);
		kvm_gate_reopen(vm);
	} else {
		for (unsigned i = 0; rc >= 0 && i < vm->nslots; i++)
			if (logs(&vm->slots[i]))
				rc = take_bitmap(vm, &vm->slots[i]);
	}
	if (rc < 0)
		kvm_break(vm, "write tracking: %s", strerrordesc_np(-rc));
}

static void harvest(struct space_listener *l)
{
	struct kvm_vm *vm = container_of(l, struct kvm_vm, listener);

	pthread_mutex_lock(&vm->lock);
	take(vm);
	pthread_mutex_unlock(&vm->lock);
}

static int log_slots(struct kvm_vm *vm, bool on, struct err *e)
{
	int rc = 0;

	vm->dirty->way = on ? WAY_LOG : WAY_OFF;
	for (unsigned i = 0; rc >= 0 && i < vm->nslots; i++)
		if (logs(&vm->slots[i]))
			rc = kvm_slot_set(vm, &vm->slots[i], true);
	return rc < 0 ? kvm_fail(e, rc, KVM_SET_USER_MEMORY_REGION, "write tracking") : 0;
}

/* The next way is on before the last one goes, so that nothing is lost in between. */
static int change(struct kvm_vm *vm, enum way to, struct err *e)
{
	struct kvm_dirty *d = vm->dirty;
	enum way was = d->way;
	int rc = 0;

	if (was == to)
		return 0;
	if (to == WAY_HOOK && !d->uffd)
		return err_set(e, -ENOTSUP,
			"write tracking: a copy before the write needs userfaultfd here: %s",
			d->why_not);
	if (to == WAY_HOOK && !d->serving) {
		rc = uffd_serve(d->uffd, on_fault, vm, e);
		d->serving = !rc;
	}
	if (!rc && to == WAY_HOOK) {
		kvm_gate_close(vm);
		rc = arm(vm, e);
		kvm_gate_reopen(vm);
	}
	if (rc)
		return rc;
	if (was == WAY_LOG)
		take(vm);
	if (was == WAY_LOG || to == WAY_LOG)
		rc = log_slots(vm, to == WAY_LOG, e);
	if (was == WAY_HOOK)
		disarm(vm);
	d->way = rc ? WAY_OFF : to;
	return rc;
}

static int track(struct space_listener *l, bool on, bool before, struct err *e)
{
	struct kvm_vm *vm = container_of(l, struct kvm_vm, listener);
	int rc;

	pthread_mutex_lock(&vm->lock);
	rc = change(vm, before ? WAY_HOOK : on ? WAY_LOG : WAY_OFF, e);
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

void kvm_dirty_slot_goes(struct kvm_vm *vm, const struct kvm_slot *s)
{
	int rc = 0;

	if (vm->dirty->way != WAY_LOG || !logs(s))
		return;
	rc = vm->dirty->ring ? take_rings(vm) : take_bitmap(vm, s);
	if (rc < 0)
		kvm_break(vm, "write tracking: %s", strerrordesc_np(-rc));
}

/* Pages that have been written since they were armed are armed again: told twice is allowed, never told is not. */
void kvm_dirty_slots_changed(struct kvm_vm *vm)
{
	struct err e = {0};

	if (vm->dirty->way != WAY_HOOK)
		return;
	disarm(vm);
	if (arm(vm, &e))
		kvm_break(vm, "%s", err_msg(&e));
}

/* ---- life ---- */

int kvm_dirty_init(struct kvm_vm *vm, struct err *e)
{
	struct kvm_dirty *d = calloc(1, sizeof(*d));
	struct err why = {0};
	int rc;

	if (!d)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	pthread_mutex_init(&d->hook_lock, NULL);
	pthread_mutex_init(&d->aside_lock, NULL);
	vm->dirty = d;
	if (vm->o.dirty == CPU_DIRTY_RING) {
		if (!kvm_has(&vm->caps, KC_DIRTY_RING))
			return err_set(
				e, -ENOTSUP, "engine kvm: this host's KVM has no dirty rings");
		d->ring_pages = vm->o.ring_pages ?: RING_PAGES;
		d->ring_bytes = d->ring_pages * sizeof(struct kvm_dirty_gfn);
		if (!is_pow2(d->ring_pages) || d->ring_pages < RING_LEAST ||
			d->ring_bytes > (size_t)vm->caps.v[KC_DIRTY_RING])
			return err_set(e, -EINVAL,
				"engine kvm: a dirty ring of %u pages: %u to %zu, a power of two",
				d->ring_pages, RING_LEAST,
				(size_t)vm->caps.v[KC_DIRTY_RING] / sizeof(struct kvm_dirty_gfn));
		rc = kvm_enable_cap(vm, KVM_CAP_DIRTY_LOG_RING, d->ring_bytes);
		if (rc < 0)
			return kvm_fail(e, rc, KVM_ENABLE_CAP, "dirty rings");
		d->ring = true;
	} else if (kvm_has(&vm->caps, KC_DIRTY_PROTECT2)) {
		d->protect2 = kvm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) >= 0;
	}
	/* Now, because the sandbox opens nothing later; the thread starts with the first hook. */
	d->missing = uffd_modes() & UFFD_MISSING;
	if (uffd_open(&d->uffd, UFFD_WP | (d->missing ? UFFD_MISSING : 0), &why)) {
		d->uffd = NULL;
		snprintf(d->why_not, sizeof(d->why_not), "%s", err_msg(&why));
	}
	vm->listener.track = track;
	vm->listener.harvest = harvest;
	vm->listener.fetch = fetch;
	return 0;
}

int kvm_dirty_vcpu(struct kvm_vcpu *c, struct err *e)
{
	const struct kvm_sys *s = &c->vm->sys;
	void *p;
	int rc;

	if (!c->vm->dirty->ring)
		return 0;
	rc = s->map(
		s->ctx, c->fd, c->vm->dirty->ring_bytes, KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE, &p);
	if (rc < 0)
		return err_sys(e, rc, "engine kvm: dirty ring");
	c->ring = p;
	return 0;
}

void kvm_dirty_vcpu_free(struct kvm_vcpu *c)
{
	if (c->ring)
		c->vm->sys.unmap(c->vm->sys.ctx, c->ring, c->vm->dirty->ring_bytes);
}

void kvm_dirty_free(struct kvm_vm *vm)
{
	struct kvm_dirty *d = vm->dirty;

	if (!d)
		return;
	if (d->narmed)
		disarm(vm);
	uffd_close(d->uffd);
	pthread_mutex_destroy(&d->hook_lock);
	pthread_mutex_destroy(&d->aside_lock);
	free(d);
}
