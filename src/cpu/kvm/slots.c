/*
 * slots.c: a view (memory/view.h) as KVM memory slots.
 *
 * A slot is a run of leaves that lie side by side in the guest, in the host, and have the same permissions; a VM with untouched
 * RAM has one for each range. A view that maps single pages elsewhere costs a slot for each and two for the rest on its sides; a
 * switch of views costs two ioctls for each slot in which they differ (measured in docs/kvm-engine.md). What slots cannot say:
 * execute without read, and read without execute; both are read and execute.
 *
 * KVM cannot change the place or size of a slot that guests use, only remove and add it, and in between a guest would find a hole.
 * So vCPUs are outside while slots change (the gate).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/err.h"
#include "base/log.h"
#include "cpu/kvm/dirty.h"
#include "cpu/kvm/priv.h"

struct runs {
	struct kvm_vm *vm;
	struct kvm_slot *v;
	unsigned n, room;
	int rc;
};

static int add_leaf(void *ctx, gpa_t a, uint64_t len, const struct view_leaf *l)
{
	struct runs *r = ctx;
	char *host = frames_ptr(space_frames(r->vm->o.space), l->mfn);
	unsigned perm = l->perm & (VIEW_R | VIEW_W);
	struct kvm_slot *last = r->n ? &r->v[r->n - 1] : NULL;

	/* A page without permissions is kept, too: it is memory, and an access is a view fault. */
	if (!(perm & VIEW_R))
		perm = 0;
	if (last && last->gpa + last->len == a.v && (char *)last->host + last->len == host &&
		last->perm == perm) {
		last->len += len;
		return 0;
	}
	if (r->n == r->room) {
		unsigned room = r->room ? 2 * r->room : 16;
		struct kvm_slot *more = realloc(r->v, room * sizeof(*more));

		if (!more) {
			r->rc = -ENOMEM;
			return 1;
		}
		r->v = more;
		r->room = room;
	}
	r->v[r->n++] = (struct kvm_slot){a.v, len, host, perm, UINT32_MAX};
	return 0;
}

static bool in_kernel(const struct kvm_vm *vm, const struct kvm_slot *s)
{
	return s->perm & VIEW_W || (s->perm & VIEW_R && kvm_has(&vm->caps, KC_READONLY_MEM));
}

int kvm_slot_set(struct kvm_vm *vm, const struct kvm_slot *s, bool there)
{
	struct kvm_userspace_memory_region r = {
		.slot = s->id,
		.guest_phys_addr = s->gpa,
		.memory_size = there ? s->len : 0,
		.userspace_addr = (uintptr_t)s->host,
	};

	if (!in_kernel(vm, s))
		return 0;
	if (!(s->perm & VIEW_W))
		r.flags |= KVM_MEM_READONLY;
	else if (there && kvm_dirty_on(vm))
		r.flags |= KVM_MEM_LOG_DIRTY_PAGES;
	return kvm_vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, KVM_PTR(&r));
}

static bool same(const struct kvm_slot *a, const struct kvm_slot *b)
{
	return a->gpa == b->gpa && a->len == b->len && a->host == b->host && a->perm == b->perm;
}

