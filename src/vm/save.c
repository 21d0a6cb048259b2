/*
 * save.c: a whole paused machine as one stream.
 *
 *   "LODGEVM\0" | u32 format | u32 0 | u64 n | n bytes described state (base/state.h, with its own digest)
 *   { u64 gpa | u64 len | bytes }...   runs of pages that are not all zero, len at most RUN_MAX
 *   u64 ~0 | u64 0 | SHA-256 over everything before
 *
 * Integers are little-endian. Loading checks shape and digest while it fills RAM, and applies the described state only when all of
 * it is good; a machine into which loading failed must be destroyed.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/space.h"
#include "vm/internal.h"
#include "vm/migrate/migrate.h"

#define FORMAT 1u
#define RUN_MAX (1u << 20)
#define STATE_MAX (64u << 20)
#define DIGEST 32
static const char magic[8] = "LODGEVM";

struct head {
	char magic[8];
	uint32_t format, zero;
	uint64_t state_len;
};

struct run {
	uint64_t gpa, len;
};

static void free_md(EVP_MD_CTX **md)
{
	EVP_MD_CTX_free(*md);
}

struct sink {
	int (*write)(void *ctx, const void *buf, uint64_t len);
	void *ctx;
	EVP_MD_CTX *md;
};

static int put(struct sink *s, const void *buf, uint64_t len)
{
	EVP_DigestUpdate(s->md, buf, len);
	return s->write(s->ctx, buf, len);
}

static bool is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* The next run of non-zero pages at or after `from`, inside one RAM range; len 0: none left. */
static struct run next_run(struct space *s, uint64_t from, uint64_t end, uint8_t *buf)
{
	struct run r = {from, 0};

	for (uint64_t a = from; a < end && r.len < RUN_MAX; a += PAGE_SIZE) {
		uint8_t *page = buf + r.len;

		if (space_read(s, gpa(a), page, PAGE_SIZE) || is_zero(page, PAGE_SIZE)) {
			if (r.len)
				break;
			continue;
		}
		if (!r.len)
			r.gpa = a;
		r.len += PAGE_SIZE;
	}
	return r;
}

static int save_ram(struct vm *vm, struct sink *s, uint8_t *buf)
{
	const struct space_ram *ram;
	struct run last = {UINT64_MAX, 0};
	int rc = 0;

	for (unsigned i = 0; !rc && (ram = space_ram(vm->board->space, i)); i++) {
		uint64_t at = ram->base.v, end = ram->base.v + ram->len;

		while (!rc && at < end) {
			struct run r = next_run(vm->board->space, at, end, buf);

			if (!r.len)
				break;
			rc = put(s, &r, sizeof(r)) ?: put(s, buf, r.len);
			at = r.gpa + r.len;
		}
	}
	return rc ?: put(s, &last, sizeof(last));
}

static int save_quiet(struct vm *vm, struct sink *s, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	cleanup(free_ptr) uint8_t *state = NULL;
	cleanup(free_ptr) uint8_t *buf = malloc(RUN_MAX);
	uint8_t digest[DIGEST];
	struct head h = {.format = FORMAT};
	size_t len;
	unsigned n;
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "save: out of memory");
	rc = board_state(vm->board, &objs, &n);
	if (rc)
		return err_set(e, rc, "save: machine state");
	rc = state_save(objs, n, &state, &len, e);
	if (rc)
		return err_wrap(e, "save");
	memcpy(h.magic, magic, sizeof(magic));
	h.state_len = len;
	rc = put(s, &h, sizeof(h)) ?: put(s, state, len) ?: save_ram(vm, s, buf);
	if (!rc) {
		EVP_DigestFinal_ex(s->md, digest, NULL);
		rc = s->write(s->ctx, digest, sizeof(digest));
	}
	return rc ? err_sys(e, rc, "save: writing the stream") : 0;
}

int vm_save(struct vm *vm, int (*write_fn)(void *ctx, const void *buf, uint64_t len), void *ctx,
	struct err *e)
{
	cleanup(free_md) EVP_MD_CTX *md = EVP_MD_CTX_new();
	struct sink s = {write_fn, ctx, md};
	int rc;

