#include "vm/exits/trace.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/spell.h"
#include "base/util.h"

#define ENTRIES 16384u /* of a vCPU */
#define ANSWER 4096u /* entries in one answer, which must fit a connection's queue */

struct entry {
	uint64_t time_ns, raw, pc, gva, gpa, count;
	struct cpu_code code;
	uint8_t type;
	bool given;
};

struct buffer {
	pthread_mutex_t lock;
	struct entry *ring; /* NULL: off */
	unsigned first, n;
	uint64_t lost;
};

struct trace {
	_Atomic uint64_t on; /* types that are wanted; bit CPU_TYPE_*; 0: off */
	unsigned nvcpus;
	struct buffer vcpu[];
};

int trace_create(struct trace **out, unsigned vcpus, struct err *e)
{
	struct trace *t = calloc(1, sizeof(*t) + vcpus * sizeof(t->vcpu[0]));

	if (!t)
		return err_set(e, -ENOMEM, "trace: out of memory");
	t->nvcpus = vcpus;
	for (unsigned i = 0; i < vcpus; i++)
		pthread_mutex_init(&t->vcpu[i].lock, NULL);
	*out = t;
	return 0;
}

void trace_destroy(struct trace *t)
{
	if (!t)
		return;
	trace_stop(t);
	for (unsigned i = 0; i < t->nvcpus; i++)
		pthread_mutex_destroy(&t->vcpu[i].lock);
	free(t);
}

_Static_assert(CPU_TYPES <= 64, "a bit each");

bool trace_on(const struct trace *t)
{
	return atomic_load_explicit(&t->on, memory_order_relaxed);
}

int trace_types(const char *list, uint64_t *types, struct err *e)
{
	struct spell near = {0};

	*types = 0;
	for (const char *p = list; *p;) {
		size_t len = strcspn(p, ",");
		char word[32];
		unsigned i = 0;

		snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word) - 1), p);
		while (i < CPU_TYPES && strcmp(word, cpu_type_name(i)))
			spell_offer(&near, word, cpu_type_name(i++));
		if (i == CPU_TYPES)
			return err_set(e, -EINVAL, "no type of exits is called \"%s\"%s%s%s", word,
				near.best ? ": did you mean " : "", near.best ?: "",
				near.best ? "?" : "");
		*types |= 1ull << i;
		p += len + (p[len] == ',');
	}
	if (!*types)
		*types = ~0ull;
	return 0;
}

static bool wanted(const struct trace *t, enum cpu_type type)
{
	return atomic_load_explicit(&t->on, memory_order_relaxed) >> type & 1;
}

static void add(struct trace *t, unsigned vcpu, const struct entry *en)
{
	struct buffer *b = &t->vcpu[vcpu];

	pthread_mutex_lock(&b->lock);
	if (b->ring && b->n < ENTRIES)
		b->ring[(b->first + b->n++) % ENTRIES] = *en;
	else
		b->lost += b->ring != NULL;
	pthread_mutex_unlock(&b->lock);
}

static uint64_t gpa_of(const struct cpu_exit *x)
{
	switch (x->reason) {
	case CPU_EXIT_MMIO:
	case CPU_EXIT_PIO:
		return x->mmio.gpa.v;
	case CPU_EXIT_VIEW_FAULT:
		return x->fault.gpa.v;
	default:
		return 0;
	}
}

void trace_exit(struct trace *t, unsigned vcpu, const struct cpu_exit *x)
{
	struct entry en = {clock_mono_ns(), x->raw, x->pc, x->gva, gpa_of(x), 1, x->code,
		(uint8_t)x->type, false};

	if (wanted(t, x->type))
		add(t, vcpu, &en);
}

void trace_note(struct trace *t, unsigned vcpu, const struct cpu_note *n)
{
	struct entry en = {
		n->time_ns, n->raw, n->pc, n->gva, 0, n->count, n->code, (uint8_t)n->type, true};

	if (wanted(t, n->type))
		add(t, vcpu, &en);
}

int trace_start(struct trace *t, uint64_t types, struct err *e)
{
	trace_stop(t);
	for (unsigned i = 0; i < t->nvcpus; i++) {
		struct buffer *b = &t->vcpu[i];
		struct entry *ring = malloc(ENTRIES * sizeof(*ring));

		if (!ring) {
			trace_stop(t);
			return err_set(e, -ENOMEM, "trace: out of memory");
		}
		pthread_mutex_lock(&b->lock);
		b->ring = ring;
		b->first = b->n = 0;
		b->lost = 0;
		pthread_mutex_unlock(&b->lock);
	}
	t->on = types;
	return 0;
}

void trace_stop(struct trace *t)
{
	t->on = 0;
	for (unsigned i = 0; i < t->nvcpus; i++) {
		struct buffer *b = &t->vcpu[i];

		pthread_mutex_lock(&b->lock);
		free(b->ring);
		b->ring = NULL;
		pthread_mutex_unlock(&b->lock);
	}
}

static json_t *hex(uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)v);
	return json_string(text);
}

static json_t *entry_json(unsigned vcpu, const struct entry *en)
{
	char text[CPU_CODE_TEXT];
	json_t *j = json_pack("{s:I, s:i, s:b, s:i, s:i, s:i, s:s, s:s, s:I}", "time_ns",
		(json_int_t)en->time_ns, "vcpu", (int)vcpu, "given", en->given, "basic",
		(int)en->code.basic, "vector", (int)en->code.vector, "error", (int)en->code.error,
		"code", cpu_code_text(text, &en->code), "type",
		cpu_type_name((enum cpu_type)en->type), "count", (json_int_t)en->count);

	json_object_set_new(j, "raw", hex(en->raw));
	json_object_set_new(j, "qualification", hex(en->code.qual));
	json_object_set_new(j, "pc", hex(en->pc));
	json_object_set_new(j, "address", hex(en->gva));
	json_object_set_new(j, "physical", hex(en->gpa));
	return j;
}

json_t *trace_take(struct trace *t)
{
	json_t *list = json_array();
	unsigned room = ANSWER;
	bool more = false;
	uint64_t lost = 0;

	for (unsigned i = 0; i < t->nvcpus; i++) {
		struct buffer *b = &t->vcpu[i];
		struct entry en;

		/* One at a time: a worker never waits for more than a copy. */
		for (;;) {
			pthread_mutex_lock(&b->lock);
			more |= b->ring && b->n && !room;
			if (!b->ring || !b->n || !room)
				break;
			en = b->ring[b->first];
			b->first = (b->first + 1) % ENTRIES;
			b->n--;
			pthread_mutex_unlock(&b->lock);
			room--;
			json_array_append_new(list, entry_json(i, &en));
		}
		lost += b->lost;
		b->lost = 0;
		pthread_mutex_unlock(&b->lock);
	}
	return json_pack("{s:o, s:I, s:b}", "exits", list, "lost", (json_int_t)lost, "more", more);
}