/* Both are by address. Takes over the numbers of slots that stay; `gone` are removed. */
static int remove_old(struct kvm_vm *vm, struct runs *now)
{
	for (unsigned i = 0, k = 0; i < vm->nslots; i++) {
		const struct kvm_slot *s = &vm->slots[i];
		int rc;

		while (k < now->n && now->v[k].gpa < s->gpa)
			k++;
		if (k < now->n && same(&now->v[k], s)) {
			now->v[k].id = s->id;
			continue;
		}
		if (s->id == UINT32_MAX)
			continue;
		kvm_dirty_slot_goes(vm, s);
		rc = kvm_slot_set(vm, s, false);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int cmp_id(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static int add_new(struct kvm_vm *vm, struct runs *now)
{
	cleanup(free_ptr) uint32_t *used = calloc(now->n + 1, sizeof(*used));
	unsigned n = 0, k = 0;
	uint32_t id = 0;

	if (!used)
		return -ENOMEM;
	for (unsigned i = 0; i < now->n; i++)
		if (now->v[i].id != UINT32_MAX)
			used[n++] = now->v[i].id;
	qsort(used, n, sizeof(*used), cmp_id);
	for (unsigned i = 0; i < now->n; i++) {
		struct kvm_slot *s = &now->v[i];
		int rc;

		if (s->id != UINT32_MAX || !in_kernel(vm, s))
			continue;
		for (; k < n && used[k] == id; k++)
			id++;
		if (id >= vm->max_slots)
			return -ENOSPC;
		s->id = id++;
		rc = kvm_slot_set(vm, s, true);
		if (rc < 0) {
			s->id = UINT32_MAX;
			return rc;
		}
	}
	return 0;
}

int kvm_slots_sync(struct kvm_vm *vm, struct err *e)
{
	struct runs now = {.vm = vm};
	struct view *view = space_view(vm->o.space, vm->view);
	unsigned hold = space_hold(vm->o.space);
	bool change;
	int rc;

	view_walk(view, add_leaf, &now);
	space_release(vm->o.space, hold);
	if (now.rc) {
		free(now.v);
		return err_set(e, now.rc, "engine kvm: no memory for the table of slots");
	}
	change = now.n != vm->nslots;
	for (unsigned i = 0; !change && i < now.n; i++)
		change = !same(&now.v[i], &vm->slots[i]);
	if (!change) {
		free(now.v);
		return 0;
	}
	kvm_gate_close(vm);
	rc = remove_old(vm, &now);
	if (!rc)
		rc = add_new(vm, &now);
	/* The table says what the kernel has even when it went wrong half way: what was not added has no number. */
	free(vm->slots);
	vm->slots = now.v;
	vm->nslots = now.n;
	kvm_dirty_slots_changed(vm);
	kvm_gate_reopen(vm);
	if (rc == -ENOSPC)
		return err_set(e, rc,
			"engine kvm: this map of guest memory needs more than the %u slots that "
			"KVM has: "
			"use fewer pages of its own, or the rv64 engine",
			vm->max_slots);
	return rc < 0 ? kvm_fail(e, rc, KVM_SET_USER_MEMORY_REGION, "guest memory") : 0;
}

static struct kvm_slot *find(struct kvm_vm *vm, uint64_t addr)
{
	unsigned lo = 0, hi = vm->nslots;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		struct kvm_slot *s = &vm->slots[mid];

		if (addr < s->gpa)
			hi = mid;
		else if (addr - s->gpa >= s->len)
			lo = mid + 1;
		else
			return s;
	}
	return NULL;
}

bool kvm_slots_mapped(struct kvm_vm *vm, uint64_t addr)
{
	bool there;

	pthread_mutex_lock(&vm->lock);
	there = find(vm, addr);
	pthread_mutex_unlock(&vm->lock);
	return there;
}

void *kvm_slots_ptr(struct kvm_vm *vm, uint64_t addr, uint64_t len, enum mem_access acc)
{
	struct kvm_slot *s;
	void *p = NULL;

	pthread_mutex_lock(&vm->lock);
	s = find(vm, addr);
	if (s && (s->perm & acc) == (unsigned)acc && s->len - (addr - s->gpa) >= len)
		p = (char *)s->host + (addr - s->gpa);
	pthread_mutex_unlock(&vm->lock);
	return p;
}

static void invalidate(
	struct space_listener *l, unsigned view_tag, gpa_t a, uint64_t len, unsigned what)
{
	struct kvm_vm *vm = container_of(l, struct kvm_vm, listener);
	struct err e = {0};

	pthread_mutex_lock(&vm->lock);
	if (view_tag == vm->view && what == MEM_WRITE)
		kvm_dirty_rearm(vm, a.v, len);
	else if (view_tag == vm->view && kvm_slots_sync(vm, &e))
		kvm_break(vm, "%s", err_msg(&e));
	pthread_mutex_unlock(&vm->lock);
}

/* The kernel's call does as much as it likes each time and says how far it got; a signal interrupts it. */
static int prefill_kernel(struct kvm_vcpu *c, uint64_t at, uint64_t len)
{
	struct kvm_prefill_arg arg = {.gpa = at, .size = len};

	while (arg.size) {
		int rc = kvm_vcpu_ioctl(c, KVM_PREFILL, KVM_PTR(&arg));

		if (rc < 0 && rc != -EAGAIN)
			return rc;
	}
	return 0;
}

int kvm_prefill(struct vcpu *v, gpa_t a, uint64_t len, struct err *e)
{
	struct kvm_vcpu *c = kvm_vcpu_of(v);
	struct kvm_vm *vm = c->vm;
	uint64_t at = a.v, n;
	int rc = 0;

	if ((a.v | len) & PAGE_MASK || !gpa_range_ok(a, len))
		return err_set(e, -EINVAL, "prefill: whole pages");
	pthread_mutex_lock(&vm->lock);
	for (; !rc && len; at += n, len -= n) {
		struct kvm_slot *s = find(vm, at);

		if (!s || !(s->perm & VIEW_R)) {
			rc = err_set(
				e, -EFAULT, "prefill: no memory at %#llx", (unsigned long long)at);
			break;
		}
		n = MIN(len, s->len - (at - s->gpa));
		rc = kvm_has(&vm->caps, KC_PRE_FAULT) ? prefill_kernel(c, at, n) : -EOPNOTSUPP;
		/* Else the host's own pages; the tables above them then fill at first touch, from memory that is there. */
		if (rc == -EOPNOTSUPP)
			rc = madvise((char *)s->host + (at - s->gpa), n,
				     s->perm & VIEW_W ? MADV_POPULATE_WRITE : MADV_POPULATE_READ)
				     ? -errno
				     : 0;
		if (rc)
			err_sys(e, rc, "prefill at %#llx", (unsigned long long)at);
	}
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

int kvm_view(struct cpu_vm *v, unsigned tag, struct err *e)
{
	struct kvm_vm *vm = kvm_vm_of(v);
	unsigned before = vm->view;
	int rc;

	if (!space_view(vm->o.space, tag))
		return err_set(e, -ENOENT, "view %u does not exist", tag);
	pthread_mutex_lock(&vm->lock);
	vm->view = tag;
	rc = kvm_slots_sync(vm, e);
	if (rc) {
		vm->view = before;
		if (kvm_slots_sync(vm, NULL))
			kvm_break(vm, "neither view %u nor view %u can be mapped", tag, before);
	}
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

int kvm_slots_init(struct kvm_vm *vm, struct err *e)
{
	int rc;

	vm->max_slots = kvm_has(&vm->caps, KC_NR_MEMSLOTS) ? (unsigned)vm->caps.v[KC_NR_MEMSLOTS]
							   : 32;
	pthread_mutex_lock(&vm->lock);
	rc = kvm_slots_sync(vm, e);
	pthread_mutex_unlock(&vm->lock);
	if (rc)
		return rc;
	vm->listener.invalidate = invalidate;
	space_listen(vm->o.space, &vm->listener);
	return 0;
}

void kvm_slots_free(struct kvm_vm *vm)
{
	if (vm->listener.invalidate)
		space_unlisten(vm->o.space, &vm->listener);
	free(vm->slots);
}