	if (!vm->held)
		return err_set(e, -EBUSY, "save: the machine is running: pause it first");
	if (vm_migrate_whole(vm, false, e))
		return -EBUSY;
	if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
		return err_set(e, -ENOMEM, "save: SHA-256 is not available");
	rc = board_quiesce(vm->board, e);
	if (rc)
		return err_wrap(e, "save");
	rc = save_quiet(vm, &s, e);
	board_resume(vm->board);
	return rc;
}

static int get(EVP_MD_CTX *md, int fd, void *buf, size_t len, struct err *e)
{
	char *p = buf;

	for (size_t left = len; left;) {
		ssize_t n = read(fd, p, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, -errno, "load: reading the stream");
		if (!n)
			return err_set(e, -EBADMSG, "load: the stream ends too early");
		p += n;
		left -= (size_t)n;
	}
	if (md)
		EVP_DigestUpdate(md, buf, len);
	return 0;
}

static int load_head(EVP_MD_CTX *md, int fd, struct head *h, struct err *e)
{
	int rc = get(md, fd, h, sizeof(*h), e);

	if (rc)
		return rc;
	if (memcmp(h->magic, magic, sizeof(magic)))
		return err_set(e, -EBADMSG, "load: not a saved machine");
	if (h->format != FORMAT)
		return err_set(e, -ENOTSUP, "load: stream format %u, this Lodge reads %u",
			h->format, FORMAT);
	if (h->state_len > STATE_MAX)
		return err_set(e, -EBADMSG,
			"load: %llu bytes of state are more than any machine has",
			(unsigned long long)h->state_len);
	return 0;
}

static int load_ram(struct vm *vm, EVP_MD_CTX *md, int fd, uint8_t *buf, struct err *e)
{
	const struct space_ram *ram;

	for (unsigned i = 0; (ram = space_ram(vm->board->space, i)); i++)
		if (space_discard(vm->board->space, ram->base, ram->len))
			return err_set(e, -EIO, "load: cannot clear RAM at %#llx",
				(unsigned long long)ram->base.v);
	for (;;) {
		struct run r;
		int rc = get(md, fd, &r, sizeof(r), e);

		if (rc)
			return rc;
		if (r.gpa == UINT64_MAX && !r.len)
			return 0;
		if (!r.len || r.len > RUN_MAX || (r.len & PAGE_MASK) || (r.gpa & PAGE_MASK))
			return err_set(e, -EBADMSG, "load: bad run of pages at %#llx",
				(unsigned long long)r.gpa);
		rc = get(md, fd, buf, r.len, e);
		if (rc)
			return rc;
		if (space_write(vm->board->space, gpa(r.gpa), buf, r.len))
			return err_set(e, -EBADMSG,
				"load: the stream has memory at %#llx where this machine has none",
				(unsigned long long)r.gpa);
	}
}

static int load_stream(struct vm *vm, EVP_MD_CTX *md, int fd, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	cleanup(free_ptr) uint8_t *state = NULL;
	cleanup(free_ptr) uint8_t *buf = malloc(RUN_MAX);
	uint8_t digest[DIGEST], want[DIGEST];
	struct head h;
	unsigned n;
	int rc = load_head(md, fd, &h, e);

	if (rc)
		return rc;
	state = malloc(h.state_len + 1);
	if (!state || !buf)
		return err_set(e, -ENOMEM, "load: out of memory");
	rc = get(md, fd, state, h.state_len, e) ?: load_ram(vm, md, fd, buf, e);
	if (rc)
		return rc;
	EVP_DigestFinal_ex(md, digest, NULL);
	rc = get(NULL, fd, want, sizeof(want), e);
	if (rc)
		return rc;
	if (memcmp(digest, want, DIGEST))
		return err_set(
			e, -EBADMSG, "load: the digest does not match: the stream is damaged");
	rc = board_state(vm->board, &objs, &n);
	if (rc)
		return err_set(e, rc, "load: machine state");
	return state_load(objs, n, state, h.state_len, e) ? err_wrap(e, "load") : 0;
}

int vm_load(struct vm *vm, int fd, struct err *e)
{
	cleanup(free_md) EVP_MD_CTX *md = EVP_MD_CTX_new();

	if (vm->state != VM_BUILT)
		return err_set(e, -EBUSY, "load: only into a machine that has not run");
	if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
		return err_set(e, -ENOMEM, "load: SHA-256 is not available");
	return load_stream(vm, md, fd, e);
}
