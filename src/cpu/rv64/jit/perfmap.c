/* perfmap.c: perfmap.h says what this is. */
#include "cpu/rv64/jit/perfmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

struct symbol {
	uint64_t va;
	char *name;
};

struct jit_perf {
	int fd;
	struct symbol *sym;
	size_t n, room;
};

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return (x->va > y->va) - (x->va < y->va);
}

static bool add(struct jit_perf *p, uint64_t va, const char *name)
{
	if (p->n == p->room) {
		size_t room = p->room ? 2 * p->room : 4096;
		struct symbol *s = realloc(p->sym, room * sizeof(*s));

		if (!s)
			return false;
		p->sym = s;
		p->room = room;
	}
	p->sym[p->n].name = strdup(name);
	p->sym[p->n].va = va;
	return p->sym[p->n].name && ++p->n;
}

/* Lines of a System.map: address, type, name. */
static int read_symbols(struct jit_perf *p, const char *path, struct err *e)
{
	FILE *f = fopen(path, "re");
	char line[512], name[256], type;
	unsigned long long va;
	int rc = 0;

	if (!f)
		return err_set(e, -errno, "symbols %s: %s", path, strerror(errno));
	while (!rc && fgets(line, sizeof(line), f))
		if (sscanf(line, "%llx %c %255s", &va, &type, name) == 3 && strchr("tTwW", type) &&
			!add(p, va, name))
			rc = err_set(e, -ENOMEM, "symbols %s: out of memory", path);
	fclose(f);
	if (!rc && !p->n)
		rc = err_set(e, -EINVAL,
			"symbols %s: no line is \"ADDRESS TYPE NAME\", as in a System.map or "
			"/proc/kallsyms",
			path);
	if (!rc)
		qsort(p->sym, p->n, sizeof(*p->sym), by_address);
	return rc;
}

int jit_perf_open(struct jit_perf **out, const char *symbols, struct err *e)
{
	struct jit_perf *p = calloc(1, sizeof(*p));
	char path[64];
	int rc = 0;

	if (!p)
		return err_set(e, -ENOMEM, "perf map: out of memory");
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	/* Not through a link that somebody left there. */
	p->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (p->fd < 0)
		rc = err_set(e, -errno, "perf map %s: %s", path, strerror(errno));
	if (!rc && strcmp(symbols, "-"))
		rc = read_symbols(p, symbols, e);
	if (rc) {
		jit_perf_close(p);
		return rc;
	}
	*out = p;
	return 0;
}

void jit_perf_close(struct jit_perf *p)
{
	if (!p)
		return;
	if (p->fd >= 0)
		close(p->fd);
	for (size_t i = 0; i < p->n; i++)
		free(p->sym[i].name);
	free(p->sym);
	free(p);
}

static const struct symbol *find(const struct jit_perf *p, uint64_t va)
{
	size_t lo = 0, hi = p->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (p->sym[mid].va <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* A function of a megabyte is no function: the address belongs to something without symbols. */
	return lo && va - p->sym[lo - 1].va < (1u << 20) ? &p->sym[lo - 1] : NULL;
}

void jit_perf_note(struct jit_perf *p, const void *code, unsigned len, uint64_t va)
{
	const struct symbol *s = find(p, va);

	/* A line that cannot be written is a name that perf does not show: nothing to stop a guest for. */
	if (s)
		(void)!dprintf(p->fd, "%llx %x guest:%s\n", (unsigned long long)(uintptr_t)code,
			len, s->name);
	else
		(void)!dprintf(p->fd, "%llx %x guest:0x%llx\n", (unsigned long long)(uintptr_t)code,
			len, (unsigned long long)(va & ~0xfffull));
}
